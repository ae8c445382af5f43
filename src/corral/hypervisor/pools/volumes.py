"""What is done to volumes: made, copied, resized, wiped, removed, looked at.

A new volume is listed only when it is complete; until then the store knows the file, so that a daemon that is killed
leaves nothing half made. What a running domain has open is not changed under it: its images are asked for, and QEMU's
own locks, which tell of machines that are not ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from corral.constants import (
    ErrorDomain,
    StorageVolCreateFlags,
    StorageVolResizeFlags,
    StorageVolWipeAlgorithm,
)
from corral.errors import (
    ArgumentUnsupported,
    ConfigUnsupported,
    HostError,
    InvalidArgument,
    NoSupport,
    OperationFailed,
    OperationInvalid,
    StorageVolumeExists,
    XMLError,
)
from corral.hypervisor.pools import pool_rows
from corral.hypervisor.pools.pool import LOOK_PATIENCE, Pool, Volume
from corral.hypervisor.pools.pool_directory import owner_of

if TYPE_CHECKING:
    from corral.hypervisor.pools.pools import Pools
    from corral.model.storage import Volume as VolumeDocument
    from corral.storage.files import File
    from corral.storage.qemu_img import Options
    from corral.storage.writing import Owner

T = TypeVar("T")

_Create = StorageVolCreateFlags
_Resize = StorageVolResizeFlags

#: libvirt's words for virStorageVolWipeAlgorithm, for its error text.
ALGORITHMS = ("zero", "nnsa", "dod", "bsi", "gutmann", "schneier", "pfitzner7", "pfitzner33", "random", "trim")


async def look(pools: Pools, volume: Volume) -> None:
    """Look at the file again."""
    from corral.storage import files

    if volume.building:
        return
    file = await pools.threads.run(files.look, volume.file.path, patience=LOOK_PATIENCE)
    if file is None:
        raise HostError(f"'{volume.file.path}' is no longer a file, a directory or a block device")
    volume.file = file


async def create(pools: Pools, pool: Pool, xml: str, flags: int) -> Volume:
    """Make a volume (virStorageVolCreateFlags PREALLOC_METADATA, VALIDATE)."""
    pool.check_active()
    document = await asyncio.to_thread(_parse, xml, bool(flags & _Create.VALIDATE))
    if document.capacity is None and document.backing_store is None:
        raise XMLError("missing capacity element", domain=ErrorDomain.STORAGE)
    return await pools.hypervisor.complete(_create(pools, pool, document, flags))


async def create_from(pools: Pools, pool: Pool, xml: str, source: Volume, flags: int) -> Volume:
    """Make a volume with the contents of another (virStorageVolCreateFlags PREALLOC_METADATA, REFLINK, VALIDATE)."""
    pool.check_active()
    document = await asyncio.to_thread(_parse, xml, bool(flags & _Create.VALIDATE))
    if source.building:
        raise OperationInvalid(f"volume '{source.name}' is still being allocated.", domain=ErrorDomain.STORAGE)
    if source.file.kind == "dir":
        raise InvalidArgument(f"volume '{source.name}' is a directory and cannot be copied", domain=ErrorDomain.STORAGE)
    return await pools.hypervisor.complete(_create(pools, pool, document, flags, source))


async def _create(
    pools: Pools, pool: Pool, document: VolumeDocument, flags: int, source: Volume | None = None
) -> Volume:
    name = _checked_name(document)
    async with pool.changing:  # not while the pool is stopped or looked at
        pool.check_active()
        if name in pool.volumes:
            raise StorageVolumeExists(f"storage volume '{name}' exists already")
        volume = Volume(pool, _placeholder(pool.directory / name), building=True)
        pool.volumes[name] = volume
    try:
        with volume.used(), source.used() if source is not None else contextlib.nullcontext():
            await _build(pools, volume.file.path, document, flags, source)
            volume.building = False
            await look(pools, volume)
            await pool.look_at_space()
    except BaseException:
        if pool.volumes.get(name) is volume:
            del pool.volumes[name]
        raise
    return volume


async def _build(pools: Pools, path: Path, document: VolumeDocument, flags: int, source: Volume | None) -> None:
    from corral.storage import writing

    target = document.target
    permissions = target.permissions if target else None
    format = (target.format.type if target and target.format else None) or "raw"
    if format == "dir":
        if source is not None:
            raise InvalidArgument("a volume cannot be copied to a directory", domain=ErrorDomain.STORAGE)
        await pools.threads.run(writing.make_directory, path, owner_of(permissions, 0o700))
        return
    contents = await _contents(pools, path, format, document, flags, source)
    async with _making(pools, path, owner_of(permissions, 0o600)):
        if target is not None and target.nocow:
            await pools.threads.run(writing.no_copy_on_write, path)
        await contents()


@contextlib.asynccontextmanager
async def _making(pools: Pools, path: Path, owner: Owner) -> AsyncIterator[None]:
    """An empty file at `path` for the block to fill; if that fails, or the daemon ends in it, the file is removed."""
    from corral.storage import writing

    device, inode = await pools.threads.run(writing.make_file, path, owner)
    try:
        await pool_rows.begin_making(pools.hypervisor.store, pool_rows.Making(path, device, inode))
        yield
        await pool_rows.end_making(pools.hypervisor.store, path)
    except BaseException:
        await pools.threads.run(writing.remove_unfinished, path, device, inode)
        with contextlib.suppress(HostError):
            await pool_rows.end_making(pools.hypervisor.store, path)
        raise


async def _contents(
    pools: Pools, path: Path, format: str, document: VolumeDocument, flags: int, source: Volume | None
) -> Callable[[], Awaitable[None]]:
    """What fills the new file, everything checked that can be checked before there is one."""
    from corral.storage import qemu_img

    if format not in ("raw", "iso", *qemu_img.FORMATS):
        raise ConfigUnsupported(f"unknown volume format type {format}", domain=ErrorDomain.STORAGE)
    capacity = _bytes(document.capacity) if document.capacity is not None else None
    allocation = _bytes(document.allocation) if document.allocation is not None else None
    if source is not None:
        capacity = max(capacity or 0, source.file.capacity)
    if format in ("raw", "iso"):
        if document.backing_store is not None:
            raise NoSupport("backing storage not supported for raw volumes", domain=ErrorDomain.STORAGE)
        if flags & _Create.PREALLOC_METADATA:
            text = "metadata preallocation is not supported for raw volumes"
            raise ConfigUnsupported(text, domain=ErrorDomain.STORAGE)
        if capacity is None:
            raise XMLError("missing capacity element", domain=ErrorDomain.STORAGE)
        if source is None or source.file.format in ("raw", "iso"):
            if allocation is None:  # libvirt's rule: a new file is there in full, a copy has its holes
                allocation = capacity if source is None else 0
            return _raw(pools, path, capacity, allocation, source, flags)
    elif source is None:
        options = await _options(pools, path, format, document, capacity, allocation, flags)
        return lambda: qemu_img.create(path, capacity, options)
    assert source is not None
    if flags & _Create.REFLINK:
        if format != source.file.format or document.backing_store is not None:
            raise ConfigUnsupported("only a copy in the same format can share blocks", domain=ErrorDomain.STORAGE)
        return _raw(pools, path, 0, 0, source, flags)
    options = await _options(pools, path, format, document, capacity, allocation, flags)
    return _converted(pools, path, options, source, capacity)


def _raw(
    pools: Pools, path: Path, capacity: int, allocation: int, source: Volume | None, flags: int
) -> Callable[[], Awaitable[None]]:
    from corral.storage import writing

    async def fill() -> None:
        if source is None:
            await pools.threads.run(writing.size_raw, path, capacity, allocation)
            return
        async with held(pools, source, writes=False, what="copied volume"):
            if flags & _Create.REFLINK:
                await pools.threads.run(writing.clone, source.file.path, path)
            else:
                await _stoppable(pools, writing.copy_raw, source.file.path, path)
        size = await pools.threads.run(os.path.getsize, path)
        if capacity > size or allocation >= capacity > 0:
            await pools.threads.run(writing.size_raw, path, capacity, allocation if allocation >= capacity else 0)

    return fill


def _converted(
    pools: Pools, path: Path, options: Options, source: Volume, capacity: int | None
) -> Callable[[], Awaitable[None]]:
    from corral.storage import qemu_img

    async def fill() -> None:
        file = source.file
        format = "raw" if file.format == "iso" else file.format
        async with held(pools, source, writes=False, what="copied volume"):
            await qemu_img.convert(file.path, format, path, options, file.capacity)
        if capacity is not None and capacity > file.capacity:
            await qemu_img.resize(path, options.format, capacity, shrink=False, allocate=False)

    return fill


async def _options(
    pools: Pools,
    path: Path,
    format: str,
    document: VolumeDocument,
    capacity: int | None,
    allocation: int | None,
    flags: int,
) -> Options:
    """qemu-img's options for a document; the backing image must be there."""
    from corral.storage.qemu_img import Options

    target, below = document.target, document.backing_store
    features = target.features if target else None
    if format != "qcow2" and (
        features or below or flags & _Create.PREALLOC_METADATA or (target and (target.compat or target.cluster_size))
    ):
        text = f"volumes of format {format} have no backing image, features or preallocation"
        raise ConfigUnsupported(text, domain=ErrorDomain.STORAGE)
    preallocation = "metadata" if flags & _Create.PREALLOC_METADATA else None
    if format == "qcow2" and below is None and allocation is not None and capacity and allocation >= capacity:
        preallocation = "falloc"
    backing = None
    if below is not None:
        if not below.path:
            raise XMLError("missing backing store path", domain=ErrorDomain.STORAGE)
        backing = path.parent / below.path
        try:
            await pools.threads.run(_readable, backing, patience=LOOK_PATIENCE)
        except HostError as error:
            reason = error.detail.rpartition(": ")[2]
            text = f"inaccessible backing store volume {backing}: {reason}"
            raise HostError(text, domain=ErrorDomain.STORAGE) from error
    return Options(
        format=format,
        compat=target.compat if target else None,
        cluster_size=_bytes(target.cluster_size) if target and target.cluster_size else None,
        lazy_refcounts=bool(features and features.lazy_refcounts),
        extended_l2=bool(features and features.extended_l2),
        preallocation=preallocation,
        backing=backing,
        backing_format=(below.format.type if below.format else "raw") if below is not None else None,
    )


