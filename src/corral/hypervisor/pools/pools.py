"""All storage pools of one daemon: defined, started, looked up, let go of. Volumes are `volumes.py`'s matter.

libvirt's rules: a pool has a definition, or is started, or both; names, UUIDs and target directories are unique;
volumes are known from the last look at the directory (start, refresh, or a change that went through us).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from corral.constants import (
    ConnectListAllStoragePoolsFlags,
    ErrorDomain,
    StoragePoolBuildFlags,
    StoragePoolCreateFlags,
    StoragePoolDefineFlags,
    StoragePoolEventLifecycleType,
)
from corral.errors import (
    CorralError,
    HostError,
    InternalError,
    NoStoragePool,
    NoStorageVolume,
    NoSupport,
    OperationFailed,
    OperationInvalid,
    XMLError,
)
from corral.hypervisor.events import EventBus
from corral.hypervisor.pools import pool_directory, pool_rows
from corral.hypervisor.pools.pool import LOOK_PATIENCE, NotNow, Pool, Threads, Volume, target_of
from corral.model.storage import POOL_TYPES

if TYPE_CHECKING:
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.model.storage import Pool as PoolDocument

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Volume formats that a directory's volumes may have, the default first.
VOLUME_FORMATS = ("raw", "dir", "iso", "qcow", "qcow2", "qed", "vmdk", "vdi", "vpc")


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something happened to a pool: a virStoragePoolEventLifecycleType, or None when its volumes were looked at."""

    name: str
    uuid: UUID
    lifecycle: int | None


