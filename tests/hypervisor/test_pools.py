"""Pools with a real store and no QEMU: their life, what survives the daemon, and what is never half made."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from corral.constants import StoragePoolCreateFlags, StoragePoolEventLifecycleType, StorageVolResizeFlags
from corral.errors import (
    HostError,
    InternalError,
    NoStoragePool,
    OperationFailed,
    OperationInvalid,
    ResourceBusy,
    StorageVolumeExists,
    XMLError,
)
from corral.hypervisor.disks.images import Images
from corral.hypervisor.pools import pool_rows, volume_stream, volumes
from corral.hypervisor.pools.pool import Pool
from corral.hypervisor.pools.pools import PoolEvent, Pools
from corral.hypervisor.store import Store
from corral.storage import qemu_img, writing

MIB = 1 << 20


class Host:
    """As much of a hypervisor as pools need."""

    def __init__(self, store: Store, boot: str) -> None:
        self.store = store
        self.boot = boot
        self.images = Images()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.ensure_future(work)

    async def complete(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.shield(self.spawn(work))


@contextlib.asynccontextmanager
async def opened(directory: Path, boot: str = "one") -> AsyncIterator[Pools]:
    store = await Store.open(directory / "store")
    pools = Pools(Host(store, boot))  # type: ignore[arg-type]
    try:
        await pools.open()
        yield pools
    finally:
        pools.close()
        await store.close()


def document(name: str, path: Path, uuid: str = "") -> str:
    return f"<pool type='dir'><name>{name}</name>{uuid}<target><path>{path}</path></target></pool>"


def volume(name: str, size: int = MIB, rest: str = "<allocation>0</allocation>") -> str:
    return f"<volume><name>{name}</name><capacity>{size}</capacity>{rest}</volume>"


async def started(pools: Pools, path: Path, name: str = "p") -> Pool:
    pool = await pools.define(document(name, path))
    await pools.start(pool, StoragePoolCreateFlags.WITH_BUILD)
    return pool


async def test_a_life(tmp_path: Path) -> None:
    told: list[PoolEvent] = []
    async with opened(tmp_path) as pools:
        pools.events.subscribe(told.append)
        pool = await pools.define(document("p", tmp_path / "a" / "b"))
        with pytest.raises(HostError, match="cannot open directory"):
            await pools.start(pool)
        assert not pool.active
        await pools.build(pool, 0)
        await pools.start(pool)
        (tmp_path / "a" / "b" / "found").write_bytes(bytes(100))
        assert not pool.volumes
        await pools.refresh(pool)
        assert list(pool.volumes) == ["found"]
        with pytest.raises(OperationInvalid, match="storage pool 'p' is still active"):
            await pools.undefine(pool)
        await pools.destroy(pool)
        await pools.undefine(pool)
        with pytest.raises(NoStoragePool):
            pools.lookup_by_name("p")
    kind = StoragePoolEventLifecycleType
    expected = [kind.DEFINED, kind.CREATED, kind.STARTED, None, kind.STOPPED, kind.UNDEFINED]
    assert [event.lifecycle for event in told] == expected


async def test_names_uuids_and_directories_are_unique(tmp_path: Path) -> None:
    async with opened(tmp_path) as pools:
        pool = await pools.define(document("p", tmp_path / "a"))
        with pytest.raises(OperationFailed, match=f"pool 'p' already exists with uuid {pool.uuid}"):
            await pools.define(document("p", tmp_path / "b"))
        with pytest.raises(OperationFailed, match="pool 'p' is already defined with uuid"):
            await pools.define(document("q", tmp_path / "b", f"<uuid>{pool.uuid}</uuid>"))
        with pytest.raises(OperationFailed, match="Storage source conflict with pool: 'p'"):
            await pools.define(document("q", tmp_path / "x" / ".." / "a" / ""))
        await pools.define(document("p", tmp_path / "c", f"<uuid>{pool.uuid}</uuid>"))
        assert str(tmp_path / "c") in pool.xml()
        assert pools.all() == [pool]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("<pool type='dir'><target><path>/x</path></target></pool>", XMLError, "missing pool source name"),
        (document("a/b", Path("/x")), XMLError, "cannot contain '/'"),
        ("<pool type='dir'><name>a</name></pool>", XMLError, "missing storage pool target path"),
        (document("a", Path("relative")), XMLError, "is not absolute"),
        ("<pool type='logical'><name>a</name><source><device/></source></pool>", InternalError, "missing backend"),
        ("<pool type='dir'><name>a</name><frob/></pool>", XMLError, "unknown element <frob>"),
    ],
)
async def test_bad_documents_change_nothing(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    async with opened(tmp_path) as pools:
        with pytest.raises(error, match=words):
            await pools.define(text)
        assert not pools.all()


async def test_what_survives(tmp_path: Path) -> None:
    async with opened(tmp_path) as pools:
        kept = await started(pools, tmp_path / "kept", "kept")
        await pools.set_autostart(kept, True)
        await pools.create_xml(document("passing", tmp_path / "t"), StoragePoolCreateFlags.WITH_BUILD)
        off = await pools.define(document("off", tmp_path / "o"))
        with pytest.raises(InternalError, match="pool has no config file"):
            await pools.set_autostart(pools.lookup_by_name("passing"), True)
        uuid = off.uuid
    async with opened(tmp_path) as pools:  # the daemon came back
        assert [(pool.name, pool.active, pool.persistent) for pool in pools.all()] == [
            ("kept", True, True),
            ("off", False, True),
            ("passing", True, False),
        ]
        assert pools.lookup_by_name("off").uuid == uuid
    async with opened(tmp_path, boot="two") as pools:  # the host came back
        assert [(pool.name, pool.active) for pool in pools.all()] == [("kept", False), ("off", False)]
        await pools.autostart()
        assert [pool.active for pool in pools.all()] == [True, False]
        (tmp_path / "kept").rmdir()
    async with opened(tmp_path, boot="two") as pools:  # and the directory did not
        assert [(pool.name, pool.active) for pool in pools.all()] == [("kept", False), ("off", False)]


async def test_half_made_files_go_and_others_stay(tmp_path: Path) -> None:
    async with opened(tmp_path) as pools:
        pool = await started(pools, tmp_path / "p")
        made = await volumes.create(pools, pool, volume("whole"), 0)
        for name in ("half", "another"):
            path = tmp_path / "p" / name
            device, inode = writing.make_file(path, writing.Owner())
            await pool_rows.begin_making(pools.hypervisor.store, pool_rows.Making(path, device, inode))
        (tmp_path / "p" / "another").rename(tmp_path / "p" / "old")
        (tmp_path / "p" / "another").write_text("somebody else's")
    async with opened(tmp_path) as pools:
        names = list(pools.lookup_by_name("p").volumes)
    assert names == ["another", "old", made.name]


@pytest.fixture
def files_up_to_a_tebibyte() -> Iterator[None]:
    """A limit of the process: a tmpfs takes every size that a number can say."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("files_up_to_a_tebibyte")
