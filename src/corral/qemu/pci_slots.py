"""PCI addresses: which slot of which bus each device gets, and the root ports and bridges this takes.

The places are those libvirt chooses, so that a document that moves between the two keeps its addresses: fixed places
of the chipset's own functions first, then bridges, interfaces, sound, controllers, disks, balloon, rng, watchdog,
further video, input, serial, panic, memory. On q35 PCI Express devices get a root port each (root ports share the
functions of one slot), conventional ones a slot behind one PCIe-to-PCI bridge, and one root port stays free for
hotplug unless the document brings ports of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from corral.errors import XMLError
from corral.model.address import PCIAddress
from corral.model.devices.chardev import Serial
from corral.model.devices.controller import Controller, ControllerHardware, ControllerTarget
from corral.model.devices.crypto import Crypto
from corral.model.devices.device import Device
from corral.model.devices.disk import Disk
from corral.model.devices.filesystem import Filesystem
from corral.model.devices.hostdev import PCIHostdev
from corral.model.devices.input import Input
from corral.model.devices.interface import Interface
from corral.model.devices.iommu import IOMMU
from corral.model.devices.memballoon import Memballoon
from corral.model.devices.memory import MemoryDevice
from corral.model.devices.panic import Panic
from corral.model.devices.rng import Rng
from corral.model.devices.shmem import Shmem
from corral.model.devices.sound import Sound
from corral.model.devices.video import Video
from corral.model.devices.vsock import Vsock
from corral.model.devices.watchdog import Watchdog
from corral.model.domain import Domain
from corral.qemu.controllers import insert, next_index

Connection = Literal["pci", "pcie", "root-port", "integrated"]
"""What a device plugs into: a conventional slot, an Express port, a function of the Express root, the root bus."""

WHOLE_SLOT = range(8)
SLOTS = {
    "pci-root": range(1, 32),
    "pcie-root": range(1, 32),
    "pci-bridge": range(1, 32),
    "pcie-to-pci-bridge": range(1, 32),
    "dmi-to-pci-bridge": range(32),
    "pcie-root-port": range(1),
    "pcie-switch-downstream-port": range(1),
    "pcie-switch-upstream-port": range(32),
}
"""The slots that devices may have on each kind of bus."""

ACCEPTS: dict[Connection, frozenset[str]] = {
    "pci": frozenset({"pci-root", "pci-bridge", "pcie-to-pci-bridge"}),
    "pcie": frozenset({"pcie-root-port", "pcie-switch-downstream-port"}),
    "root-port": frozenset({"pcie-root"}),
    "integrated": frozenset({"pci-root", "pcie-root"}),
}

CONVENTIONAL_INTERFACES = frozenset({"rtl8139", "e1000", "ne2k_pci", "pcnet", "i82559er", "virtio-transitional"})
EXPRESS_CONTROLLERS = frozenset(
    {"qemu-xhci", "nec-xhci", "virtio-scsi", "vmpvscsi", "virtio", "virtio-non-transitional"}
)
COMPANIONS = {"ich9-ehci1": 7, "ich9-uhci1": 0, "ich9-uhci2": 1, "ich9-uhci3": 2}
"""Controllers of one USB 2 bus: functions of one slot."""

BRIDGES: dict[str, Connection] = {
    "pcie-root-port": "root-port",
    "pcie-to-pci-bridge": "pcie",
    "dmi-to-pci-bridge": "integrated",
    "pci-bridge": "pci",
}


class _FullError(Exception):
    """No bus has a free place for that connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


@dataclass(slots=True)
class _Bus:
    model: str
    slots: dict[int, dict[int, Device | None]] = field(default_factory=dict)
    """slot → function → device; None stands for the chipset's own."""
    shared: set[int] = field(default_factory=set)
    """Slots whose functions are filled with root ports, one by one."""

    def take(self, slot: int, functions: range | tuple[int, ...], device: Device | None) -> None:
        self.slots.setdefault(slot, {}).update(dict.fromkeys(functions, device))

    def free(self) -> Iterator[int]:
        return (slot for slot in SLOTS.get(self.model, range(32)) if slot not in self.slots)


_Buses = dict[int, _Bus]


def is_q35(domain: Domain) -> bool:
    """Whether the machine's root bus is PCI Express."""
    machine = domain.os.type.machine or ""
    return machine == "q35" or machine.startswith("pc-q35")