class Pools:
    """The pools; queries are answered from memory, changes are awaited until they have happened."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.threads = Threads()
        self._by_uuid: dict[UUID, Pool] = {}
        self._by_name: dict[str, Pool] = {}
        #: Held while names, UUIDs and directories are given out or taken back.
        self._definitions = asyncio.Lock()
        self.events = EventBus[PoolEvent]()

    # Life of the daemon.

    async def open(self) -> None:
        """Read the store, remove what a killed daemon left half made, and look at the pools that were active."""
        from corral.model.storage import Pool as PoolDocument
        from corral.storage import writing

        rows, making = await pool_rows.load(self.hypervisor.store)
        for file in making:
            try:
                if await self.threads.run(
                    writing.remove_unfinished, file.path, file.device, file.inode, patience=LOOK_PATIENCE
                ):
                    log.warning("removed '%s', which was not complete when the daemon ended", file.path)
            except CorralError as error:  # a file system that is away: the next daemon tries again
                log.error("cannot remove '%s', which was not complete when the daemon ended: %s", file.path, error)
                continue
            await pool_rows.end_making(self.hypervisor.store, file.path)
        for row in rows:
            was_active = bool(row.live_xml) and row.boot == self.hypervisor.boot
            if not row.xml and not was_active:
                await pool_rows.put(self.hypervisor.store, pool_rows.PoolRow(row.uuid, row.name, "", "", "", False))
                continue
            pool = self._add(row.uuid, row.name)
            pool.config = PoolDocument.from_xml(row.xml) if row.xml else None
            pool.live = PoolDocument.from_xml(row.live_xml) if was_active else None
            pool.boot, pool.autostart = row.boot, row.autostart
        await asyncio.gather(*(self._restore(pool) for pool in self.all() if pool.active))

    async def _restore(self, pool: Pool) -> None:
        try:
            await pool.look()
        except CorralError as error:
            log.error("storage pool %s is no longer active: %s", pool.name, error)
            await self._stopped(pool)

    async def autostart(self) -> None:
        """Start the pools marked so; failures are logged."""
        for pool in self.all():
            if pool.autostart and not pool.active:
                try:
                    await self.start(pool)
                except CorralError as error:
                    log.error("cannot autostart storage pool %s: %s", pool.name, error)

    def close(self) -> None:
        """Let go of the threads."""
        self.threads.close()

    # What there is.

    def all(self) -> list[Pool]:
        """Every pool, by name."""
        return sorted(self._by_uuid.values(), key=lambda pool: pool.name)

    def list(self, flags: int) -> list[Pool]:
        """The pools that pass virConnectListAllStoragePoolsFlags, by name."""
        return [pool for pool in self.all() if _passes(pool, flags)]

    def lookup_by_name(self, name: str) -> Pool:
        """The pool of that name; NoStoragePool."""
        pool = self._by_name.get(name)
        if pool is None:
            raise NoStoragePool(f"no storage pool with matching name '{name}'")
        return pool

    def lookup_by_uuid(self, uuid: UUID, name: str | None = None) -> Pool:
        """The pool of that UUID; NoStoragePool."""
        pool = self._by_uuid.get(uuid)
        if pool is None:
            known = f" ({name})" if name else ""
            raise NoStoragePool(f"no storage pool with matching uuid '{uuid}'{known}")
        return pool

    def lookup_by_target_path(self, path: str) -> Pool:
        """The active pool of that directory; NoStoragePool."""
        wanted = Path(os.path.normpath(path))
        for pool in self.all():
            if pool.active and pool.directory == wanted:
                return pool
        raise NoStoragePool(f"no storage pool with matching target path '{path}'")

    def lookup_volume(self, path: str, what: str = "path") -> Volume:
        """The volume of an active pool by its path or key (which is the path); NoStorageVolume."""
        wanted = os.path.normpath(path)
        for pool in self.all():
            if pool.active:
                volume = pool.volumes.get(wanted.rpartition("/")[2])
                if volume is not None and volume.key == wanted:
                    return volume
        quoted = f"'{path}'" if what == "path" else path
        raise NoStorageVolume(f"no storage vol with matching {what} {quoted}")

    def volume(self, pool: Pool, name: str) -> Volume:
        """A volume of an active pool by its name; NoStorageVolume."""
        pool.check_active()
        volume = pool.volumes.get(name)
        if volume is None:
            raise NoStorageVolume(f"no storage vol with matching name '{name}'")
        return volume

    def capabilities(self) -> str:
        """What kinds of pools there can be, and what their volumes can be (storagepoolcaps.rng)."""
        values = "".join(f"        <value>{name}</value>\n" for name in VOLUME_FORMATS)
        options = (
            f"    <volOptions>\n      <defaultFormat type='{VOLUME_FORMATS[0]}'/>\n"
            f"      <enum name='targetFormatType'>\n{values}      </enum>\n    </volOptions>\n"
        )
        pools = [f"  <pool type='dir' supported='yes'>\n{options}  </pool>\n"]
        pools += [f"  <pool type='{name}' supported='no'>\n  </pool>\n" for name in POOL_TYPES[1:]]
        return "<storagepoolCapabilities>\n" + "".join(pools) + "</storagepoolCapabilities>\n"

    def find_sources(self, kind: str) -> str:
        """Where pools of a kind could be made of; a directory cannot be found by itself."""
        if kind not in POOL_TYPES:
            raise InternalError(f"unknown storage pool type {kind}", domain=ErrorDomain.STORAGE)
        if kind != "dir":
            raise _no_backend(kind)
        raise NoSupport("pool type 'dir' does not support source discovery", domain=ErrorDomain.STORAGE)

    # Definitions.

    async def define(self, xml: str, flags: int = 0) -> Pool:
        """Define, or redefine (virStoragePoolDefineFlags)."""
        return await self._complete(self._define(xml, bool(flags & StoragePoolDefineFlags.VALIDATE)))

    async def _define(self, xml: str, validate: bool) -> Pool:
        document = await self._parsed(xml, validate)
        async with self._definitions:
            pool = self._conflict(document)
            pool = pool or self._add(_uuid(document), _name(document))
            before, pool.config = pool.config, document
            try:
                await self._save(pool)
            except BaseException:
                pool.config = before
                self._forget_if_gone(pool)
                raise
            self._tell(pool, StoragePoolEventLifecycleType.DEFINED)
        return pool

    async def undefine(self, pool: Pool) -> None:
        """Forget a definition; the pool must be stopped, and its directory stays."""
        await self._complete(self._undefine(pool))

    async def _undefine(self, pool: Pool) -> None:
        async with self._definitions, pool.changing:
            self._check(pool)
            pool.check_inactive()
            pool.check_idle()
            before = pool.config, pool.autostart
            pool.config, pool.autostart = None, False
            try:
                await self._save(pool)
            except BaseException:
                pool.config, pool.autostart = before
                raise
            self._tell(pool, StoragePoolEventLifecycleType.UNDEFINED)
            self._forget_if_gone(pool)

    async def set_autostart(self, pool: Pool, autostart: bool) -> None:
        """Mark a definition to be started with the host."""
        if pool.config is None:
            raise InternalError("pool has no config file", domain=ErrorDomain.STORAGE)
        before, pool.autostart = pool.autostart, autostart
        try:
            await self._complete(self._save(pool))
        except BaseException:
            pool.autostart = before
            raise

    # Starting and stopping.

    async def create_xml(self, xml: str, flags: int = 0) -> Pool:
        """Make and start a transient pool (virStoragePoolCreateFlags)."""
        return await self._complete(self._create_xml(xml, flags))

    async def _create_xml(self, xml: str, flags: int) -> Pool:
        document = await self._parsed(xml, validate=False)
        async with self._definitions:
            pool = self._conflict(document)
            if pool is not None and pool.active:
                raise NotNow(f"pool is already active as '{pool.name}'")
            pool = pool or self._add(_uuid(document), _name(document))
            try:
                async with pool.changing:
                    await self._start(pool, document, flags)
            finally:
                self._forget_if_gone(pool)
        return pool

    async def start(self, pool: Pool, flags: int = 0) -> None:
        """Start a defined pool (virStoragePoolCreateFlags)."""
        await self._complete(self._start_defined(pool, flags))

    async def _start_defined(self, pool: Pool, flags: int) -> None:
        async with pool.changing:
            self._check(pool)
            if pool.active:
                raise NotNow(f"storage pool '{pool.name}' is already active")
            assert pool.config is not None
            await self._start(pool, pool.config.copy(), flags)

    async def _start(self, pool: Pool, document: PoolDocument, flags: int) -> None:
        if flags & (StoragePoolCreateFlags.WITH_BUILD_OVERWRITE | StoragePoolCreateFlags.WITH_BUILD_NO_OVERWRITE):
            raise _no_device(pool)
        if flags & StoragePoolCreateFlags.WITH_BUILD:
            await self.threads.run(pool_directory.build, document, patience=LOOK_PATIENCE)
        pool.live = document
        try:
            await pool.look()
            pool.boot = self.hypervisor.boot
            await self._save(pool)
        except BaseException:
            pool.live = None
            pool.forget()
            raise
        self._tell(pool, StoragePoolEventLifecycleType.STARTED)

    async def destroy(self, pool: Pool) -> None:
        """Stop a pool: its directory and all volumes stay as they are."""
        await self._complete(self._destroy(pool))

    async def _destroy(self, pool: Pool) -> None:
        async with pool.changing:
            pool.check_active()
            pool.check_idle()
            await self._stopped(pool)

    async def _stopped(self, pool: Pool) -> None:
        live, pool.live = pool.live, None
        try:
            await self._save(pool)
        except BaseException:
            pool.live = live
            raise
        pool.forget()
        self._tell(pool, StoragePoolEventLifecycleType.STOPPED)
        self._forget_if_gone(pool)

    async def refresh(self, pool: Pool) -> None:
        """Look at the directory again; a pool whose directory is gone is stopped, as in libvirt."""
        await self._complete(self._refresh(pool))

    async def _refresh(self, pool: Pool) -> None:
        async with pool.changing:
            pool.check_active()
            pool.check_idle()
            try:
                await pool.look()
            except HostError:
                await self._stopped(pool)
                raise
            self.refreshed(pool)

    # The directory itself.

    async def build(self, pool: Pool, flags: int) -> None:
        """Make the directory, with the owner and mode that the definition asks for."""
        async with pool.changing:
            if pool.active:
                raise NotNow(f"storage pool '{pool.name}' is already active")
            if flags & (StoragePoolBuildFlags.OVERWRITE | StoragePoolBuildFlags.NO_OVERWRITE):
                raise _no_device(pool)
            await self.threads.run(pool_directory.build, pool.document, patience=LOOK_PATIENCE)
            self._tell(pool, StoragePoolEventLifecycleType.CREATED)

    async def delete(self, pool: Pool) -> None:
        """Remove the directory, which must be empty."""
        async with pool.changing:
            pool.check_inactive()
            pool.check_idle()
            await self.threads.run(pool_directory.remove, pool.directory, patience=LOOK_PATIENCE)
            self._tell(pool, StoragePoolEventLifecycleType.DELETED)

    # For `volumes.py`.

    def refreshed(self, pool: Pool) -> None:
        """Tell that the pool's volumes were looked at."""
        self.events.emit(PoolEvent(pool.name, pool.uuid, None))

    # Within.

    def _add(self, uuid: UUID, name: str) -> Pool:
        pool = Pool(uuid, name, self.threads)
        self._by_uuid[uuid] = self._by_name[name] = pool
        return pool

    def _forget_if_gone(self, pool: Pool) -> None:
        if pool.config is None and pool.live is None and self._by_uuid.get(pool.uuid) is pool:
            del self._by_uuid[pool.uuid]
            del self._by_name[pool.name]

    def _check(self, pool: Pool) -> None:
        if self._by_uuid.get(pool.uuid) is not pool:
            raise NoStoragePool(f"no storage pool with matching uuid '{pool.uuid}' ({pool.name})")

    async def _save(self, pool: Pool) -> None:
        row = pool_rows.PoolRow(
            pool.uuid,
            pool.name,
            pool.config.to_xml(secure=True) if pool.config else "",
            pool.live.to_xml(secure=True) if pool.live else "",
            pool.boot,
            pool.autostart,
        )
        await pool_rows.put(self.hypervisor.store, row)

    def _tell(self, pool: Pool, lifecycle: int) -> None:
        self.events.emit(PoolEvent(pool.name, pool.uuid, lifecycle))

    async def _complete(self, work: Coroutine[Any, Any, T]) -> T:
        return await self.hypervisor.complete(work)

    async def _parsed(self, xml: str, validate: bool) -> PoolDocument:
        document = await asyncio.to_thread(_parse, xml, validate)
        document.uuid = document.uuid or uuid4()
        return document

    def _conflict(self, document: PoolDocument) -> Pool | None:
        """The pool that has both UUID and name, or None; OperationFailed when another has one of them or the path."""
        uuid, name = _uuid(document), _name(document)
        pool, other = self._by_uuid.get(uuid), self._by_name.get(name)
        if pool is not None and pool.name != name:
            text = f"pool '{pool.name}' is already defined with uuid {uuid}"
            raise OperationFailed(text, domain=ErrorDomain.STORAGE)
        if pool is None and other is not None:
            text = f"pool '{name}' already exists with uuid {other.uuid}"
            raise OperationFailed(text, domain=ErrorDomain.STORAGE)
        for third in self.all():
            if third is not pool and target_of(document) in {target_of(d) for d in (third.config, third.live) if d}:
                text = f"Storage source conflict with pool: '{third.name}'"
                raise OperationFailed(text, domain=ErrorDomain.STORAGE)
        return pool