async def delete(pools: Pools, volume: Volume) -> None:
    """Remove the volume's file, or its empty directory."""
    await pools.hypervisor.complete(_delete(pools, volume))


async def _delete(pools: Pools, volume: Volume) -> None:
    from corral.storage import writing

    volume.check_idle()
    file, pool = volume.file, volume.pool
    async with held(pools, volume, writes=True, what="volume being removed"):
        with volume.used():
            await pools.threads.run(
                lambda: writing.remove(file.path, directory=file.kind == "dir"), patience=LOOK_PATIENCE
            )
            if pool.volumes.get(volume.name) is volume:
                del pool.volumes[volume.name]
    if pool.active:
        await pool.look_at_space()


async def resize(pools: Pools, volume: Volume, size: int, flags: int) -> None:
    """Change a volume's capacity to, or by, `size` bytes (virStorageVolResizeFlags)."""
    await pools.hypervisor.complete(_resize(pools, volume, size, flags))


async def _resize(pools: Pools, volume: Volume, size: int, flags: int) -> None:
    from corral.storage import qemu_img, writing

    volume.check_idle()
    await look(pools, volume)
    file = volume.file
    shrink, allocate = bool(flags & _Resize.SHRINK), bool(flags & _Resize.ALLOCATE)
    if flags & _Resize.DELTA:
        size = max(file.capacity - size, 0) if shrink else file.capacity + size
    writing.check_size(size)
    if size < file.capacity and not shrink:
        text = "Can't shrink capacity below current capacity unless shrink flag explicitly specified"
        raise InvalidArgument(text, domain=ErrorDomain.STORAGE)
    if file.kind != "file":
        raise ConfigUnsupported(f"volume '{volume.name}' is not a file", domain=ErrorDomain.STORAGE)
    if allocate and volume.pool.space is not None and size - file.allocation > volume.pool.space.available:
        raise OperationFailed("Not enough space left in storage pool", domain=ErrorDomain.STORAGE)
    async with held(pools, volume, writes=True, what="volume being resized"):
        with volume.used():
            if file.format == "raw":
                await pools.threads.run(writing.size_raw, file.path, size, size if allocate else 0)
            elif file.format in qemu_img.FORMATS:
                await qemu_img.resize(file.path, file.format, size, shrink=shrink, allocate=allocate)
            else:
                raise ConfigUnsupported(
                    f"a volume of format {file.format} cannot be resized", domain=ErrorDomain.STORAGE
                )
            await look(pools, volume)
            await volume.pool.look_at_space()


