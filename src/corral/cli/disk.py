"""`corral disk`: a machine's disks and CD-ROM drives, also while it runs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli import device_table
from corral.cli.errors import hinted
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.target import find
from corral.cli.target import run as finish
from corral.errors import CorralError, DeviceMissing, InvalidArgument

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.devices.disk import Disk
    from corral.model.domain import Domain as DomainDocument

FASTEST = 10**15  # bytes and requests a second that QEMU limits to at most

Target = Annotated[str, typer.Argument(metavar="TARGET", help="The disk's name: vda, sdb.")]
Now = Annotated[bool, typer.Option("--now", help="Only while it runs: the next start is as before.")]


def ls(name: Name, connect: Connect = None, output: Format = Output.table) -> None:
    """List a machine's disks."""
    columns = ["TARGET", "BUS", "DEVICE", "FORMAT", "IMAGE"]
    device_table.show(name, connect, output, lambda document: [_row(each) for each in document.devices.disks], columns)


def _row(disk: Disk) -> dict[str, Any]:
    return {
        "target": disk.target.dev,
        "bus": disk.target.bus,
        "device": disk.device,
        "format": disk.driver.type if disk.driver is not None else None,
        "image": disk.source.where if disk.source is not None else None,
        "serial": disk.serial,
        "readonly": disk.readonly,
    }