def _parse(xml: str, validate: bool) -> PoolDocument:
    from corral.model import reader
    from corral.model.schema import validate_schema
    from corral.model.storage import Pool as PoolDocument
    from corral.model.storage import PoolSource

    if validate:
        validate_schema(xml, "storagepool")
    kind = reader.parse(xml).get("type")
    if kind in POOL_TYPES[1:]:
        raise _no_backend(str(kind))  # before its elements, which are not known here
    document = PoolDocument.from_xml(xml)
    document.capacity = document.allocation = document.available = None
    document.source = PoolSource()
    if not document.name or not document.name.strip():
        raise XMLError("missing pool source name element", domain=ErrorDomain.STORAGE)
    if "/" in document.name or "\n" in document.name:
        character = "/" if "/" in document.name else "\\n"
        raise XMLError(f"name {document.name} cannot contain '{character}'", domain=ErrorDomain.STORAGE)
    path = document.target.path if document.target else None
    if document.target is None or not path:
        raise XMLError("missing storage pool target path", domain=ErrorDomain.STORAGE)
    if not path.startswith("/") or "\0" in path:
        raise XMLError(f"storage pool target path '{path}' is not absolute", domain=ErrorDomain.STORAGE)
    document.target.path = "/" + os.path.normpath(path).lstrip("/")
    return document