async def wipe(pools: Pools, volume: Volume, algorithm: int = StorageVolWipeAlgorithm.ZERO) -> None:
    """Overwrite a volume's file with zeros."""
    if not 0 <= algorithm < len(ALGORITHMS):
        raise InvalidArgument(f"wiping algorithm {algorithm} not supported", domain=ErrorDomain.STORAGE)
    if algorithm != StorageVolWipeAlgorithm.ZERO:
        raise ArgumentUnsupported(f"'{ALGORITHMS[algorithm]}' algorithm not supported", domain=ErrorDomain.STORAGE)
    await pools.hypervisor.complete(_wipe(pools, volume))


async def _wipe(pools: Pools, volume: Volume) -> None:
    from corral.storage import writing

    volume.check_idle()
    if volume.file.kind == "dir":
        raise InvalidArgument(f"volume '{volume.name}' is a directory", domain=ErrorDomain.STORAGE)
    async with held(pools, volume, writes=True, what="volume being wiped"):
        with volume.used():
            await _stoppable(pools, writing.wipe, volume.file.path)
            await look(pools, volume)


@contextlib.asynccontextmanager
async def held(pools: Pools, volume: Volume, *, writes: bool, what: str) -> AsyncIterator[None]:
    """Keep running domains from the volume for the block; OperationInvalid when one has it already."""
    path, locked = await pools.threads.run(_facts, volume.file, writes, patience=LOOK_PATIENCE)
    images = pools.hypervisor.images
    for use in images.users(path):
        if writes or use.exclusive:
            text = f"volume '{volume.name}' is still in use by {use.what} '{use.name}'."
            raise OperationInvalid(text, domain=ErrorDomain.STORAGE)
    if locked:
        raise OperationInvalid(
            f"volume '{volume.name}' is still in use by another process.", domain=ErrorDomain.STORAGE
        )
    ours = uuid4()
    images.claim(ours, volume.name, {path: (writes, False)}, what)
    try:
        yield
    finally:
        images.release(ours)