def add(
    name: Name,
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|SIZE",
            help="A disk image or block device, a URL (iscsi://, nbd://, https://), or the size of a new one: 20G.",
        ),
    ],
    bus: Annotated[str | None, typer.Option(help="virtio, scsi, usb, sata or nvme.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option(help="Its name in the document.", show_default=False)] = None,
    image_format: Annotated[
        str | None, typer.Option("--image-format", help="The image's format.", show_default=False)
    ] = None,
    serial: Annotated[str | None, typer.Option(help="What the guest reads as serial number.")] = None,
    readonly: Annotated[bool, typer.Option("--readonly", help="The guest cannot write.")] = False,
    cdrom: Annotated[bool, typer.Option("--cdrom", help="As a CD in a drive of its own.")] = False,
    passthrough: Annotated[
        bool,
        typer.Option("--passthrough", help="The guest speaks with the SCSI device itself (block device, iscsi://)."),
    ] = False,
    initiator: Annotated[
        str | None, typer.Option(metavar="IQN", help="As whom to ask an iSCSI target.", show_default=False)
    ] = None,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Give a machine a disk: at once if it runs, and for its next starts.

    corral disk add web data.qcow2

    corral disk add web 20G

    corral disk add web iscsi://san.example.org/iqn.2026-01.org.example:disks/1 --passthrough
    """

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import devices, volumes
        from corral.client.image import there
        from corral.client.recipe import byte_size
        from corral.client.taking_away import definition
        from corral.model.devices.disk import DiskSource

        made, kept = None, await definition(domain)
        if (size := byte_size(image)) is not None and not there(image):
            made = await volumes.fresh(domain.host, f"{domain.name}-disk", size)
        try:
            disk = await devices.disk(
                document,
                DiskSource(file=made) if made is not None else image,
                beside=kept,
                bus=bus,
                target=target,
                image_format="qcow2" if made is not None else image_format,
                readonly=readonly,
                cdrom=cdrom,
                serial=serial,
                passthrough=passthrough,
                initiator=initiator,
            )
            with hinted("is in use by", "corral stop that machine first, or add a copy of the image"):
                if disk.target.bus == "scsi":
                    await devices.ensure_scsi(domain, document, None if now else kept)
                await domain.attach(disk, config=False if now else None)
        except BaseException:
            if made is not None:
                with suppress(CorralError):
                    await volumes.remove(domain.host, made)
            raise
        return f"{domain.name} has {disk.target.dev}"

    act(connect, name, change)


def rm(name: Name, target: Target, now: Now = False, connect: Connect = None) -> None:
    """Take a disk away; returns when the guest has let go of it."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client.taking_away import take_away

        with hinted(
            "cannot be hot unplugged", f"corral stop {domain.name} first: disks on this bus stay while it runs"
        ):
            await take_away(domain, document, lambda each: _disk(each, target), now=now)
        return f"{domain.name} has no {target} any more"

    act(connect, name, change)


Drive = Annotated[str | None, typer.Option(metavar="TARGET", help="Which drive.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", "-f", help="Also if the guest holds the tray.")]


def insert(
    name: Name,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The CD's image.")],
    drive: Drive = None,
    force: Force = False,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Put a CD into a machine's drive, in place of what is there."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import devices

        found = devices.drive(document, drive)
        fresh = await devices.disk(document, image, bus=found.target.bus, target=found.target.dev, cdrom=True)
        await domain.update(fresh, config=False if now else None, force=force)
        return f"{domain.name} has {image} in {found.target.dev}"

    act(connect, name, change)


def eject(name: Name, drive: Drive = None, force: Force = False, now: Now = False, connect: Connect = None) -> None:
    """Take the CD out of a machine's drive."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import devices

        empty = devices.drive(document, drive).copy()
        empty.source = empty.backing_store = None
        await domain.update(empty, config=False if now else None, force=force)
        return f"{domain.name} has nothing in {empty.target.dev}"

    act(connect, name, change)


def resize(
    name: Name,
    target: Target,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Its new size: 512M, 20G.")],
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Also to less than it has: what is at its end is lost.")
    ] = False,
    connect: Connect = None,
) -> None:
    """Give a running machine's disk another size; the guest is told."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client.recipe import byte_size

        if not (wanted := byte_size(size)):
            raise InvalidArgument(f"'{size}' is no size for a disk", hint="write for example 512M or 20G")
        _disk(document, target)
        with hinted("domain is not running", f"corral start {domain.name} first: the size is changed while it runs"):
            await domain.resize_disk(target, wanted, shrink=shrink)
        return f"{target} of {domain.name} is {size}"

    act(connect, name, change)


Rate = Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes a second: 10M.", show_default=False)]
Requests = Annotated[
    int | None, typer.Option(metavar="N", min=0, max=FASTEST, help="Requests a second.", show_default=False)
]


def limit(
    name: Name,
    target: Target,
    rate: Rate = None,
    read: Rate = None,
    write: Rate = None,
    iops: Requests = None,
    read_iops: Requests = None,
    write_iops: Requests = None,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Share the limits with all disks of it.", show_default=False)
    ] = None,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Say how fast a disk may be, or show it; 0 lifts a limit.

    corral disk limit web vda --rate 20M --iops 500
    """

    async def change(domain: Domain, document: DomainDocument) -> str:
        disk = _disk(document, target)
        rates = {"total_bytes_sec": rate, "read_bytes_sec": read, "write_bytes_sec": write}
        limits: dict[str, int | str] = {key: _rate(text) for key, text in rates.items() if text is not None}
        counts = {"total_iops_sec": iops, "read_iops_sec": read_iops, "write_iops_sec": write_iops}
        limits |= {key: count for key, count in counts.items() if count is not None}
        limits |= {"group_name": group} if group is not None else {}
        if limits:
            await domain.limit_disk(disk.target.dev, limits, config=False if now else None)
        found = await domain.disk_limits(disk.target.dev)
        told = ", ".join(f"{key} {value}" for key, value in found.items() if value and key != "group_name")
        return f"{target} of {domain.name}: {told or 'no limit'}"

    act(connect, name, change)


def _rate(text: str) -> int:
    from corral.model.units import parse_size

    try:
        rate = parse_size(text, "bytes")
    except CorralError:
        rate = -1
    if not 0 <= rate <= FASTEST:
        raise InvalidArgument(f"'{text}' is no rate", hint="write for example 20M, or 0 to lift the limit")
    return rate


def _disk(document: DomainDocument, target: str) -> Disk:
    for disk in document.devices.disks:
        if disk.target.dev == target:
            return disk
    known = ", ".join(disk.target.dev for disk in document.devices.disks) or "none"
    raise DeviceMissing(f"there is no disk {target}", hint=f"there are: {known}")


def act(connect: str | None, name: str, change: Any) -> None:
    """Do something to the machine and say what came of it."""

    async def body() -> str:
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            domain = await find(host, name)
            return str(await change(domain, await domain.document()))

    print(finish(body()))
