"""Aliases: the names by which a running domain's devices are known to QEMU and to clients, as libvirt gives them.

Images get their node numbers here too: they are the same kind of thing, names inside one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from corral.model.address import Alias, DIMMAddress, DriveAddress
from corral.model.devices.controller import Controller
from corral.model.devices.device import Device
from corral.model.devices.disk import BackingStore, Disk, DiskSource
from corral.model.domain import Domain
from corral.qemu.addresses import disk_index
from corral.qemu.controllers import of_type
from corral.qemu.devices.disk import WIDE_SCSI
from corral.qemu.pci_slots import is_q35


def assign(domain: Domain) -> Domain:
    """A copy in which every device has an alias; those that have one keep it (user aliases `ua-…`, live documents)."""
    live = domain.copy()
    devices = live.devices
    for controller in devices.controllers:
        controller.alias = controller.alias or Alias(name=_controller(controller, is_q35(live)))
    for disk in devices.disks:
        disk.alias = disk.alias or Alias(name=_disk(live, disk))
    for module in devices.memories:
        if module.alias is None and isinstance(module.address, DIMMAddress):
            module.alias = Alias(name=f"{module.model}{module.address.slot}")
    for prefix, family in _families(live):
        _number(prefix, family)
    if devices.serials:
        for console in devices.consoles[:1]:
            if console.target is None or console.target.type != "virtio":
                console.alias = devices.serials[0].alias
    if devices.memballoon is not None and devices.memballoon.model != "none":
        devices.memballoon.alias = devices.memballoon.alias or Alias(name="balloon0")
    _number_images(live)
    return live


def _families(live: Domain) -> Iterator[tuple[str, Sequence[Device]]]:
    """The devices whose alias is a word and a number."""
    devices = live.devices
    yield "fs", devices.filesystems
    yield "net", [each for each in devices.interfaces if each.type != "hostdev"]
    yield "smartcard", devices.smartcards
    yield "serial", devices.serials
    yield "parallel", devices.parallels
    yield "channel", devices.channels
    yield "console", devices.consoles
    yield "input", devices.inputs
    yield "tpm", devices.tpms
    yield "sound", devices.sounds
    yield "video", devices.videos
    yield "redir", devices.redirdevs
    yield "hub", devices.hubs
    yield "hostdev", [*(each for each in devices.interfaces if each.type == "hostdev"), *devices.hostdevs]
    yield "watchdog", devices.watchdogs
    yield "rng", devices.rngs
    yield "panic", devices.panics
    for prefix in ("virtio-mem", "virtio-pmem"):
        yield prefix.replace("-", ""), [each for each in devices.memories if each.model == prefix]
    yield "iommu", devices.iommus
    yield "shmem", devices.shmems
    yield "vsock", devices.vsocks
    yield "crypto", devices.cryptos


def _number(prefix: str, family: Sequence[Device]) -> None:
    """Number those without an alias by their place, or above the highest number where that is taken."""
    taken = {device.alias.name for device in family if device.alias is not None}
    highest = max((int(name[len(prefix) :]) for name in taken if name[len(prefix) :].isdigit()), default=-1)
    for place, device in enumerate(family):
        if device.alias is None:
            number = place
            if taken and (f"{prefix}{place}" in taken or place <= highest):
                highest = number = highest + 1
            taken.add(f"{prefix}{number}")
            device.alias = Alias(name=f"{prefix}{number}")


def _controller(controller: Controller, q35: bool) -> str:
    index = controller.index or 0
    match controller.type:
        case "pci" if controller.model == "pcie-root":
            return "pcie.0"
        case "pci":
            return f"pci.{index}"
        case "usb" if index == 0:
            return "usb"
        case "ide" if index == 0 and not q35:
            return "ide"
        case "sata" if index == 0 and q35:
            return "ide"
        case "fdc":
            return f"fdc{index}"
    return f"{controller.type}{index}"


def _disk(live: Domain, disk: Disk) -> str:
    bus, address = disk.target.bus, disk.address
    if not isinstance(address, DriveAddress):
        return f"{bus}-disk{disk_index(disk.target.dev)}"
    wide = bus == "scsi" and any(
        controller.index == address.controller and controller.model in WIDE_SCSI for controller in of_type(live, "scsi")
    )
    if wide:
        return f"scsi{address.controller}-{address.bus}-{address.target}-{address.unit}"
    return f"{bus}{address.controller}-{address.bus}-{address.unit}"


def _number_images(live: Domain) -> None:
    """Number the images of all disks, the last disk's first; those of live documents keep theirs."""
    sources = [source for disk in reversed(live.devices.disks) for source in _images(disk)]
    highest = max((source.index for source in sources if source.index is not None), default=0)
    for source in sources:
        if source.index is None:
            highest += 1
            source.index = highest


def _images(disk: Disk) -> Iterator[DiskSource]:
    if disk.source is not None and disk.source.where is not None:
        yield disk.source
    store: BackingStore | None = disk.backing_store
    while store is not None:
        if store.source is not None:
            yield store.source
        store = store.backing_store