def _uuid(document: PoolDocument) -> UUID:
    assert document.uuid is not None
    return document.uuid


def _name(document: PoolDocument) -> str:
    assert document.name is not None
    return document.name


def _no_backend(kind: str) -> InternalError:
    text = f"missing backend for pool type {POOL_TYPES.index(kind)} ({kind})"
    return InternalError(text, domain=ErrorDomain.STORAGE)


def _no_device(pool: Pool) -> OperationInvalid:
    text = f"No source device specified when formatting pool '{pool.name}'"
    return OperationInvalid(text, domain=ErrorDomain.STORAGE)


_Flags = ConnectListAllStoragePoolsFlags
_KINDS = 2 * _Flags.ISCSI_DIRECT - _Flags.DIR  # each kind of pool
_GROUPS = (
    _Flags.ACTIVE | _Flags.INACTIVE,
    _Flags.PERSISTENT | _Flags.TRANSIENT,
    _Flags.AUTOSTART | _Flags.NO_AUTOSTART,
    _KINDS,
)
LIST_FLAGS = _GROUPS[0] | _GROUPS[1] | _GROUPS[2] | _KINDS


def _passes(pool: Pool, flags: int) -> bool:
    has = (
        (_Flags.ACTIVE if pool.active else _Flags.INACTIVE)
        | (_Flags.PERSISTENT if pool.persistent else _Flags.TRANSIENT)
        | (_Flags.AUTOSTART if pool.autostart else _Flags.NO_AUTOSTART)
        | _Flags.DIR
    )
    return all(not flags & group or flags & group & has for group in _GROUPS)
