"""Documents of devices from a few choices: a disk around an image, a network card; a free name for a new disk."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from corral.client.image import LOOK, QCOW2_MAGIC, SIZE_OR_FILE, refuse_borrowed
from corral.errors import DeviceMissing, InvalidArgument

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.devices.disk import Disk, DiskSource
    from corral.model.devices.interface import Interface
    from corral.model.domain import Domain as DomainDocument

READ_ONLY = ("http", "https", "ftp", "ftps")
"""Protocols in which QEMU only reads."""
PREFIX = {"virtio": "vd", "scsi": "sd", "usb": "sd", "sata": "sd", "nvme": "nvme0n"}


def free_target(bus: str, *documents: DomainDocument) -> str:
    """The first name that no disk has: `vda`, `vdb` … `vdaa`; namespaces of the first NVMe drive: `nvme0n1` …"""
    taken = {disk.target.dev for document in documents for disk in document.devices.disks}
    ends = (str(number + 1) if bus == "nvme" else _letters(number) for number in count())
    return next(name for end in ends if (name := PREFIX[bus] + end) not in taken)


def _letters(number: int) -> str:
    text, number = "", number + 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(ord("a") + letter) + text
    return text


async def disk(
    document: DomainDocument,
    image: str | DiskSource,
    *,
    beside: DomainDocument | None = None,
    bus: str | None = None,
    target: str | None = None,
    image_format: str | None = None,
    readonly: bool = False,
    cdrom: bool = False,
    serial: str | None = None,
    passthrough: bool = False,
    initiator: str | None = None,
) -> Disk:
    """A disk around an image file, block device or URL, as a model to attach to a machine with that document.

    Its name is one that is free there, and in the document `beside` it: a running machine's definition.
    What is given as a source may be where only the daemon sees it; without `image_format` it is raw.
    URLs: `iscsi://HOST[:PORT]/IQN/LUN` (as whom: `initiator`), `nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=`
    and a path, `http://` and `https://`. `passthrough`: the guest speaks with the SCSI device itself.
    On the bus that holds most: SCSI where the machine has a virtio-scsi controller, else virtio. The format is that of
    the file's first bytes when they say qcow2 and the caller says nothing: only for images that the caller owns.
    """
    from corral.model.devices.disk import Disk, DiskDriver, DiskTarget, ImageFormat

    if image_format is not None and image_format not in (known := get_args(ImageFormat)):
        raise InvalidArgument(f"image format '{image_format}'", hint=f"one of {', '.join(known)}")
    if not isinstance(image, str):
        source, kind = image, "raw"
    elif "://" in image:
        source, kind = _remote(image, initiator), "raw"
    else:
        source, kind = await asyncio.to_thread(_look, image, guess=image_format is None)
    wide = any(each.type == "scsi" and each.model == "virtio-scsi" for each in document.devices.controllers)
    chosen = bus or ("scsi" if wide or cdrom or passthrough else "virtio")
    if chosen not in PREFIX:
        raise InvalidArgument(f"bus '{chosen}'", hint=f"one of {', '.join(PREFIX)}")
    documents = (document,) if beside is None else (document, beside)
    return Disk(
        type="network" if source.protocol is not None else "block" if source.dev is not None else "file",
        device="lun" if passthrough else "cdrom" if cdrom else "disk",
        driver=DiskDriver(name="qemu", type=image_format or kind),  # type: ignore[arg-type]
        source=source,
        target=DiskTarget(dev=target or free_target(chosen, *documents), bus=chosen),  # type: ignore[arg-type]
        readonly=readonly or cdrom or source.protocol in READ_ONLY,
        serial=serial,
    )


async def ensure_scsi(domain: Domain, document: DomainDocument, definition: DomainDocument | None) -> None:
    """Give a machine with that document, and its definition, a virtio-scsi controller where it has no SCSI at all.

    The one that a document gets by itself is an old PCI card, for which machines of today have no slot.
    """
    from corral.model.devices.controller import Controller

    def lacks(each: DomainDocument) -> bool:
        return not any(controller.type == "scsi" for controller in each.devices.controllers)

    controller = Controller(type="scsi", model="virtio-scsi")
    running = await domain.active()
    if lacks(document):
        await domain.attach(controller, live=running, config=not running)
    if definition is not None and lacks(definition):
        await domain.attach(controller, live=False, config=True)


def _look(image: str, *, guess: bool) -> tuple[DiskSource, str]:
    """The source and the format of an image of this host."""
    from corral.model.devices.disk import DiskSource

    path = Path(image).expanduser().absolute()
    try:
        with path.open("rb") as file:
            start = file.read(LOOK)
        if guess and start.startswith(QCOW2_MAGIC):
            refuse_borrowed(image, start)
        source = DiskSource(dev=str(path)) if path.is_block_device() else DiskSource(file=str(path))
    except OSError as error:
        hint = SIZE_OR_FILE if isinstance(error, FileNotFoundError) else None
        raise InvalidArgument(f"image {path}: {error.strerror}", hint=hint) from error
    return source, "qcow2" if start.startswith(QCOW2_MAGIC) else "raw"


def _remote(url: str, initiator: str | None) -> DiskSource:
    """The source that a URL means. InvalidArgument for one of another kind."""
    from corral.model.devices.disk import DiskSource
    from corral.model.devices.remote import DEFAULT_PORTS, Initiator, Iqn, SourceHost

    parts = urlsplit(url)
    name = unquote(parts.path.lstrip("/"))
    if parts.scheme == "nbd+unix":
        socket = parse_qs(parts.query).get("socket", [""])[0]
        return DiskSource(protocol="nbd", name=name or None, hosts=[SourceHost(transport="unix", socket=socket)])
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        known = ", ".join(f"{scheme}://" for scheme in (*DEFAULT_PORTS, "nbd+unix"))
        raise InvalidArgument(f"image {url}", hint=f"a path of this host, or one of {known} with a host")
    host = SourceHost(name=parts.hostname, port=parts.port or DEFAULT_PORTS[parts.scheme])
    iqn = Initiator(iqn=Iqn(name=initiator)) if initiator is not None else None
    scheme: Any = parts.scheme
    return DiskSource(protocol=scheme, name=name or None, query=parts.query or None, hosts=[host], initiator=iqn)


def drive(document: DomainDocument, name: str | None) -> Disk:
    """The CD-ROM drive of that target name, or the only one. Raises DeviceMissing, InvalidArgument for several."""
    drives = [each for each in document.devices.disks if each.device == "cdrom" and name in (None, each.target.dev)]
    if not drives:
        others = ", ".join(each.target.dev for each in document.devices.disks if each.device == "cdrom")
        hint = f"there are: {others}" if others else "corral disk add NAME IMAGE --cdrom gives a machine one"
        raise DeviceMissing(f"there is no CD-ROM drive{f' {name}' if name else ''}", hint=hint)
    if len(drives) > 1:
        names = ", ".join(each.target.dev for each in drives)
        raise InvalidArgument(f"there are several CD-ROM drives: {names}", hint="name one: --drive TARGET")
    return drives[0]


def card(document: DomainDocument, name: str | None) -> Interface:
    """The network card of that MAC address, host device or alias, or the only one. Raises as `drive`."""
    found = [each for each in document.devices.interfaces if name is None or name.lower() in card_names(each)]
    if not found:
        raise DeviceMissing(f"there is no network card{f' {name}' if name else ''}")
    if len(found) > 1:
        names = ", ".join(each.mac.address for each in found if each.mac is not None)
        raise InvalidArgument(f"there are several network cards: {names}", hint="name one: --nic MAC")
    return found[0]


def card_names(interface: Interface) -> tuple[str, ...]:
    """What a person may call a card."""
    mac = interface.mac.address.lower() if interface.mac is not None else ""
    host = interface.target.dev if interface.target is not None else ""
    return tuple(name for name in (mac, host, interface.alias.name if interface.alias is not None else "") if name)