def _facts(file: File, writes: bool) -> tuple[str, bool]:
    """The real path, and whether another process holds QEMU's locks on it."""
    from corral.qemu.images import in_use

    return os.path.realpath(file.path), file.kind == "file" and in_use(file.path, writable=writes)


async def _stoppable(pools: Pools, work: Callable[..., T], *args: object) -> T:
    """Run long work in a thread; when we are cancelled, it ends at its next piece."""
    stop = threading.Event()
    try:
        return await pools.threads.run(work, *args, stop)
    except asyncio.CancelledError:
        stop.set()
        raise


def _parse(xml: str, validate: bool) -> VolumeDocument:
    from corral.model.schema import validate_schema
    from corral.model.storage import Volume as VolumeDocument

    if validate:
        validate_schema(xml, "storagevol")
    return VolumeDocument.from_xml(xml)


def _checked_name(document: VolumeDocument) -> str:
    name = document.name
    if not name:
        raise XMLError("missing volume name element", domain=ErrorDomain.STORAGE)
    if "/" in name:
        raise OperationInvalid(f"volume name '{name}' cannot contain '/'", domain=ErrorDomain.STORAGE)
    if name in (".", "..") or not name.isprintable():
        raise XMLError(f"volume name {name!a} is not the name of a file", domain=ErrorDomain.STORAGE)
    return name


def _bytes(size: object) -> int:
    from corral.model.units import ScaledSize
    from corral.storage.writing import check_size

    assert isinstance(size, ScaledSize)
    return check_size(size.bytes)


def _readable(path: Path) -> None:
    from corral.storage.writing import opened

    with opened(path, os.O_RDONLY):
        pass


def _placeholder(path: Path) -> File:
    from corral.storage.files import File

    return File(path.name, path, "file", "raw", 0, 0, 0, 0o600, 0, 0, (0, 0, 0))
