"""Disks that the host keeps for us: volumes of its storage pool `default`, which is made when there is none."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from corral.errors import (
    CorralError,
    NoStoragePool,
    NoStorageVolume,
    NoSupport,
    OperationInvalid,
    StorageVolumeExists,
)

if TYPE_CHECKING:
    from corral.client.host import Host

POOL = "default"
QCOW2 = "<clusterSize unit='KiB'>128</clusterSize><features><lazy_refcounts/><extended_l2/></features>"
"""How we have qcow2 images made: small writes allocate 4 KiB, and tables are written without waiting for counts."""


async def create(host: Host, name: str, capacity: int) -> str:
    """A new empty qcow2 volume of `capacity` bytes; its path. StorageVolumeExists says how to use the old one."""
    pool = await _pool(host)
    xml = (
        f"<volume><name>{escape(name)}</name><capacity unit='bytes'>{capacity}</capacity>"
        f"<target><format type='qcow2'/>{QCOW2}</target></volume>"
    )
    try:
        volume = (await host.call("storage_vol_create_xml", pool=pool, xml=xml, flags=0)).vol
    except StorageVolumeExists as error:
        path = await _path(host, (await host.call("storage_vol_lookup_by_name", pool=pool, name=name)).vol)
        raise StorageVolumeExists(
            f"there is a disk {path} already", hint="choose another --name, or use that disk: --disk PATH"
        ) from error
    return await _path(host, volume)


async def fresh(host: Host, base: str, capacity: int) -> str:
    """A new empty qcow2 volume of `capacity` bytes, called `base` or by the first number behind it that is free."""
    number, name = 1, base
    while True:
        try:
            return await create(host, f"{name}.qcow2", capacity)
        except StorageVolumeExists:
            number += 1
            name = f"{base}-{number}"


async def store(host: Host, name: str, content: bytes) -> str:
    """A volume with that content, in place of one that has the name; its path."""
    pool = await _pool(host)
    with suppress(NoStorageVolume):
        old = (await host.call("storage_vol_lookup_by_name", pool=pool, name=name)).vol
        await host.call("storage_vol_delete", vol=old, flags=0)
    xml = (
        f"<volume><name>{escape(name)}</name><capacity unit='bytes'>{len(content)}</capacity>"
        f"<target><format type='raw'/></target></volume>"
    )
    volume = (await host.call("storage_vol_create_xml", pool=pool, xml=xml, flags=0)).vol
    try:
        _, stream = await host.connection.open_stream(
            "storage_vol_upload", {"vol": volume, "offset": 0, "length": len(content), "flags": 0}
        )
        async with stream:
            await stream.write(content)
    except BaseException:
        await _delete(host, volume)
        raise
    return await _path(host, volume)


async def remove(host: Host, path: str) -> bool:
    """Delete the volume at `path`; False when it is in no storage pool, and stays."""
    try:
        volume = (await host.call("storage_vol_lookup_by_path", path=path)).vol
    except NoStorageVolume:
        return False
    await host.call("storage_vol_delete", vol=volume, flags=0)
    return True


async def _delete(host: Host, volume: Any) -> None:
    with suppress(CorralError):
        await host.call("storage_vol_delete", vol=volume, flags=0)


async def _path(host: Host, volume: Any) -> str:
    return str((await host.call("storage_vol_get_path", vol=volume)).name)


async def _pool(host: Host) -> Any:
    """The pool, started."""
    try:
        pool = (await host.call("storage_pool_lookup_by_name", name=POOL)).pool
    except NoStoragePool:
        xml = f"<pool type='dir'><name>{POOL}</name><target><path>{escape(await _folder(host))}</path></target></pool>"
        pool = (await host.call("storage_pool_define_xml", xml=xml, flags=0)).pool
        await host.call("storage_pool_build", pool=pool, flags=0)
        await host.call("storage_pool_set_autostart", pool=pool, autostart=1)
    with suppress(OperationInvalid):  # somebody else was faster
        if not (await host.call("storage_pool_is_active", pool=pool)).active:
            await host.call("storage_pool_create", pool=pool, flags=0)
    return pool


async def _folder(host: Host) -> str:
    """Where the pool goes: where Corral's daemon says, or libvirt's usual place."""
    try:
        return str(json.loads((await host.call_own("corral.host_report")).json)["images"])
    except NoSupport:
        if "/session" in host.uri:
            return str(Path.home() / ".local/share/libvirt/images")
        return "/var/lib/libvirt/images"
