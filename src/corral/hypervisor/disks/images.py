"""Which image files the running domains have open, so that two guests never write one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import HostError, OperationTimeout, ResourceBusy
from corral.host import scsi
from corral.model.devices.remote import place

if TYPE_CHECKING:
    from uuid import UUID

    from corral.model.devices.disk import Disk, DiskSource
    from corral.model.devices.hostdev_scsi import SCSIHostdev
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.plan import Image

#: Seconds that looking at all images of a domain may take.
LOOK_TIMEOUT = 30.0


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

    def refuse_twice(self, uuid: UUID, name: str, paths: dict[str, tuple[bool, bool]]) -> None:
        """ResourceBusy for an image to write to that the same running domain has already, as another disk."""
        for path, (writes, shareable) in paths.items():
            for own in self._uses.get(path, ()):
                if writes and own.uuid == uuid and not (shareable and own.shareable):
                    raise ResourceBusy(
                        f"domain '{name}' has disk image '{path}' already", hint="as another disk; add a copy of it"
                    )

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


async def paths_of(document: DomainDocument, chains: dict[str, tuple[Image, ...]]) -> dict[str, tuple[bool, bool]]:
    """Every image of the domain by real path: (writes, shareable); images below the top are only read.

    Paths are looked at in a thread: a network file system that is away holds up one domain, and not the daemon.
    """
    return await asyncio.to_thread(_paths_of, document, chains)


def _paths_of(document: DomainDocument, chains: dict[str, tuple[Image, ...]]) -> dict[str, tuple[bool, bool]]:
    found: dict[str, tuple[bool, bool]] = {}
    for disk in document.devices.disks:
        if disk.source is None or disk.source.where is None:
            continue
        found[_identity(disk.source)] = (writes(disk), disk.shareable)
        for below in chains.get(disk.target.dev, ())[1:]:
            found.setdefault(os.path.realpath(below.path), (False, False))
        for path in _real_paths(disk)[1:]:
            found.setdefault(path, (False, False))
    return found | {lent(device): (not device.readonly, device.shareable) for device in document.devices.scsi_hostdevs}


def lent(device: SCSIHostdev) -> str:
    """What stands for a SCSI host device among images: its block device, its place on the host, or the LUN's URL."""
    source = device.source
    if source.place is not None:
        return scsi.disk_of(source.place) or f"scsi:{source.place}"
    return place("iscsi", source.servers, source.name or "")


async def real_paths(disk: Disk) -> list[str]:
    """The real paths of all images of one disk of a live document, looked at in a thread."""
    return await asyncio.to_thread(_real_paths, disk)


def _real_paths(disk: Disk) -> list[str]:
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
    (`startupPolicy`). OperationTimeout naming the image at which a dead file system stopped us.
    """
    chains: dict[str, tuple[Image, ...]] = {}
    absent: set[str] = set()
    disks = [(disk, Path(disk.source.path)) for disk in document.devices.disks if disk.source and disk.source.path]
    if not disks:
        return chains, absent
    at = str(disks[0][1])

    def look() -> None:
        nonlocal at
        for disk, path in disks:
            at = str(path)
            chain = _chain(disk, path)
            if chain is None:
                absent.add(disk.target.dev)
            elif chain:
                chains[disk.target.dev] = chain

    try:
        async with asyncio.timeout(LOOK_TIMEOUT):
            await asyncio.to_thread(look)
    except TimeoutError as error:
        raise OperationTimeout(f"reading the header of '{at}' took more than {LOOK_TIMEOUT:g} s") from error
    return chains, absent


def _chain(disk: Disk, path: Path) -> tuple[Image, ...] | None:
    """The images of one disk, () when its document tells them; None when it is missing and may be."""
    from corral.qemu import images
    from corral.qemu.plan import Image

    if not path.exists():
        if disk.source is not None and disk.source.startup_policy == "optional":
            return None
        raise HostError(f"Cannot access storage file '{path}': No such file or directory")
    if disk.backing_store is not None and not disk.backing_store.terminator:
        return ()
    found = images.chain(path, (disk.driver.type if disk.driver else None) or "raw")
    if disk.backing_store is not None:
        found = found[:1]
    return tuple(Image(path=each.path, format=each.format, block=each.is_block, tables=each.tables) for each in found)
