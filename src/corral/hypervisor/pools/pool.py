"""One storage pool of ours: a directory, its definition, whether it is active, and the volumes found in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from corral.constants import ErrorDomain, StoragePoolState, StorageVolType
from corral.errors import CorralError, OperationInvalid, OperationTimeout

if TYPE_CHECKING:
    from corral.model.storage import Permissions
    from corral.model.storage import Pool as PoolDocument
    from corral.model.units import ScaledSize
    from corral.storage.files import File, Space

T = TypeVar("T")

#: Seconds that looking at a directory may take; a network file system that is away takes for ever.
LOOK_PATIENCE = 30.0

VOLUME_TYPES = {"file": StorageVolType.FILE, "block": StorageVolType.BLOCK, "dir": StorageVolType.DIR}


class NotNow(OperationInvalid):
    """The pool or the volume is not in a state for it."""

    domain = ErrorDomain.STORAGE


class Threads:
    """The threads in which storage waits for disks, apart from those of everything else."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(8, thread_name_prefix="storage")

    async def run(self, work: Callable[..., T], *args: object, patience: float | None = None) -> T:
        """Run `work` in one of them; OperationTimeout when it takes longer than `patience` (it goes on, unheard)."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience):
                return await loop.run_in_executor(self._executor, work, *args)
        except CorralError as error:
            error.domain = ErrorDomain.STORAGE
            raise
        except TimeoutError as error:
            raise OperationTimeout(
                f"the storage did not answer within {patience:g} s", domain=ErrorDomain.STORAGE
            ) from error

    def close(self) -> None:
        """Begin nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Volume:
    """One volume; `building` while it is made, `uses` counts copies and transfers under way."""

    __slots__ = ("building", "file", "pool", "uses")

    def __init__(self, pool: Pool, file: File, *, building: bool = False) -> None:
        self.pool = pool
        self.file = file
        self.building = building
        self.uses = 0

    @property
    def name(self) -> str:
        """Unique in its pool."""
        return self.file.name

    @property
    def key(self) -> str:
        """Unique on the host: the path."""
        return str(self.file.path)

    @property
    def type(self) -> int:
        """A virStorageVolType."""
        return VOLUME_TYPES[self.file.kind]

    def check_idle(self) -> None:
        """NotNow while it is made or transferred."""
        if self.building:
            raise NotNow(f"volume '{self.name}' is still being allocated.")
        if self.uses:
            raise NotNow(f"volume '{self.name}' is still in use.")

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Count the block as a use of the volume and of its pool."""
        self.uses += 1
        try:
            with self.pool.working():
                yield
        finally:
            self.uses -= 1

    def xml(self) -> str:
        """The volume's document as it was last looked at."""
        from corral.model import storage as model
        from corral.model.units import ScaledSize

        file = self.file
        target = model.VolumeTarget(
            path=str(file.path),
            format=model.VolumeFormat(type=file.format),
            permissions=_permissions(file.mode, file.owner, file.group),
            timestamps=model.Timestamps(
                atime=_time(file.times[0]), mtime=_time(file.times[1]), ctime=_time(file.times[2])
            ),
            compat=file.compat,
            cluster_size=ScaledSize(value=file.cluster_size, unit="B") if file.cluster_size else None,
            features=model.VolumeFeatures(lazy_refcounts=file.lazy_refcounts, extended_l2=file.extended_l2)
            if file.lazy_refcounts or file.extended_l2
            else None,
        )
        backing = None
        if file.backing is not None and file.backing_format is not None:
            backing = model.VolumeBacking(path=str(file.backing), format=model.VolumeFormat(type=file.backing_format))
        return model.Volume(
            type=file.kind,
            name=file.name,
            key=self.key,
            capacity=_size(file.capacity),
            allocation=_size(file.allocation),
            physical=_size(file.physical),
            target=target,
            backing_store=backing,
        ).to_xml()


