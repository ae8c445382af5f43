"""Addresses: where every device without one sits, on the bus that libvirt would choose for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from corral.errors import ConfigUnsupported, XMLError
from corral.model.address import CCIDAddress, DriveAddress, USBAddress, VirtioSerialAddress
from corral.model.devices.device import Device
from corral.model.devices.disk import Disk
from corral.model.devices.hostdev_scsi import SCSIHostdev
from corral.model.devices.hub import Hub
from corral.model.domain import Domain
from corral.qemu import pci_slots
from corral.qemu.controllers import of_type

HUB_PORTS = 8
VIRTIO_SERIAL_PORTS = 31
SCSI_UNITS = 7
WIDE_UNITS = 16
"""Units that a target name spreads over one SCSI controller: the narrow bus's, whatever the controller could take."""

USB_PORTS = {"piix3-uhci": 2, "piix4-uhci": 2, "ich9-ehci1": 6, "ehci": 6, "qemu-xhci": 4, "nec-xhci": 4, "pci-ohci": 3}
TARGET = re.compile(r"(hd|sd|vd|fd|xvd|ubd)([a-z]+)(\d*)")
NAMESPACE = re.compile(r"nvme(\d+)n(\d+)")


def assign(domain: Domain) -> None:
    """Give every device of the document its address, in place; those that have one keep it."""
    for disk in domain.devices.disks:
        assign_drive(disk)
    assign_virtio_serial(domain)
    assign_ccid(domain)
    pci_slots.assign(domain)
    assign_usb(domain)


def disk_index(dev: str) -> int:
    """The number in a target name: `sda` 0, `vdz` 25, `vdaa` 26. Raises XMLError for other names."""
    match = TARGET.fullmatch(dev)
    if match is None:
        raise XMLError(f"unknown disk name '{dev}' and no address specified")
    index = 0
    for letter in match[2]:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


def namespace(dev: str) -> tuple[int, int]:
    """The controller's index, from 0, and the namespace's number, from 1, in a target name: `nvme0n1` is (0, 1)."""
    match = NAMESPACE.fullmatch(dev)
    if match is None:
        raise XMLError(f"unknown disk name '{dev}' and no address specified; NVMe disks are called nvme0n1, nvme0n2 …")
    return int(match[1]), int(match[2])