def assign(domain: Domain) -> None:
    """Give every PCI device of the document without an address one, adding ports and bridges as needed.

    Raises XMLError for addresses that are used twice, or lie on buses that cannot have them.
    """
    controllers = domain.devices.controllers
    if not any(controller.model in ("pci-root", "pcie-root") for controller in controllers):
        return
    fixed = {id(device) for device, _ in _devices(domain) if _address(device) is not None}
    _cover_named_buses(domain)
    spare = is_q35(domain) and not any(c.type == "pci" and c.index != 0 for c in controllers)
    while True:
        try:
            _place_all(domain)
        except _FullError as full:
            missing = _missing(domain, full.connection)
            _forget(domain, fixed)
            for _ in range(missing):
                _extend(domain, full.connection)
            continue
        if not spare:
            break
        spare = False
        _forget(domain, fixed)
        _extend(domain, "pcie")
    for controller in controllers:
        _name_bridge(controller)


def connection(domain: Domain, device: Device) -> Connection | None:
    """How a device plugs into PCI; None for one that does not."""
    kind = _kind(device)
    return "pci" if kind == "pcie" and not is_q35(domain) else kind


def free_place(domain: Domain, device: Device) -> PCIAddress:
    """A free address for a device to be plugged into the machine as it is; q35 has as many as free root ports.

    Raises XMLError when there is none.
    """
    wanted = connection(domain, device)
    try:
        if wanted is None:
            raise _FullError("pci")
        return _next(_reserved(domain), wanted)
    except _FullError:
        raise XMLError("No more available PCI slots", hint=_way_out(domain, wanted)) from None


def _way_out(domain: Domain, wanted: Connection | None) -> str:
    if wanted == "pci" and is_q35(domain):
        return (
            "a card for conventional PCI needs a pcie-to-pci-bridge, which a machine gets when it is off; "
            "while it runs choose a virtio model"
        )
    return "a machine has as many as its root ports and bridges; add some to its definition"


def _kind(device: Device) -> Connection | None:
    match device:
        case Controller():
            return _controller_kind(device)
        case Disk(target=target):
            return _virtio_kind(device.model) if target.bus == "virtio" else None
        case Interface(type="hostdev"):
            return "pcie"
        case Interface(model=model):
            name = model.type if model is not None else "rtl8139"
            return None if name == "usb-net" else "pci" if name in CONVENTIONAL_INTERFACES else "pcie"
        case Sound(model=card):
            return "pci" if card in ("ich6", "ich9", "ac97", "es1370") else "pcie" if card == "virtio" else None
        case Memballoon(model=name) | Rng(model=name):
            return None if name == "none" else _virtio_kind(name)
        case Watchdog(model="i6300esb"):
            return "pci"
        case Video(model=card):
            name = card.type if card is not None else "vga"
            return None if name in ("none", "ramfb") else "pcie" if name in ("virtio", "bochs") else "pci"
        case Input(bus="virtio"):
            return _virtio_kind(device.model)
        case Serial(target=target):
            return "pci" if target is not None and target.type == "pci-serial" else None
        case IOMMU(model="virtio"):
            return "integrated"
        case Filesystem(model=name) | Vsock(model=name):
            return _virtio_kind(name)
        case PCIHostdev():
            return "pcie"
        case Shmem() | Crypto():
            return "pci"
        case Panic(model="pvpanic"):
            return "integrated"
        case MemoryDevice() if not device.in_slot:
            return "pcie"
    return None


def _virtio_kind(model: str | None) -> Connection:
    """A transitional device has I/O ports, which Express ports may not carry."""
    return "pci" if model == "virtio-transitional" else "pcie"


def _controller_kind(controller: Controller) -> Connection | None:
    match controller.type:
        case "pci":
            return BRIDGES.get(controller.model or "")
        case "usb" if controller.model == "none":
            return None
        case "usb" | "scsi" | "sata":
            return "pcie" if controller.model in EXPRESS_CONTROLLERS else "pci"
        case "virtio-serial":
            return _virtio_kind(controller.model)
        case "nvme":
            return "pcie"
        case "ide" if controller.index == 0:
            return "pci"
    return None


