"""What a device becomes before it is plugged into a running machine: complete, placed, named, and in parts.

A pure function of the live document and of the device: the same completion as at definition, then a free place on the
buses that the machine has, and where a bus is missing that can be plugged too, its controller first. What comes out is
the next live document and the parts of the plan that are new in it; `render` makes the commands and their undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from corral.errors import OperationFailed, OperationInvalid, OperationUnsupported, XMLError
from corral.model import device_set
from corral.model.address import DriveAddress, PCIAddress, USBAddress, VirtioSerialAddress
from corral.model.devices.chardev import Channel, Console, Serial
from corral.model.devices.controller import Controller
from corral.model.devices.crypto import Crypto
from corral.model.devices.device import BootableDevice, Device
from corral.model.devices.disk import Disk
from corral.model.devices.filesystem import Filesystem
from corral.model.devices.hostdev import PCIHostdev, USBHostdev
from corral.model.devices.hostdev_scsi import SCSIHostdev
from corral.model.devices.hub import Hub, Redirdev
from corral.model.devices.input import Input
from corral.model.devices.interface import Interface
from corral.model.devices.memory import MemoryDevice
from corral.model.devices.rng import Rng
from corral.model.devices.shmem import Shmem
from corral.model.devices.smartcard import Smartcard
from corral.model.devices.sound import Sound
from corral.model.devices.vsock import Vsock
from corral.model.devices.watchdog import Watchdog
from corral.model.domain import Domain
from corral.qemu import addresses, controllers, default_devices, memory_slots, pci_slots, unsupported
from corral.qemu.binary import Binary
from corral.qemu.devices import controller as controller_parts
from corral.qemu.devices.disk import WIDE_SCSI
from corral.qemu.live import forget_run
from corral.qemu.plan import device_parts, device_setup, settle
from corral.qemu.runtime import Command, Part, Runtime

HOTPLUG_DISK_BUSES = ("virtio", "scsi", "usb")
WIDE_TARGETS = 256
"""SCSI targets on one virtio-scsi controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plug:
    """A device ready to be plugged in.

    `document` is the live document with it; `devices` what is new there, a controller before what sits on it, and
    `plain` the same as a document that does not run has them: without aliases, numbers and paths of this run.
    """

    document: Domain
    devices: tuple[Device, ...]
    plain: tuple[Device, ...]
    parts: tuple[Part, ...]
    setup: tuple[Command, ...]


def prepare(
    live: Domain,
    device: Device,
    binary: Binary,
    runtime: Runtime,
    *,
    first_node: int = 1,
    besides: Sequence[Device] = (),
) -> Plug:
    """Make a device fit for the running machine `live`; `runtime.chains` has the images of a disk.

    `first_node` is the lowest number for nodes of images that this run has not used yet; `besides` are devices that the
    machine still has although its document has them no more. Raises OperationUnsupported, ConfigUnsupported or XMLError
    for what cannot be plugged; nothing is changed by it.
    """
    refuse(live, device)
    before = device_set.shared(live)
    for other in besides:
        insert(before, other)
    document = device_set.shared(before)
    own = device.copy()
    forget_run(own)
    device_set.add(document, own)
    _complete(document, own, binary)
    new = _new(before, document)
    _place(document, new, movable=device.address is None)
    checked = device_set.shared(document)
    checked.devices.disks = [each for each in new if isinstance(each, Disk)]  # those that run may have their tray open
    unsupported.refuse(checked)
    document.check()
    plain = tuple(_plain(each) for each in new)
    if isinstance(own, Disk) and own.source is not None and own.source.where is not None and own.source.index is None:
        own.source.index = first_node
    marks = [(device_set.field_of(each), _position(document, each)) for each in new]
    document = settle(document, runtime)
    devices = tuple(getattr(document.devices, field)[position] for field, position in marks)
    parts = [part for each in devices for part in _parts(document, each, binary, runtime)]
    parts.sort(key=lambda part: part.kind == "device")
    setup = [command for each in devices for command in after(each)]
    return Plug(document=document, devices=devices, plain=plain, parts=tuple(parts), setup=tuple(setup))


