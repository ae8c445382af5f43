"""Which image files the running domains have open, so that two guests never write one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import HostError, ResourceBusy
from corral.host import scsi
from corral.model.devices.remote import place

if TYPE_CHECKING:
    from uuid import UUID

    from corral.model.devices.disk import Disk, DiskSource
    from corral.model.devices.hostdev_scsi import SCSIHostdev
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.plan import Image


@dataclass(frozen=True, slots=True)
class Use:
    """One use of one image, mostly a domain's; `exclusive`: it writes there and shares with nobody."""

    uuid: UUID
    name: str
    exclusive: bool
    shareable: bool
    what: str = "running domain"


class Images:
    """The images in use, by their real path."""

    def __init__(self) -> None:
        self._uses: dict[str, list[Use]] = {}

    def users(self, path: str) -> list[Use]:
        """Who uses the image of that real path."""
        return list(self._uses.get(path, ()))

    def claim(self, uuid: UUID, name: str, paths: dict[str, tuple[bool, bool]], what: str = "running domain") -> None:
        """Note that a domain uses these images: real path → (writes, shareable); ResourceBusy naming who has one."""
        for path, (writes, shareable) in paths.items():
            for other in self._uses.get(path, ()):
                if other.uuid != uuid and ((writes and not (shareable and other.shareable)) or other.exclusive):
                    raise ResourceBusy(
                        f"disk image '{path}' of domain '{name}' is in use by {other.what} '{other.name}'",
                        hint="stop that domain, or mark the disk <shareable/> or <readonly/> in both",
                    )
        for path, (writes, shareable) in paths.items():
            self._uses.setdefault(path, []).append(Use(uuid, name, writes and not shareable, shareable, what))

    def release_paths(self, uuid: UUID, paths: Iterable[str]) -> None:
        """The domain has let go of some of its images: of one use of each."""
        for path in paths:
            uses = self._uses.get(path, [])
            own = next((use for use in uses if use.uuid == uuid), None)
            if own is not None:
                uses.remove(own)
            if not uses:
                self._uses.pop(path, None)

    def release(self, uuid: UUID) -> None:
        """The domain has let go of all its images."""
        for path in list(self._uses):
            kept = [use for use in self._uses[path] if use.uuid != uuid]
            if kept:
                self._uses[path] = kept
            else:
                del self._uses[path]


def read_by_name(document: DomainDocument) -> list[str | None]:
    """The files that QEMU loads into the guest's memory: kernel, ramdisk, a BIOS that is no flash chip, our table."""
    from corral.qemu.machine_options import wake_table

    os, loader = document.os, document.os.loader
    bios = loader.path if loader is not None and loader.type != "pflash" else None
    return [os.kernel, os.initrd, bios, wake_table(document)]


def writes(disk: Disk) -> bool:
    """Whether the guest can write to the disk's top image."""
    return not disk.readonly and disk.device != "cdrom" and disk.transient is None


def paths_of(document: DomainDocument, chains: dict[str, tuple[Image, ...]]) -> dict[str, tuple[bool, bool]]:
    """Every image of the domain by real path: (writes, shareable); images below the top are only read."""
    found: dict[str, tuple[bool, bool]] = {}
    for disk in document.devices.disks:
        if disk.source is None or disk.source.where is None:
            continue
        found[_identity(disk.source)] = (writes(disk), disk.shareable)
        for below in chains.get(disk.target.dev, ())[1:]:
            found.setdefault(os.path.realpath(below.path), (False, False))
        for path in real_paths(disk)[1:]:
            found.setdefault(path, (False, False))
    return found | {lent(device): (not device.readonly, device.shareable) for device in document.devices.scsi_hostdevs}


def lent(device: SCSIHostdev) -> str:
    """What stands for a SCSI host device among images: its block device, its place on the host, or the LUN's URL."""
    source = device.source
    if source.place is not None:
        return scsi.disk_of(source.place) or f"scsi:{source.place}"
    return place("iscsi", source.servers, source.name or "")


def real_paths(disk: Disk) -> list[str]:
    """The real paths of all images of one disk of a live document."""
    found = [_identity(disk.source)] if disk.source is not None and disk.source.where is not None else []
    store = disk.backing_store
    while store is not None:
        if store.source is not None and store.source.where is not None:
            found.append(_identity(store.source))
        store = store.backing_store
    return found


def _identity(source: DiskSource) -> str:
    """The real path of an image, or the URL of one elsewhere."""
    return os.path.realpath(source.path) if source.path is not None else source.where or ""


async def chains_of(document: DomainDocument) -> tuple[dict[str, tuple[Image, ...]], set[str]]:
    """For each disk the images from the top down, by target name; HostError naming a missing one.

    A disk whose document tells its chain is left out. Also the targets of disks whose image is missing and may be
    (`startupPolicy`).
    """
    absent: set[str] = set()

    from corral.qemu import images
    from corral.qemu.plan import Image

    async def chain(disk: Disk) -> tuple[str, tuple[Image, ...]] | None:
        source = disk.source
        if source is None or source.path is None:
            return None
        path = Path(source.path)
        if not await asyncio.to_thread(path.exists):
            if source.startup_policy == "optional":
                absent.add(disk.target.dev)
                return None
            raise HostError(f"Cannot access storage file '{path}': No such file or directory")
        if disk.backing_store is not None and not disk.backing_store.terminator:
            return None
        image_format = (disk.driver.type if disk.driver else None) or "raw"
        found = await images.chain(path, image_format)
        if disk.backing_store is not None:
            found = found[:1]
        return disk.target.dev, tuple(
            Image(path=each.path, format=each.format, block=each.is_block, tables=each.tables) for each in found
        )

    results = await asyncio.gather(*(chain(disk) for disk in document.devices.disks))
    return dict(result for result in results if result is not None), absent
