"""Storage pools and their volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from corral.constants import (
    StoragePoolBuildFlags,
    StoragePoolCreateFlags,
    StoragePoolDefineFlags,
    StoragePoolDeleteFlags,
    StorageVolCreateFlags,
    StorageVolDownloadFlags,
    StorageVolInfoFlags,
    StorageVolResizeFlags,
    StorageVolUploadFlags,
    StorageXMLFlags,
)
from corral.daemon.dispatch import handler, transfers
from corral.errors import InvalidArgument
from corral.hypervisor.pools import volume_stream, volumes
from corral.hypervisor.pools.pools import LIST_FLAGS

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.guest.stream import ByteStream
    from corral.hypervisor.pools.pool import Pool, Volume

CREATE_FLAGS = (
    StoragePoolCreateFlags.WITH_BUILD
    | StoragePoolCreateFlags.WITH_BUILD_OVERWRITE
    | StoragePoolCreateFlags.WITH_BUILD_NO_OVERWRITE
)
BUILD_FLAGS = StoragePoolBuildFlags.OVERWRITE | StoragePoolBuildFlags.NO_OVERWRITE
RESIZE_FLAGS = StorageVolResizeFlags.ALLOCATE | StorageVolResizeFlags.DELTA | StorageVolResizeFlags.SHRINK


def _pool(session: Session, reference: Any) -> Pool:
    """The pool that a client refers to: by UUID alone, as libvirt does."""
    return session.hypervisor.pools.lookup_by_uuid(UUID(bytes=reference.uuid), reference.name)


def _volume(session: Session, reference: Any) -> Volume:
    """The volume that a client refers to: by the names of its pool and its own, as libvirt does."""
    pools = session.hypervisor.pools
    return pools.volume(pools.lookup_by_name(reference.pool), reference.name)


def _wire_pool(pool: Pool) -> dict[str, Any]:
    return {"name": pool.name, "uuid": pool.uuid.bytes}


def _wire_volume(volume: Volume) -> dict[str, Any]:
    return {"pool": volume.pool.name, "name": volume.name, "key": volume.key}


def _names(names: list[str], most: int) -> dict[str, Any]:
    """At most as many names as the client has room for."""
    if most < 0:
        raise InvalidArgument(f"maxnames in {most} must not be negative")
    return {"names": names[:most]}


# Listing and looking up.


@handler("connect_num_of_storage_pools")
def num_of_pools(session: Session, args: None) -> dict[str, Any]:
    """How many are active."""
    return {"num": sum(pool.active for pool in session.hypervisor.pools.all())}


@handler("connect_num_of_defined_storage_pools")
def num_of_defined_pools(session: Session, args: None) -> dict[str, Any]:
    """How many are not."""
    return {"num": sum(not pool.active for pool in session.hypervisor.pools.all())}


@handler("connect_list_storage_pools")
def list_pools(session: Session, args: Any) -> dict[str, Any]:
    """The names of the active ones."""
    return _names([pool.name for pool in session.hypervisor.pools.all() if pool.active], args.maxnames)


@handler("connect_list_defined_storage_pools")
def list_defined_pools(session: Session, args: Any) -> dict[str, Any]:
    """The names of the others."""
    return _names([pool.name for pool in session.hypervisor.pools.all() if not pool.active], args.maxnames)


@handler("connect_list_all_storage_pools", flags=LIST_FLAGS)
def list_all_pools(session: Session, args: Any) -> dict[str, Any]:
    """All that pass the filters."""
    found = session.hypervisor.pools.list(args.flags)
    return {"pools": [_wire_pool(pool) for pool in found] if args.need_results else [], "ret": len(found)}


@handler("storage_pool_lookup_by_name")
def pool_by_name(session: Session, args: Any) -> dict[str, Any]:
    """The pool of a name."""
    return {"pool": _wire_pool(session.hypervisor.pools.lookup_by_name(args.name))}


@handler("storage_pool_lookup_by_uuid")
def pool_by_uuid(session: Session, args: Any) -> dict[str, Any]:
    """The pool of a UUID."""
    return {"pool": _wire_pool(session.hypervisor.pools.lookup_by_uuid(UUID(bytes=args.uuid)))}


@handler("storage_pool_lookup_by_volume")
def pool_by_volume(session: Session, args: Any) -> dict[str, Any]:
    """The pool of a volume."""
    return {"pool": _wire_pool(session.hypervisor.pools.lookup_by_name(args.vol.pool))}


@handler("storage_pool_lookup_by_target_path")
def pool_by_target_path(session: Session, args: Any) -> dict[str, Any]:
    """The active pool of a directory."""
    return {"pool": _wire_pool(session.hypervisor.pools.lookup_by_target_path(args.path))}


@handler("connect_find_storage_pool_sources")
def find_sources(session: Session, args: Any) -> dict[str, Any]:
    """Where pools of a kind could be made of."""
    return {"xml": session.hypervisor.pools.find_sources(args.type)}


@handler("connect_get_storage_pool_capabilities")
def capabilities(session: Session, args: Any) -> dict[str, Any]:
    """What kinds of pools and volumes there can be."""
    return {"capabilities": session.hypervisor.pools.capabilities()}


# A pool's life.


@handler("storage_pool_define_xml", flags=StoragePoolDefineFlags.VALIDATE)
async def define_pool(session: Session, args: Any) -> dict[str, Any]:
    """Define, or redefine."""
    return {"pool": _wire_pool(await session.hypervisor.pools.define(args.xml, args.flags))}


@handler("storage_pool_create_xml", flags=CREATE_FLAGS)
async def create_pool_xml(session: Session, args: Any) -> dict[str, Any]:
    """Make and start a transient pool."""
    return {"pool": _wire_pool(await session.hypervisor.pools.create_xml(args.xml, args.flags))}


@handler("storage_pool_create", flags=CREATE_FLAGS)
async def create_pool(session: Session, args: Any) -> None:
    """Start."""
    await session.hypervisor.pools.start(_pool(session, args.pool), args.flags)


@handler("storage_pool_build", flags=BUILD_FLAGS)
async def build_pool(session: Session, args: Any) -> None:
    """Make the directory."""
    await session.hypervisor.pools.build(_pool(session, args.pool), args.flags)


@handler("storage_pool_destroy")
async def destroy_pool(session: Session, args: Any) -> None:
    """Stop; the directory stays."""
    await session.hypervisor.pools.destroy(_pool(session, args.pool))


@handler("storage_pool_undefine")
async def undefine_pool(session: Session, args: Any) -> None:
    """Forget the definition."""
    await session.hypervisor.pools.undefine(_pool(session, args.pool))


@handler("storage_pool_delete", flags=StoragePoolDeleteFlags.NORMAL)
async def delete_pool(session: Session, args: Any) -> None:
    """Remove the directory."""
    await session.hypervisor.pools.delete(_pool(session, args.pool))


@handler("storage_pool_refresh")
async def refresh_pool(session: Session, args: Any) -> None:
    """Look at the directory again."""
    await session.hypervisor.pools.refresh(_pool(session, args.pool))


@handler("storage_pool_set_autostart")
async def set_autostart(session: Session, args: Any) -> None:
    """Start it with the host, or no longer."""
    await session.hypervisor.pools.set_autostart(_pool(session, args.pool), bool(args.autostart))


@handler("storage_pool_get_autostart")
def get_autostart(session: Session, args: Any) -> dict[str, Any]:
    """Whether it is started with the host."""
    return {"autostart": int(_pool(session, args.pool).autostart)}


@handler("storage_pool_get_info")
def pool_info(session: Session, args: Any) -> dict[str, Any]:
    """State and sizes."""
    pool = _pool(session, args.pool)
    capacity, allocation, available = pool.sizes()
    return {"state": pool.state, "capacity": capacity, "allocation": allocation, "available": available}


@handler("storage_pool_get_xml_desc", flags=StorageXMLFlags.INACTIVE)
def pool_xml(session: Session, args: Any) -> dict[str, Any]:
    """The document."""
    return {"xml": _pool(session, args.pool).xml(inactive=bool(args.flags & StorageXMLFlags.INACTIVE))}


@handler("storage_pool_is_active")
def pool_is_active(session: Session, args: Any) -> dict[str, Any]:
    """Whether it is started."""
    return {"active": int(_pool(session, args.pool).active)}


@handler("storage_pool_is_persistent")
def pool_is_persistent(session: Session, args: Any) -> dict[str, Any]:
    """Whether it is defined."""
    return {"persistent": int(_pool(session, args.pool).persistent)}


# A pool's volumes.


def _complete_volumes(session: Session, reference: Any) -> list[Volume]:
    pool = _pool(session, reference)
    pool.check_active()
    return sorted((volume for volume in pool.volumes.values() if not volume.building), key=lambda volume: volume.name)


@handler("storage_pool_num_of_volumes")
def num_of_volumes(session: Session, args: Any) -> dict[str, Any]:
    """How many there are."""
    return {"num": len(_complete_volumes(session, args.pool))}


@handler("storage_pool_list_volumes")
def list_volumes(session: Session, args: Any) -> dict[str, Any]:
    """Their names."""
    return _names([volume.name for volume in _complete_volumes(session, args.pool)], args.maxnames)


@handler("storage_pool_list_all_volumes")
def list_all_volumes(session: Session, args: Any) -> dict[str, Any]:
    """All of them."""
    found = _complete_volumes(session, args.pool)
    return {"vols": [_wire_volume(volume) for volume in found] if args.need_results else [], "ret": len(found)}


@handler("storage_vol_lookup_by_name")
def volume_by_name(session: Session, args: Any) -> dict[str, Any]:
    """The volume of a name in a pool."""
    return {"vol": _wire_volume(session.hypervisor.pools.volume(_pool(session, args.pool), args.name))}


@handler("storage_vol_lookup_by_key")
def volume_by_key(session: Session, args: Any) -> dict[str, Any]:
    """The volume of a key."""
    return {"vol": _wire_volume(session.hypervisor.pools.lookup_volume(args.key, "key"))}


@handler("storage_vol_lookup_by_path")
def volume_by_path(session: Session, args: Any) -> dict[str, Any]:
    """The volume of a path."""
    return {"vol": _wire_volume(session.hypervisor.pools.lookup_volume(args.path))}


# A volume's life.


@handler("storage_vol_create_xml", flags=StorageVolCreateFlags.PREALLOC_METADATA | StorageVolCreateFlags.VALIDATE)
async def create_volume(session: Session, args: Any) -> dict[str, Any]:
    """Make a volume."""
    pool = _pool(session, args.pool)
    return {"vol": _wire_volume(await volumes.create(session.hypervisor.pools, pool, args.xml, args.flags))}


@handler(
    "storage_vol_create_xml_from",
    flags=StorageVolCreateFlags.PREALLOC_METADATA | StorageVolCreateFlags.REFLINK | StorageVolCreateFlags.VALIDATE,
)
async def create_volume_from(session: Session, args: Any) -> dict[str, Any]:
    """Make a volume with the contents of another."""
    pool, source = _pool(session, args.pool), _volume(session, args.clonevol)
    made = await volumes.create_from(session.hypervisor.pools, pool, args.xml, source, args.flags)
    return {"vol": _wire_volume(made)}


@handler("storage_vol_delete")
async def delete_volume(session: Session, args: Any) -> None:
    """Remove the file."""
    await volumes.delete(session.hypervisor.pools, _volume(session, args.vol))


@handler("storage_vol_resize", flags=RESIZE_FLAGS)
async def resize_volume(session: Session, args: Any) -> None:
    """Change the capacity."""
    await volumes.resize(session.hypervisor.pools, _volume(session, args.vol), args.capacity, args.flags)


@handler("storage_vol_wipe")
async def wipe_volume(session: Session, args: Any) -> None:
    """Overwrite with zeros."""
    await volumes.wipe(session.hypervisor.pools, _volume(session, args.vol))


@handler("storage_vol_wipe_pattern")
async def wipe_volume_pattern(session: Session, args: Any) -> None:
    """Overwrite by an algorithm, of which there is one."""
    await volumes.wipe(session.hypervisor.pools, _volume(session, args.vol), args.algorithm)


async def _info(session: Session, args: Any, flags: int = 0) -> dict[str, Any]:
    volume = _volume(session, args.vol)
    await volumes.look(session.hypervisor.pools, volume)
    file = volume.file
    allocation = file.physical if flags & StorageVolInfoFlags.GET_PHYSICAL else file.allocation
    return {"type": volume.type, "capacity": file.capacity, "allocation": allocation}


@handler("storage_vol_get_info")
async def volume_info(session: Session, args: Any) -> dict[str, Any]:
    """Type and sizes, as they are now."""
    return await _info(session, args)


@handler("storage_vol_get_info_flags", flags=StorageVolInfoFlags.GET_PHYSICAL)
async def volume_info_flags(session: Session, args: Any) -> dict[str, Any]:
    """The same, with the file's size in place of its blocks if asked."""
    return await _info(session, args, args.flags)


