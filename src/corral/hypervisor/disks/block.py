"""A running machine's disks as block devices: made larger or smaller, and in which state of error they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from corral.constants import DomainBlockResizeFlags, DomainDiskErrorCode
from corral.errors import InvalidArgument, OperationUnsupported
from corral.host import images as image_files
from corral.hypervisor import events
from corral.hypervisor.disks import media

if TYPE_CHECKING:
    from collections.abc import Iterator

    from corral.hypervisor.domain import Domain
    from corral.model.devices.disk import Disk, DiskSource
    from corral.model.domain import Domain as DomainDocument

_SECTOR = 512
_ERRORS = {"failed": DomainDiskErrorCode.UNSPEC, "nospace": DomainDiskErrorCode.NO_SPACE}


def named(document: DomainDocument, name: str) -> Disk:
    """The disk of that target or source path."""
    for disk in document.devices.disks:
        if name and name in (disk.target.dev, disk.source.where if disk.source is not None else None):
            return disk
    raise InvalidArgument(f"disk '{name}' was not found in the domain config")


async def resize(domain: Domain, name: str, size: int, flags: int) -> None:
    """Give a disk another size, in KiB or by virDomainBlockResizeFlags BYTES or CAPACITY; the guest is told."""

    async def work() -> None:
        run = domain.require_run()
        disk = named(run.live.document, name)
        kind = disk.driver.type if disk.driver is not None else None
        wanted = size if flags & DomainBlockResizeFlags.BYTES else size * 1024
        if disk.source is None or disk.source.where is None or disk.readonly:
            raise OperationUnsupported(f"can't resize empty or readonly disk '{disk.target.dev}'")
        if flags & DomainBlockResizeFlags.CAPACITY:
            if disk.type != "block" or kind not in (None, "raw"):
                raise OperationUnsupported(
                    "block resize to full capacity supported only with 'raw' local block-based disks"
                )
            device = Path(disk.source.where)
            capacity = (await asyncio.to_thread(image_files.inspect, device, "raw")).virtual_size
            if wanted not in (0, capacity):
                raise InvalidArgument(f"Requested resize to '{wanted}' but device size is '{capacity}'")
            wanted = capacity
        if wanted <= 0 or wanted >= 1 << 63:
            raise InvalidArgument(f"size {wanted} of disk '{name}' is out of range")
        if kind in ("qcow2", "qed"):
            wanted = -(-wanted // _SECTOR) * _SECTOR
        if disk.target.bus == "nvme":
            raise OperationUnsupported(
                f"NVMe disk '{disk.target.dev}' cannot be resized while its machine runs: QEMU keeps its size",
                hint="stop the machine first",
            )
        nodes = [part.id for part in await media.parts_of(domain, run, disk) if part.kind == "blockdev"]
        await run.require_machine().monitor.execute("block_resize", {"node-name": nodes[-1], "size": wanted})
        domain.touch()

    await domain.change("block resize", work)


async def set_threshold(domain: Domain, name: str, threshold: int) -> None:
    """Have QEMU tell when the file of an image is written beyond so many bytes; once, and 0 forgets it.

    `name` is a disk's target, or `vda[3]` with the number that an image of its chain has.
    """

    async def work() -> None:
        run = domain.require_run()
        node = _node(run.live.document, name)
        await run.require_machine().monitor.execute(
            "block-set-write-threshold", {"node-name": node, "write-threshold": threshold}
        )

    await domain.change("block threshold", work)


def _node(document: DomainDocument, name: str) -> str:
    """The node in which the image's bytes are, which thresholds count."""
    for disk in document.devices.disks:
        for number, source in enumerate(_chain(disk)):
            if name == f"{disk.target.dev}[{source.index}]" or (name == disk.target.dev and number == 0):
                return f"libvirt-{source.index}-storage"
    raise InvalidArgument(f"failed to find disk '{name}'")


def _chain(disk: Disk) -> Iterator[DiskSource]:
    """The images of a disk of a live document, the top one first."""
    if disk.source is not None and disk.source.where is not None:
        yield disk.source
    store = disk.backing_store
    while store is not None:
        if store.source is not None:
            yield store.source
        store = store.backing_store


def exceeded(domain: Domain, document: DomainDocument, node: str, threshold: int, excess: int) -> None:
    """An image was written beyond its mark: told by the disk's name (if it is the top one) and by the image's."""
    for disk in document.devices.disks:
        for number, source in enumerate(_chain(disk)):
            if node == f"libvirt-{source.index}-storage":
                names = ([disk.target.dev] if number == 0 else []) + [f"{disk.target.dev}[{source.index}]"]
                for name in names:
                    event = events.BlockThreshold(domain.identity(), name, source.where, threshold, excess)
                    domain.hypervisor.events.emit(event)


async def errors(domain: Domain) -> list[tuple[str, int]]:
    """(target, virDomainDiskErrorCode) of the disks that QEMU has seen fail since the machine last went on."""
    run = domain.require_run()
    found = {}
    for each in await run.require_machine().monitor.execute("query-block"):
        if each.get("io-status") in _ERRORS:
            found[str(each.get("qdev", ""))] = _ERRORS[each["io-status"]]
    told = []
    for disk in run.live.document.devices.disks:
        alias = disk.alias.name if disk.alias is not None else ""
        code = next((code for path, code in found.items() if alias in path.split("/")), None)
        if code is not None:
            told.append((disk.target.dev, code))
    return told
