"""`corral disk`: a machine's disks and CD-ROM drives, also while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.target import find
from corral.cli.target import run as finish
from corral.errors import DeviceMissing

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.devices.disk import Disk
    from corral.model.domain import Domain as DomainDocument

Target = Annotated[str, typer.Argument(metavar="TARGET", help="The disk's name: vda, sdb.")]
Now = Annotated[bool, typer.Option("--now", help="Only while it runs: the next start is as before.")]


def ls(name: Name, connect: Connect = None, output: Format = Output.table) -> None:
    """List a machine's disks."""

    async def body() -> list[dict[str, Any]]:
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            document = await (await find(host, name)).document()
            return [_row(disk) for disk in document.devices.disks]

    rows = finish(body())
    if output is Output.json:
        emit_json(rows)
    else:
        header = ["TARGET", "BUS", "DEVICE", "FORMAT", "IMAGE"]
        print(table(header, [[row[column.lower()] or "-" for column in header] for row in rows]))


def _row(disk: Disk) -> dict[str, Any]:
    return {
        "target": disk.target.dev,
        "bus": disk.target.bus,
        "device": disk.device,
        "format": disk.driver.type if disk.driver is not None else None,
        "image": disk.source.path if disk.source is not None else None,
        "serial": disk.serial,
        "readonly": disk.readonly,
    }


def add(
    name: Name,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A disk image or block device.")],
    bus: Annotated[str | None, typer.Option(help="virtio, scsi, usb or sata.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option(help="Its name in the document.", show_default=False)] = None,
    image_format: Annotated[
        str | None, typer.Option("--image-format", help="The image's format.", show_default=False)
    ] = None,
    serial: Annotated[str | None, typer.Option(help="What the guest reads as serial number.")] = None,
    readonly: Annotated[bool, typer.Option("--readonly", help="The guest cannot write.")] = False,
    cdrom: Annotated[bool, typer.Option("--cdrom", help="As a CD in a drive of its own.")] = False,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Give a machine a disk: at once if it runs, and for its next starts.

    corral disk add web data.qcow2
    """

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import devices

        disk = await devices.disk(
            document,
            image,
            bus=bus,
            target=target,
            image_format=image_format,
            readonly=readonly,
            cdrom=cdrom,
            serial=serial,
        )
        await domain.attach(disk, config=False if now else None)
        return f"{domain.name} has {disk.target.dev}"

    act(connect, name, change)


def rm(name: Name, target: Target, now: Now = False, connect: Connect = None) -> None:
    """Take a disk away; returns when the guest has let go of it."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        await domain.detach(_disk(document, target), config=False if now else None)
        return f"{domain.name} has no {target} any more"

    act(connect, name, change)


def insert(
    name: Name,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The CD's image.")],
    drive: Annotated[str | None, typer.Option(metavar="TARGET", help="Which drive.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also if the guest holds the tray.")] = False,
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


def eject(
    name: Name,
    drive: Annotated[str | None, typer.Option(metavar="TARGET", help="Which drive.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also if the guest holds the tray.")] = False,
    now: Now = False,
    connect: Connect = None,
) -> None:
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
    connect: Connect = None,
) -> None:
    """Give a running machine's disk another size; the guest is told."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client.recipe import memory_kib

        kib = memory_kib(size)
        await domain.host.call("domain_block_resize", dom=domain.reference, disk=target, size=kib, flags=0)
        return f"{target} of {domain.name} is {size}"

    act(connect, name, change)


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
