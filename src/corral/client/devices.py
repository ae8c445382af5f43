"""Documents of devices from a few choices: a disk around an image, a network card; a free name for a new disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import DeviceMissing, InvalidArgument

if TYPE_CHECKING:
    from corral.model.devices.disk import Disk
    from corral.model.devices.interface import Interface
    from corral.model.domain import Domain as DomainDocument

QCOW2_MAGIC = b"QFI\xfb"
PREFIX = {"virtio": "vd", "scsi": "sd", "usb": "sd", "sata": "sd"}


def free_target(document: DomainDocument, bus: str) -> str:
    """The first name that no disk has: `vda`, `vdb` … `vdaa`."""
    taken = {disk.target.dev for disk in document.devices.disks}
    number = 0
    while (name := PREFIX[bus] + _letters(number)) in taken:
        number += 1
    return name


def _letters(number: int) -> str:
    text, number = "", number + 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(ord("a") + letter) + text
    return text


async def disk(
    document: DomainDocument,
    image: str,
    *,
    bus: str | None = None,
    target: str | None = None,
    image_format: str | None = None,
    readonly: bool = False,
    cdrom: bool = False,
    serial: str | None = None,
) -> Disk:
    """A disk around an image file or block device, as a model to attach to a machine with that document.

    On the bus that holds most: SCSI where the machine has a virtio-scsi controller, else virtio. The format is that of
    the file's first bytes when they say qcow2 and the caller says nothing: only for images that the caller owns.
    """
    from corral.model.devices.disk import Disk, DiskDriver, DiskSource, DiskTarget

    path, kind, block = await asyncio.to_thread(_look, image)
    wide = any(each.type == "scsi" and each.model == "virtio-scsi" for each in document.devices.controllers)
    chosen = bus or ("scsi" if wide or cdrom else "virtio")
    if chosen not in PREFIX:
        raise InvalidArgument(f"bus '{chosen}'", hint=f"one of {', '.join(PREFIX)}")
    return Disk(
        type="block" if block else "file",
        device="cdrom" if cdrom else "disk",
        driver=DiskDriver(name="qemu", type=image_format or kind),  # type: ignore[arg-type]
        source=DiskSource(dev=str(path)) if block else DiskSource(file=str(path)),
        target=DiskTarget(dev=target or free_target(document, chosen), bus=chosen),  # type: ignore[arg-type]
        readonly=readonly or cdrom,
        serial=serial,
    )


def _look(image: str) -> tuple[Path, str, bool]:
    """(path, format, whether it is a block device) of an image."""
    path = Path(image).expanduser().absolute()
    try:
        with path.open("rb") as file:
            start = file.read(4)
        return path, "qcow2" if start == QCOW2_MAGIC else "raw", path.is_block_device()
    except OSError as error:
        raise InvalidArgument(f"image {path}: {error.strerror}") from error


def drive(document: DomainDocument, name: str | None) -> Disk:
    """The CD-ROM drive of that target name, or the only one. Raises DeviceMissing, InvalidArgument for several."""
    drives = [each for each in document.devices.disks if each.device == "cdrom" and name in (None, each.target.dev)]
    if not drives:
        raise DeviceMissing(f"there is no CD-ROM drive{f' {name}' if name else ''}")
    if len(drives) > 1:
        names = ", ".join(each.target.dev for each in drives)
        raise InvalidArgument(f"there are several CD-ROM drives: {names}", hint="name one")
    return drives[0]


def card(document: DomainDocument, name: str | None) -> Interface:
    """The network card of that MAC address, host device or alias, or the only one. Raises as `drive`."""
    found = [each for each in document.devices.interfaces if name is None or name.lower() in card_names(each)]
    if not found:
        raise DeviceMissing(f"there is no network card{f' {name}' if name else ''}")
    if len(found) > 1:
        names = ", ".join(each.mac.address for each in found if each.mac is not None)
        raise InvalidArgument(f"there are several network cards: {names}", hint="name one")
    return found[0]


def card_names(interface: Interface) -> tuple[str, ...]:
    """What a person may call a card."""
    mac = interface.mac.address.lower() if interface.mac is not None else ""
    host = interface.target.dev if interface.target is not None else ""
    return tuple(name for name in (mac, host, interface.alias.name if interface.alias is not None else "") if name)