def _devices(domain: Domain) -> Iterator[tuple[Device, Connection]]:
    """All PCI devices in the order in which they choose their places."""
    devices = domain.devices
    others = [controller for controller in devices.controllers if controller.type != "pci"]
    order: list[Device] = [controller for controller in devices.controllers if controller.type == "pci"]
    order += [*devices.filesystems, *devices.interfaces, *devices.sounds, *others, *devices.disks, *devices.hostdevs]
    order += [devices.memballoon] if devices.memballoon is not None else []
    order += [*devices.rngs, *devices.watchdogs, *devices.videos, *devices.inputs, *devices.serials, *devices.panics]
    order += devices.memories
    order += devices.iommus
    order += [*devices.shmems, *devices.cryptos, *devices.vsocks]
    for device in order:
        if (wanted := connection(domain, device)) is not None:
            yield device, wanted


def _address(device: Device) -> PCIAddress | None:
    """The device's PCI address; the all-zero one stands for none."""
    address = device.address
    if address is None or (isinstance(address, PCIAddress) and not address.assigned):
        return None
    if not isinstance(address, PCIAddress):
        raise XMLError(f"{type(device).__name__.lower()} needs an address of type 'pci', not '{address.type}'")
    return address


def _place_all(domain: Domain) -> None:
    buses = _reserved(domain)
    _place_chipset(domain, buses)
    for device, wanted in _devices(domain):
        if _address(device) is None:
            device.address = _companion(domain, device, buses) or _next(buses, wanted)
            _take(buses, device)
    for bus in buses.values():
        for functions in bus.slots.values():
            first = functions.get(0)
            if first is not None and any(other is not first for other in functions.values()):
                address = first.address
                if isinstance(address, PCIAddress) and address.multifunction is None:
                    address.multifunction = "on"


def _reserved(domain: Domain) -> _Buses:
    """The buses with the chipset's own places and all addresses of the document taken."""
    buses = {c.index or 0: _Bus(c.model or "") for c in domain.devices.controllers if c.type == "pci"}
    if is_q35(domain):
        buses[0].take(0x1F, (0, 3), None)
    else:
        buses[0].take(0x01, (0, 3), None)
    for device, _ in _devices(domain):
        if _address(device) is not None:
            _take(buses, device)
    return buses


def _take(buses: _Buses, device: Device) -> None:
    address = _address(device)
    assert address is not None
    bus = buses.get(address.bus)
    if bus is None or address.slot not in SLOTS.get(bus.model, range(32)):
        raise XMLError(f"Invalid PCI address {address}: the bus has no such slot")
    used = bus.slots.get(address.slot, {})
    if address.function in used:
        raise XMLError(f"Attempted double use of PCI Address {address}")
    if isinstance(device, Controller) and device.model == "pcie-root-port" and not used:
        bus.shared.add(address.slot)
    bus.take(address.slot, (address.function,), device)


def _place_chipset(domain: Domain, buses: _Buses) -> None:
    """Give the chipset's own functions, and the first video card, their traditional places."""
    q35 = is_q35(domain)
    groups: dict[int, int] = {}
    for controller in domain.devices.controllers:
        if controller.type == "ccid" or _address(controller) is not None:
            continue
        index = controller.index or 0
        if controller.type == "ide" and index == 0 and not q35:
            _settle(buses, controller, 0x01, 1)
        elif controller.model == "piix3-uhci" and index == 0 and not q35:
            _settle(buses, controller, 0x01, 2)
        elif controller.type == "sata" and index == 0 and q35:
            _settle(buses, controller, 0x1F, 2)
        elif controller.model in COMPANIONS and q35:
            slot = groups.setdefault(index, (0x1D, 0x1A)[len(groups)] if len(groups) < 2 else 0)
            if slot:
                _settle(buses, controller, slot, COMPANIONS[controller.model])
    video = domain.devices.videos[0] if domain.devices.videos else None
    if video is not None and connection(domain, video) is not None:
        slot = 0x01 if q35 else 0x02
        if _address(video) is None and slot not in buses[0].slots:
            _settle(buses, video, slot, 0)
    for sound in domain.devices.sounds:
        if q35 and sound.model == "ich9" and _address(sound) is None:
            _settle(buses, sound, 0x1B, 0)
            break