async def test_a_volume_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as pools:
        pool = await started(pools, tmp_path / "p")
        for text, words in (
            (volume("v", 2**62), "cannot extend file"),
            (
                volume("v", MIB, "<target><format type='qcow2'/></target><backingStore><path>/x</path></backingStore>"),
                "/x",
            ),
            (volume("v", MIB, "<target><format type='frob'/></target>"), "unknown volume format type frob"),
            (volume(".."), "is not the name of a file"),
        ):
            with pytest.raises(Exception, match=words):
                await volumes.create(pools, pool, text, 0)
        monkeypatch.setattr(qemu_img, "FORMATS", ("qcow2",))
        monkeypatch.setattr("shutil.which", lambda name: "/bin/false")
        with pytest.raises(InternalError, match="qemu-img create failed: exit status 1"):
            await volumes.create(pools, pool, volume("v", MIB, "<target><format type='qcow2'/></target>"), 0)
        assert not list((tmp_path / "p").iterdir())
        assert not pool.volumes
        assert not (await pool_rows.load(pools.hypervisor.store))[1]


async def test_existing_files_are_never_taken(tmp_path: Path) -> None:
    async with opened(tmp_path) as pools:
        pool = await started(pools, tmp_path / "p")
        (tmp_path / "p" / "v").write_text("precious")
        with pytest.raises(StorageVolumeExists):  # it came after the last look
            await volumes.create(pools, pool, volume("v"), 0)
        assert (tmp_path / "p" / "v").read_text() == "precious"