def _parts(document: Domain, device: Device, binary: Binary, runtime: Runtime) -> list[Part]:
    """Without the boot index that `<os>` gives the first of a class: those of the running machine are given out."""
    parts = device_parts(document, device, binary, runtime)
    if isinstance(device, BootableDevice) and device.boot is None:
        return [replace(each, props={k: v for k, v in each.props.items() if k != "bootindex"}) for each in parts]
    return parts


def insert(document: Domain, device: Device) -> None:
    """Put a complete device where a definition would have it."""
    if isinstance(device, Controller):
        controllers.insert(document, device)
        return
    device_set.add(document, device)
    if isinstance(device, Disk):
        document.devices.disks = default_devices.grouped(document.devices.disks)


def refuse(live: Domain, device: Device) -> None:
    """Raise for a device that no running machine can take; texts are libvirt's."""
    match device:
        case Disk():
            for disk in live.devices.disks:
                if disk.target.dev == device.target.dev:
                    paths = [each.source.where if each.source is not None else "" for each in (disk, device)]
                    raise XMLError(
                        f"target '{disk.target.dev}' duplicated for disk sources '{paths[0]}' and '{paths[1]}'"
                    )
            if device.bus is not None and device.bus not in HOTPLUG_DISK_BUSES:
                raise OperationUnsupported(
                    f"disk bus '{device.bus}' cannot be hotplugged.",
                    hint=f"stop the machine first, or choose {', '.join(HOTPLUG_DISK_BUSES)}",
                )
        case Channel():
            if any(channel.target.name == device.target.name for channel in live.devices.channels):
                raise OperationInvalid("chardev already exists", hint=f"it is the channel '{device.target.name}'")
        case Controller():
            if any(c.type == device.type and c.index == device.index for c in live.devices.controllers):
                raise OperationFailed(f"target {device.type}:{device.index} already exists")
            if not _pluggable(device):
                raise OperationUnsupported(f"'{device.type}' controller cannot be hot plugged.")
        case Input():
            if device.bus == "ps2" or (device.bus is None and device.type != "tablet"):
                raise OperationUnsupported("input device on bus 'ps2' cannot be hot plugged.")
        case Watchdog():
            if device.model != "i6300esb":
                raise OperationUnsupported(f"hotplug of watchdog model '{device.model}' is not supported")
        case Serial():
            kind = device.target.type if device.target is not None else None
            if kind not in ("usb-serial", "pci-serial"):
                raise OperationUnsupported(
                    f"Hotplug unsupported for char device type '{kind or 'isa-serial'}'",
                    hint="the ISA bus cannot be changed while the machine runs; use target type 'pci-serial'",
                )
        case Console() if device.is_virtio:
            pass
        case Interface() | Channel() | Rng() | Redirdev() | Hub() | Shmem() | Crypto() | Smartcard():
            pass
        case PCIHostdev() | USBHostdev() | SCSIHostdev():
            pass
        case MemoryDevice():
            memory_slots.refuse_unfit(live, device)
        case Filesystem():
            if not device.is_virtiofs:
                raise OperationUnsupported("only virtiofs filesystems can be hotplugged")
        case Vsock():
            if live.devices.vsocks:
                raise OperationInvalid("the domain already has a vsock device")
        case Sound():
            if device.model in ("pcspk", "sb16", "ich6", "ich9"):  # the codecs' bus takes none later
                raise OperationUnsupported(f"hotplug is not supported for the {device.model} device")
        case _:
            raise OperationUnsupported(f"live attach of device '{device_set.kind(device)}' is not supported")