def _settle(buses: _Buses, device: Device, slot: int, function: int) -> None:
    """Put the device at a traditional place on the root bus, if that is free."""
    if function not in buses[0].slots.get(slot, {}):
        device.address = PCIAddress(bus=0, slot=slot, function=function)
        _take(buses, device)


def _companion(domain: Domain, device: Device, buses: _Buses) -> PCIAddress | None:
    """The place of a USB controller beside those of the same USB bus; a slot of its own for the first of them."""
    if not isinstance(device, Controller) or device.model not in COMPANIONS:
        return None
    function = COMPANIONS[device.model]
    for other in domain.devices.controllers:
        if other.type == "usb" and other.index == device.index and other.model in COMPANIONS:
            address = _address(other)
            if address is not None and function not in buses[address.bus].slots[address.slot]:
                return PCIAddress(bus=address.bus, slot=address.slot, function=function)
    place = _next(buses, "pci")
    place.function = function
    return place


def _next(buses: _Buses, wanted: Connection) -> PCIAddress:
    for index in sorted(buses):
        bus = buses[index]
        if bus.model not in ACCEPTS[wanted]:
            continue
        if wanted == "root-port":
            for slot in sorted(bus.shared):
                for function in WHOLE_SLOT:
                    if function not in bus.slots[slot]:
                        return PCIAddress(bus=index, slot=slot, function=function)
        for slot in bus.free():
            return PCIAddress(bus=index, slot=slot, function=0)
    raise _FullError(wanted)


def _missing(domain: Domain, wanted: Connection) -> int:
    """How many devices in a row need a new place of that kind: the first that found none, and those that will not."""
    if wanted != "pcie":
        return 1  # a bridge has room for many
    unplaced = (kind for device, kind in _devices(domain) if _address(device) is None)
    return sum(1 for _ in itertools.takewhile(lambda kind: kind == wanted, unplaced))


def _forget(domain: Domain, fixed: set[int]) -> None:
    """Take back the addresses given so far: more ports come, and ports choose first."""
    for device, _ in _devices(domain):
        if id(device) not in fixed:
            device.address = None


def _extend(domain: Domain, wanted: Connection) -> None:
    """Add what makes room for one more device of that kind. Raises XMLError when the root bus itself is full."""
    if wanted in ("root-port", "integrated"):
        raise XMLError("No more available PCI slots")
    if is_q35(domain):
        _add(domain, "pcie-root-port")
        if wanted == "pci":
            _add(domain, "pcie-to-pci-bridge")
    else:
        _add(domain, "pci-bridge")


def _add(domain: Domain, model: Literal["pcie-root-port", "pcie-to-pci-bridge", "pci-bridge"]) -> None:
    index = next_index(domain, "pci")
    if index > 255:
        raise XMLError("No more available PCI slots")
    insert(domain, Controller(type="pci", index=index, model=model))


def _cover_named_buses(domain: Domain) -> None:
    """Add the ports or bridges behind which the document's addresses lie."""
    known = {controller.index for controller in domain.devices.controllers if controller.type == "pci"}
    named = {address.bus for device, _ in _devices(domain) if (address := _address(device)) is not None}
    for index in range(1, max(named, default=0) + 1):
        if index not in known:
            model: Literal["pcie-root-port", "pci-bridge"] = "pcie-root-port" if is_q35(domain) else "pci-bridge"
            insert(domain, Controller(type="pci", index=index, model=model))


def _name_bridge(controller: Controller) -> None:
    """Say which device a PCI controller is, and what the guest sees as its number."""
    address, index = controller.address, controller.index
    target = controller.target or ControllerTarget()
    match controller.model:
        case "pcie-root-port":
            controller.hardware = controller.hardware or ControllerHardware(name="pcie-root-port")
            if target.chassis is None:
                target.chassis = index
            if target.port is None and isinstance(address, PCIAddress):
                target.port = (address.slot << 3) + address.function
        case "pci-bridge":
            controller.hardware = controller.hardware or ControllerHardware(name="pci-bridge")
            if target.chassis_nr is None:
                target.chassis_nr = index
        case "pcie-to-pci-bridge":
            controller.hardware = controller.hardware or ControllerHardware(name="pcie-pci-bridge")
            return
        case "dmi-to-pci-bridge":
            controller.hardware = controller.hardware or ControllerHardware(name="i82801b11-bridge")
            return
        case _:
            return
    controller.target = target