def assign_drive(disk: Disk) -> None:
    """The address that a disk's target name stands for."""
    if disk.address is not None:
        return
    match disk.target.bus:
        case "ide":
            controller, rest = divmod(disk_index(disk.target.dev), 4)
            disk.address = DriveAddress(controller=controller, bus=rest // 2, unit=rest % 2)
        case "sata":
            controller, unit = divmod(disk_index(disk.target.dev), 6)
            disk.address = DriveAddress(controller=controller, unit=unit)
        case "scsi":
            controller, unit = divmod(disk_index(disk.target.dev), SCSI_UNITS)
            disk.address = DriveAddress(controller=controller, unit=unit)
        case "nvme":
            controller, number = namespace(disk.target.dev)
            disk.address = DriveAddress(controller=controller, bus=number - 1)


def assign_hostdev(domain: Domain, device: SCSIHostdev) -> None:
    """The first free unit of the SCSI controllers that there are, else the first of one more."""
    if device.address is not None:
        return
    controllers = of_type(domain, "scsi")
    devices: list[Device] = [*(disk for disk in domain.devices.disks if disk.target.bus == "scsi")]
    devices += domain.devices.scsi_hostdevs
    places = [each.address for each in devices if isinstance(each.address, DriveAddress)]
    for controller in controllers:
        units = SCSI_UNITS if controller.model in (None, "auto", "lsilogic") else WIDE_UNITS
        used = {place.unit for place in places if place.controller == controller.index and not place.target}
        free = next((unit for unit in range(units) if unit not in used), None)
        if free is not None:
            device.address = DriveAddress(controller=controller.index or 0, unit=free)
            return
    taken = [place.controller for place in places] + [each.index or 0 for each in controllers]
    device.address = DriveAddress(controller=max(taken, default=-1) + 1)


def assign_virtio_serial(domain: Domain) -> None:
    """Ports for channels, from 1 (0 is for consoles); QEMU finds a place for a console that has none."""
    used: dict[int, set[int]] = {
        controller.index or 0: set(range(controller.ports, VIRTIO_SERIAL_PORTS + 1)) if controller.ports else set()
        for controller in of_type(domain, "virtio-serial")
    }
    waiting = []
    for channel in domain.devices.channels:
        address = channel.address
        if isinstance(address, VirtioSerialAddress) and address.port:
            used.setdefault(address.controller, set()).add(address.port)
        else:
            waiting.append(channel)
    for console in domain.devices.consoles:
        if isinstance(console.address, VirtioSerialAddress) and console.address.port is not None:
            used.setdefault(console.address.controller, set()).add(console.address.port)
    for channel in waiting:
        controllers = sorted(used)
        if isinstance(channel.address, VirtioSerialAddress):
            controllers = [channel.address.controller]
        channel.address = _free_port(used, controllers)


def _free_port(used: dict[int, set[int]], controllers: list[int]) -> VirtioSerialAddress:
    for controller in controllers:
        for port in range(1, VIRTIO_SERIAL_PORTS):
            if port not in used.setdefault(controller, set()):
                used[controller].add(port)
                return VirtioSerialAddress(controller=controller, port=port)
    raise XMLError("Unable to find a free virtio-serial port")


def assign_ccid(domain: Domain) -> None:
    """A reader for each smart card: a reader has one slot."""
    cards = domain.devices.smartcards
    used = {card.address.controller for card in cards if isinstance(card.address, CCIDAddress)}
    for card in cards:
        if card.address is None:
            free = next(number for number in range(len(cards)) if number not in used)
            used.add(free)
            card.address = CCIDAddress(controller=free, slot=0)


class USBPorts:
    """The free ports of a domain's USB buses: the controllers' own first, then those of hubs."""

    def __init__(self, domain: Domain) -> None:
        self.free: dict[int, list[str]] = {}
        for controller in of_type(domain, "usb"):
            if controller.model == "none" or (controller.model or "").startswith("ich9-uhci"):
                continue
            ports = controller.ports or USB_PORTS.get(controller.model or "", 2)
            self.free[controller.index or 0] = [str(port) for port in range(1, ports + 1)]
        self._there = {bus: set(ports) for bus, ports in self.free.items()}
        for device in sorted(usb_devices(domain), key=_depth):
            address = device.address
            if isinstance(address, USBAddress) and address.port is not None:
                self._take(address)
                if isinstance(device, Hub):
                    self.add_hub(address)

    def count(self) -> int:
        """How many ports are free."""
        return sum(map(len, self.free.values()))

    def add_hub(self, address: USBAddress) -> None:
        """Offer the ports of a hub at that address."""
        ports = self.free[address.bus]
        more = [f"{address.port}.{port}" for port in range(1, HUB_PORTS + 1)]
        self._there[address.bus].update(more)
        ports += more
        ports.sort(key=lambda port: (port.count("."), [int(part) for part in port.split(".")]))

    def next(self, bus: int | None = None) -> USBAddress:
        """Take the first free port, of one bus if given. Raises XMLError when there is none."""
        for index in sorted(self.free) if bus is None else [bus]:
            if self.free.get(index):
                return USBAddress(bus=index, port=self.free[index].pop(0))
        if not self.free:
            raise ConfigUnsupported("USB is disabled for this domain, but USB devices are present in the domain XML")
        raise XMLError("No free USB ports")

    def _take(self, address: USBAddress) -> None:
        bus, port = address.bus, address.port or ""
        if bus not in self.free:
            raise XMLError(f"Missing USB bus {bus}")
        if port not in self._there[bus]:
            hub = port.rpartition(".")[0]
            if hub and f"{hub}.1" not in self._there[bus]:
                raise XMLError(f"there is no hub at port {hub} in USB address bus: {bus} port: {port}")
            raise XMLError(f"requested USB port {port} not present on USB bus {bus}")
        if port in self.free[bus]:
            self.free[bus].remove(port)


def assign_usb(domain: Domain) -> None:
    """Ports for USB devices; a hub is added when the controllers have too few."""
    ports = USBPorts(domain)
    waiting = [device for device in usb_devices(domain) if not _plugged(device)]
    short = len(waiting) - ports.count() - HUB_PORTS * sum(isinstance(device, Hub) for device in waiting)
    if short > 0 and ports.free:
        for _ in range(-(-(short + 1) // (HUB_PORTS - 1))):
            domain.devices.hubs.append(Hub())
        waiting = [device for device in usb_devices(domain) if not _plugged(device)]
    for device in waiting:
        address = device.address
        device.address = ports.next(address.bus if isinstance(address, USBAddress) else None)
        if isinstance(device, Hub):
            ports.add_hub(device.address)


def usb_bus(domain: Domain, speed: int) -> int | None:
    """The first USB bus with a free port that a device of this speed (0 low, 1 full, 2 high, 3 super) can run on at it.

    Any with a free port if none is that fast; None when there is no free port at all.
    """
    free = [bus for bus, ports in sorted(USBPorts(domain).free.items()) if ports]
    models = {bus: {each.model or "" for each in of_type(domain, "usb") if (each.index or 0) == bus} for bus in free}
    return next((bus for bus in free if any(speed in speeds(model) for model in models[bus])), next(iter(free), None))


def speeds(model: str) -> range:
    """The speeds of a USB controller's ports, companions taken for what they are themselves."""
    if model.endswith("xhci"):
        return range(4)
    return range(2, 3) if "ehci" in model else range(2)


def usb_devices(domain: Domain) -> Iterator[Device]:
    """All devices on USB in the order in which they choose their ports."""
    devices = domain.devices
    yield from devices.hubs
    yield from (disk for disk in devices.disks if disk.target.bus == "usb")
    yield from (sound for sound in devices.sounds if sound.model == "usb")
    yield from (s for s in devices.serials if s.target is not None and s.target.type == "usb-serial")
    yield from (i for i in devices.interfaces if i.model is not None and i.model.type == "usb-net")
    yield from (device for device in devices.inputs if device.bus == "usb")
    yield from (device for device in devices.hostdevs if device.type == "usb")
    yield from devices.redirdevs
    yield from of_type(domain, "ccid")


def _depth(device: Device) -> tuple[bool, int]:
    """Sort key: hubs before what sits on them."""
    port = device.address.port if isinstance(device.address, USBAddress) else None
    return (not isinstance(device, Hub), (port or "").count("."))


def _plugged(device: Device) -> bool:
    return isinstance(device.address, USBAddress) and device.address.port is not None