def refuse_unplug(live: Domain, device: Device) -> None:
    """Raise for a device that no running machine can give back; texts are libvirt's."""
    match device:
        case Disk():
            if device.target.bus not in HOTPLUG_DISK_BUSES:
                raise OperationFailed("This type of disk cannot be hot unplugged")
        case Controller():
            if not _pluggable(device):
                raise OperationUnsupported(f"'{device.type}' controller cannot be hot unplugged.")
            if _busy(live, device):
                raise OperationFailed("device cannot be detached: device is busy")
        case Input():
            if device.bus == "ps2":
                raise OperationUnsupported("input device on bus 'ps2' cannot be hot unplugged.")
        case Watchdog():
            if device.model != "i6300esb":
                raise OperationUnsupported(f"hot unplug of watchdog of model {device.model} is not supported")
        case Serial():
            if device.target is None or device.target.type not in ("usb-serial", "pci-serial"):
                raise OperationUnsupported("Hot unplug of an ISA serial port is not supported")
        case Interface() if partner := _partner(live, device):
            raise OperationFailed("device cannot be detached: device is busy", hint=f"unplug {partner} first")
        case Console() if device.is_virtio:
            pass
        case Interface() | Channel() | Rng() | Redirdev() | Hub() | Shmem() | Crypto() | Smartcard():
            pass
        case PCIHostdev() | USBHostdev() | SCSIHostdev() | Vsock():
            pass
        case MemoryDevice():
            if device.model not in ("dimm", "virtio-mem"):
                raise OperationUnsupported(f"QEMU cannot unplug a memory device of model '{device.model}'")
        case Filesystem():
            if not device.is_virtiofs:
                raise OperationUnsupported("only virtiofs filesystems can be hot unplugged")
        case Sound():
            if device.model in ("pcspk", "sb16"):
                raise OperationUnsupported("live detach of device 'sound' is not supported")
        case _:
            raise OperationUnsupported(f"live detach of device '{device_set.kind(device)}' is not supported")


def _partner(live: Domain, card: Interface) -> str | None:
    """The alias of a card that comes and goes in a team with this one, which stays."""
    for other in (*live.devices.interfaces, *live.devices.hostdevs):
        team = other.teaming if isinstance(other, Interface | PCIHostdev) else None
        if team is not None and card.alias is not None and team.persistent == card.alias.name:
            return other.alias.name if other.alias is not None else None
    return None


def _pluggable(controller: Controller) -> bool:
    """Whether QEMU takes such a controller, and gives it back, while the machine runs."""
    xhci = controller.type == "usb" and controller.model in ("qemu-xhci", "nec-xhci")
    return xhci or controller.type in ("scsi", "virtio-serial", "nvme")


def _busy(live: Domain, controller: Controller) -> bool:
    """Whether something sits on the controller."""
    index = controller.index or 0
    for device in device_set.all_of(live):
        address = device.address
        match controller.type:
            case "scsi":
                on_scsi = isinstance(device, SCSIHostdev) or (isinstance(device, Disk) and device.target.bus == "scsi")
                found = on_scsi and isinstance(address, DriveAddress) and address.controller == index
            case "nvme":
                on_nvme = isinstance(device, Disk) and device.target.bus == "nvme"
                found = on_nvme and isinstance(address, DriveAddress) and address.controller == index
            case "usb":
                found = isinstance(address, USBAddress) and address.bus == index
            case _:
                found = isinstance(address, VirtioSerialAddress) and address.controller == index
        if found:
            return True
    return False


def _complete(document: Domain, device: Device, binary: Binary) -> None:
    """Fill in the device as a definition would, with the controllers that it needs."""
    known = list(document.devices.controllers)
    opened = document.devices.graphics
    document.devices.graphics = [each.copy() for each in opened]  # a definition's have no port that was chosen
    default_devices.complete(document, binary)
    document.devices.graphics = opened
    for controller in document.devices.controllers:
        # The one controller that guests notice disks on while they run is the one they have, if any.
        if controller.type == "scsi" and controller is not device and all(controller is not each for each in known):
            models = [each.model for each in known if each.type == "scsi"]
            if models:
                controller.model = models[-1]


def _new(live: Domain, document: Domain) -> list[Device]:
    """What `document` has and `live` has not, a bus before what sits on it."""
    before = {id(device) for device in device_set.all_of(live)}
    # Those that mirror a serial port are made anew from it each time.
    mirrors = {id(console) for console in document.devices.consoles if not console.is_virtio}
    new = [each for each in device_set.all_of(document) if id(each) not in before | mirrors]
    buses = sorted((each for each in new if isinstance(each, Controller)), key=controller_parts.plugged_first)
    return [*buses, *(each for each in new if not isinstance(each, Controller))]