@handler("storage_vol_get_xml_desc")
async def volume_xml(session: Session, args: Any) -> dict[str, Any]:
    """The document, as the file is now."""
    volume = _volume(session, args.vol)
    await volumes.look(session.hypervisor.pools, volume)
    return {"xml": volume.xml()}


@handler("storage_vol_get_path")
def volume_path(session: Session, args: Any) -> dict[str, Any]:
    """The file's path."""
    return {"name": str(_volume(session, args.vol).file.path)}


@transfers("storage_vol_upload", flags=StorageVolUploadFlags.SPARSE_STREAM)
async def upload(session: Session, args: Any) -> tuple[None, ByteStream]:
    """The client's bytes into the file."""
    volume = _volume(session, args.vol)
    return None, await volume_stream.upload(session.hypervisor.pools, volume, args.offset, args.length)


@transfers("storage_vol_download", flags=StorageVolDownloadFlags.SPARSE_STREAM)
async def download(session: Session, args: Any) -> tuple[None, ByteStream]:
    """The file's bytes to the client."""
    volume, sparse = _volume(session, args.vol), bool(args.flags & StorageVolDownloadFlags.SPARSE_STREAM)
    return None, await volume_stream.download(session.hypervisor.pools, volume, args.offset, args.length, sparse=sparse)