class Pool:
    """One pool; `config` is its definition, `live` what it was started with, both None when they do not exist."""

    def __init__(self, uuid: UUID, name: str, threads: Threads) -> None:
        self.uuid = uuid
        self.name = name
        self.threads = threads
        self.config: PoolDocument | None = None
        self.live: PoolDocument | None = None
        self.autostart = False
        self.boot = ""
        self.volumes: dict[str, Volume] = {}
        self.space: Space | None = None
        self.jobs = 0
        #: Held while the pool itself changes: started, stopped, built, refreshed, deleted.
        self.changing = asyncio.Lock()
        self._permissions: tuple[int, int, int] | None = None

    @property
    def active(self) -> bool:
        """Whether it is started."""
        return self.live is not None

    @property
    def persistent(self) -> bool:
        """Whether it is defined."""
        return self.config is not None

    @property
    def document(self) -> PoolDocument:
        """The document in force."""
        document = self.live or self.config
        if document is None:
            raise NotNow(f"storage pool '{self.name}' is gone")
        return document

    @property
    def directory(self) -> Path:
        """Where the volumes are."""
        return target_of(self.document)

    @property
    def state(self) -> int:
        """A virStoragePoolState."""
        return StoragePoolState.RUNNING if self.active else StoragePoolState.INACTIVE

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as work of the pool, which then cannot be stopped."""
        self.jobs += 1
        try:
            yield
        finally:
            self.jobs -= 1

    def check_active(self) -> None:
        """NotNow when it is not started."""
        if not self.active:
            raise NotNow(f"storage pool '{self.name}' is not active")

    def check_inactive(self) -> None:
        """NotNow when it is started."""
        if self.active:
            raise NotNow(f"storage pool '{self.name}' is still active")

    def check_idle(self) -> None:
        """NotNow while volumes are made or transferred."""
        if self.jobs:
            raise NotNow(f"pool '{self.name}' has asynchronous jobs running.")

    def sizes(self) -> tuple[int, int, int]:
        """Capacity, allocation and what is available, in bytes; nothing while it is not started."""
        if not self.active or self.space is None:
            return 0, 0, 0
        return self.space.capacity, self.space.allocation, self.space.available

    async def look(self) -> None:
        """Find the volumes anew; HostError when the directory cannot be read, and nothing changed then."""
        files, self.space, self._permissions = await self.threads.run(_look, self.directory, patience=LOOK_PATIENCE)
        found = {file.name: file for file in files}
        kept = {
            name: volume for name, volume in self.volumes.items() if volume.building or volume.uses or name in found
        }
        for name, file in found.items():
            if name not in kept:
                kept[name] = Volume(self, file)
            elif not kept[name].building:
                kept[name].file = file
        self.volumes = kept

    async def look_at_space(self) -> None:
        """Ask the file system again what is free."""
        from corral.storage import files

        self.space = await self.threads.run(files.space, self.directory, patience=LOOK_PATIENCE)

    def forget(self) -> None:
        """It was stopped: nothing is known of its volumes."""
        self.volumes = {}
        self.space = None
        self._permissions = None

    def xml(self, *, inactive: bool = False) -> str:
        """The pool's document, with its sizes."""
        document = (self.config if inactive and self.config is not None else self.document).copy()
        capacity, allocation, available = self.sizes()
        document.capacity, document.allocation, document.available = (
            _size(capacity),
            _size(allocation),
            _size(available),
        )
        if self._permissions is not None and document.target is not None:
            document.target.permissions = _permissions(*self._permissions)
        return document.to_xml()


def target_of(document: PoolDocument) -> Path:
    """The directory that a checked document names."""
    assert document.target is not None
    assert document.target.path is not None
    return Path(document.target.path)


def _look(directory: Path) -> tuple[list[File], Space, tuple[int, int, int]]:
    from corral.storage import files

    found, space = files.scan(directory), files.space(directory)
    facts = directory.stat()
    return found, space, (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid)


def _permissions(mode: int, owner: int, group: int) -> Permissions:
    from corral.model import storage as model

    return model.Permissions(mode=f"{mode:04o}", owner=owner, group=group)


def _size(number: int) -> ScaledSize:
    from corral.model.units import ScaledSize

    return ScaledSize(value=number, unit="bytes")


def _time(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