def _position(document: Domain, device: Device) -> int:
    return next(place for place, each in enumerate(device_set.family(document, device)) if each is device)


def _place(document: Domain, new: list[Device], *, movable: bool) -> None:
    """Give the new devices their addresses among those that the machine has; `movable`: the user named none."""
    further = [each for each in new if isinstance(each, Controller) and each.type == "scsi"]
    if movable and len(further) > 1 and not _double_up(document, new, further):
        # A target name far down the alphabet asks for many controllers, of which all but one would stay empty.
        disk = next(each for each in new if isinstance(each, Disk))
        _without(document, new, further[1:])
        disk.address = DriveAddress(controller=further[0].index or 0)
    try:
        _place_pci(document, new)
    except XMLError:
        if not movable or not _double_up(document, new, further):
            raise
        _place_pci(document, new)
    addresses.assign_virtio_serial(document)
    addresses.assign_ccid(document)
    ports = None
    for device in addresses.usb_devices(document):
        if all(device is not each for each in new):
            continue
        ports = ports or addresses.USBPorts(document)  # raises for a port that is not there
        place = device.address
        if not isinstance(place, USBAddress) or place.port is None:
            device.address = ports.next(place.bus if isinstance(place, USBAddress) else None)


def _place_pci(document: Domain, new: list[Device]) -> None:
    for device in new:
        address = device.address
        if pci_slots.connection(document, device) is None:
            continue
        if address is None or (isinstance(address, PCIAddress) and not address.assigned):
            device.address = pci_slots.free_place(document, device)


def _double_up(document: Domain, new: list[Device], further: list[Controller]) -> bool:
    """Put a SCSI disk on a free target of a wide controller that is there, instead of on further controllers.

    False where that cannot be: nothing is changed then.
    """
    disks = [each for each in new if isinstance(each, Disk) and each.target.bus == "scsi"]
    there = [
        each
        for each in controllers.of_type(document, "scsi")
        if each.model in WIDE_SCSI and all(each is not other for other in further)
    ]
    places = [place for each in there if (place := free_target(document, each.index or 0)) is not None]
    if not further or not disks or not places:
        return False
    _without(document, new, further)
    disks[0].address = places[0]
    return True


def _without(document: Domain, new: list[Device], unwanted: Sequence[Device]) -> None:
    for each in unwanted:
        device_set.remove(document, each)
    new[:] = [each for each in new if all(each is not other for other in unwanted)]


def free_target(document: Domain, controller: int) -> DriveAddress | None:
    """The first SCSI target of a wide controller on which nothing sits; None when all are taken."""
    sitting = [*(disk for disk in document.devices.disks if disk.target.bus == "scsi"), *document.devices.scsi_hostdevs]
    places = [each.address for each in sitting if isinstance(each.address, DriveAddress)]
    used = {place.target for place in places if place.controller == controller}
    free = next((target for target in range(WIDE_TARGETS) if target not in used), None)
    return None if free is None else DriveAddress(controller=controller, target=free)


def _plain(device: Device) -> Device:
    """A copy for documents that do not run."""
    twin = device.copy()
    forget_run(twin)
    if isinstance(twin, USBHostdev) and twin.source.vendor is not None:
        twin.source.address = None  # where it is plugged in now
    if isinstance(twin, Vsock) and twin.cid is not None and twin.cid.auto == "yes":
        twin.cid.address = None  # the number that was free now
    return twin


def after(device: Device) -> Sequence[Command]:
    """What is told to QEMU once the device is there; may be told again."""
    if isinstance(device, Watchdog):  # the action is the machine's: there is one for all watchdogs
        action = device.action or "reset"
        return [("set-action", {"watchdog": "pause" if action == "dump" else action})]
    return device_setup(device)


def next_node(live: Domain) -> int:
    """The lowest node number above all that the document's images have."""
    highest = 0
    for disk in live.devices.disks:
        if disk.source is not None:
            highest = max(highest, disk.source.index or 0)
        store = disk.backing_store
        while store is not None:
            if store.source is not None:
                highest = max(highest, store.source.index or 0)
            store = store.backing_store
    return highest + 1