async def test_what_a_domain_has_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as pools:
        pool = await started(pools, tmp_path / "p")
        one = await volumes.create(pools, pool, volume("v"), 0)
        domain = uuid4()
        images = pools.hypervisor.images
        images.claim(domain, "web", {str(one.file.path): (True, False)})
        for change in (
            volumes.delete(pools, one),
            volumes.wipe(pools, one),
            volumes.resize(pools, one, 2 * MIB, 0),
            volumes.create_from(pools, pool, volume("copy"), one, 0),
            volume_stream.upload(pools, one, 0, 0),
        ):
            with pytest.raises(OperationInvalid, match="volume 'v' is still in use by running domain 'web'"):
                await change
        images.release(domain)
        stream = await volume_stream.upload(pools, one, 0, 0)
        with pytest.raises(ResourceBusy, match="is in use by volume being uploaded 'v'"):
            images.claim(domain, "web", {str(one.file.path): (True, False)})
        with pytest.raises(OperationInvalid, match="volume 'v' is still in use"):
            await volumes.delete(pools, one)
        with pytest.raises(OperationInvalid, match="pool 'p' has asynchronous jobs running"):
            await pools.destroy(pool)
        await stream.finish()
        await volumes.delete(pools, one)
        assert not list((tmp_path / "p").iterdir())


async def test_transfers(tmp_path: Path) -> None:
    async with opened(tmp_path) as pools:
        pool = await started(pools, tmp_path / "p")
        one = await volumes.create(pools, pool, volume("v", 3 * MIB), 0)
        up = await volume_stream.upload(pools, one, 10, 0)
        await up.write(b"start")
        await up.skip(2 * MIB)
        await up.write(b"end")
        await up.finish()
        content = one.file.path.read_bytes()
        assert content[10:15] == b"start"
        assert content[15 + 2 * MIB : 18 + 2 * MIB] == b"end"
        assert len(content) == 3 * MIB
        down = await volume_stream.download(pools, one, 10, 0, sparse=True)
        pieces = []
        while piece := await down.section(1 << 16):
            pieces.append(bytes(piece) if isinstance(piece, int) else piece)
        assert b"".join(pieces) == content[10:]
        assert any(isinstance(piece, bytes) and len(piece) > MIB for piece in pieces), "holes came as holes"
        assert not one.uses, "whoever has read to the end is done"
        limited = await volume_stream.upload(pools, one, 0, 4)
        with pytest.raises(HostError, match="No space left"):
            await limited.write(b"123456")
        limited.close()
        assert one.file.path.read_bytes()[:6] == b"1234\0\0"


async def test_resizing(tmp_path: Path) -> None:
    flags = StorageVolResizeFlags
    async with opened(tmp_path) as pools:
        pool = await started(pools, tmp_path / "p")
        one = await volumes.create(pools, pool, volume("v", 2 * MIB), 0)
        with pytest.raises(Exception, match="Can't shrink capacity below current capacity"):
            await volumes.resize(pools, one, MIB, 0)
        for size, how, result in (
            (MIB, flags.SHRINK, MIB),
            (MIB, flags.DELTA, 2 * MIB),
            (MIB, flags.DELTA | flags.SHRINK, MIB),
            (4 * MIB, flags.ALLOCATE, 4 * MIB),
        ):
            await volumes.resize(pools, one, size, how)
            assert (one.file.capacity, one.file.path.stat().st_size) == (result, result)
        assert one.file.allocation >= 4 * MIB
