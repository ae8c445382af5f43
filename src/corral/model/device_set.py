"""The devices of a domain as one collection: read a single one, find it in a document, put it in, take it out.

Which device of a document a client means follows libvirt: a disk by its target, an interface by its MAC address and
place, a controller by its index, all others by what the client wrote about them. Texts are libvirt's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corral.errors import ConfigUnsupported, DeviceMissing, OperationFailed, OperationUnsupported, XMLError
from corral.model.address import PCIAddress
from corral.model.devices.chardev import Chardev, Console
from corral.model.devices.controller import Controller
from corral.model.devices.device import Device
from corral.model.devices.disk import Disk
from corral.model.devices.interface import Interface
from corral.model.devices.memory import MemoryDevice
from corral.model.domain import Devices, Domain
from corral.model.element import Element
from corral.model.shape import Child, shape_of
from corral.model.units import Memory

USER_ALIAS = "ua-"
"""What the name of an alias that its user chose, and that stays, begins with."""

SIMPLE_TEXTS = {
    "rng": "no matching RNG device was found",
    "redirdev": "no matching redirdev was not found",
    "hostdev": "no matching hostdev device was found",
    "filesystem": "no matching filesystem device was found",
    "shmem": "device not present in domain configuration",
    "tpm": "matching tpm device not found",
    "vsock": "matching vsock device not found",
    "input": "matching input device not found",
    "watchdog": "no matching watchdog was found",
}


def kind(device: Element) -> str:
    """libvirt's word for the family: the element's name, and `chr` for all character devices."""
    return "chr" if isinstance(device, Chardev) else shape_of(type(device)).tag


def read(xml: str) -> Element:
    """The one device, or display, that a client describes; XMLError or ConfigUnsupported names path and line."""
    from corral.model import reader

    tag = str(reader.parse(xml).tag)
    child = shape_of(Devices).children.get(tag)
    if child is None or child.kind != "element":
        raise ConfigUnsupported(f"unknown device type '{tag}'")
    kind = reader.parse(xml).get(child.discriminator) if child.discriminator is not None else None
    cls = child.classes.get(kind) or child.classes[None]
    return cls.from_xml(xml)


def read_device(xml: str) -> Device:
    """The one device, which is no display."""
    device = read(xml)
    if not isinstance(device, Device):
        raise XMLError(f"unexpected element <{kind(device)}>")
    return device


def field_of(device: Device) -> str:
    """The member of `Devices` in which such a device stands."""
    return next(child.field for child in _families() if type(device) in child.classes.values())


def all_of(domain: Domain) -> Iterator[Device]:
    """Every device, family by family."""
    for child in _families():
        value = getattr(domain.devices, child.field)
        yield from value if child.many else [value] if value is not None else []


def family(domain: Domain, device: Device) -> list[Device]:
    """The document's own list of the devices of that one's family, to be read or changed."""
    found = getattr(domain.devices, field_of(device))
    if not isinstance(found, list):
        raise OperationUnsupported(f"live detach of device '{kind(device)}' is not supported")
    return found


def shared(domain: Domain) -> Domain:
    """A copy with lists of its own whose devices are those of the original: they may be exchanged, not changed."""
    twin = domain.model_copy()
    devices = twin.devices = domain.devices.model_copy()
    for child in _families():
        if child.many:
            setattr(devices, child.field, list(getattr(devices, child.field)))
    return twin


def by_alias(domain: Domain, alias: str) -> Device | None:
    """The device with that alias; a console that mirrors the serial port is not one."""
    return next((each for each in all_of(domain) if each.alias is not None and each.alias.name == alias), None)


def find(domain: Domain, wanted: Device) -> Device:
    """The device of the document that a client means by `wanted`.

    Raises DeviceMissing for none, OperationFailed where it could be any of several.
    """
    match wanted:
        case Disk():
            return _disk(domain, wanted)
        case Interface():
            return _interface(domain, wanted)
        case Controller():
            return _controller(domain, wanted)
        case MemoryDevice():
            return _memory(domain, wanted)
    said = _said(wanted)
    for device in family(domain, wanted):
        if _agrees(_said(device), said):
            return device
    tag = kind(wanted)
    if tag == "chr":
        raise DeviceMissing(f"chr type '{shape_of(type(wanted)).tag}' device not present in domain configuration")
    raise DeviceMissing(SIMPLE_TEXTS.get(tag, f"matching {tag} device not found"))


def twin(domain: Domain, device: Device) -> Device | None:
    """That device in another version of its domain's document, with aliases or without; None when it is not there."""
    alias = device.alias.name if device.alias is not None else None
    for other in family(domain, device):
        if other is device or (other.alias is not None and other.alias.name == alias):
            return other
        if other.alias is None and _same_place(other, device):
            return other
    return None


def _same_place(one: Device, other: Device) -> bool:
    """Whether two devices of a family sit at the same place, in documents of which one may lack aliases."""
    match one, other:
        case Disk(), Disk():
            return one.target.dev == other.target.dev
        case Interface(), Interface():
            macs = [each.mac.address.lower() if each.mac is not None else None for each in (one, other)]
            return macs[0] == macs[1] and str(one.address) == str(other.address)
        case Controller(), Controller():
            return (one.type, one.index, one.model) == (other.type, other.index, other.model)
        case Console(), Console():
            return one.target == other.target
    return one.address is not None and str(one.address) == str(other.address)


def add(domain: Domain, device: Device) -> None:
    """Put the device behind those of its family."""
    family(domain, device).append(device)
    _count(domain, device, 1)


def _count(domain: Domain, device: Device, sign: int) -> None:
    """A memory device is a part of the domain's memory, as in libvirt's documents.

    Of a running one's current memory only what the guest has at once: a module's, not that of a virtio-mem.
    """
    if not isinstance(device, MemoryDevice):
        return
    kib = sign * device.target.size.kib
    if domain.memory is not None:
        domain.memory = domain.memory.model_copy(update={"kib": max(0, domain.memory.kib + kib)})
    if domain.current_memory is not None and (domain.id is None or device.model == "dimm"):
        most = domain.memory.kib if domain.memory is not None else 0
        domain.current_memory = Memory(kib=min(most, max(0, domain.current_memory.kib + kib)))


def remove(domain: Domain, device: Device) -> None:
    """Take the device, this very object, out of the document."""
    devices = family(domain, device)
    if any(each is device for each in devices):
        devices[:] = [each for each in devices if each is not device]
        _count(domain, device, -1)


def replace(domain: Domain, old: Device, new: Device) -> None:
    """Put `new` where `old` stood."""
    devices = family(domain, old)
    devices[:] = [new if each is old else each for each in devices]


def _families() -> Iterator[Child]:
    for child in shape_of(Devices).order:
        if child.kind == "element" and all(issubclass(cls, Device) for cls in child.classes.values()):
            yield child


def _disk(domain: Domain, wanted: Disk) -> Disk:
    for disk in domain.devices.disks:
        if disk.target.dev == wanted.target.dev:
            return disk
    raise DeviceMissing(f"disk {wanted.target.dev} not found")


def _controller(domain: Domain, wanted: Controller) -> Controller:
    for controller in domain.devices.controllers:
        if controller.type == wanted.type and controller.index == (wanted.index or 0):
            return controller
    raise DeviceMissing(f"controller {wanted.type}:{wanted.index or 0} not found")


def _memory(domain: Domain, wanted: MemoryDevice) -> MemoryDevice:
    said = _said(wanted)
    said["target"].pop("current", None)
    for device in domain.devices.memories:
        if _agrees(_said(device), said):
            return device
    if domain.id is not None:
        raise DeviceMissing(f"model '{wanted.model}' memory device not present in the domain configuration")
    raise DeviceMissing("matching memory device was not found")


def _interface(domain: Domain, wanted: Interface) -> Interface:
    mac = wanted.mac.address.lower() if wanted.mac is not None else None
    place = wanted.address if isinstance(wanted.address, PCIAddress) and wanted.address.assigned else None
    alias = wanted.alias.name if wanted.alias is not None else None
    found = [
        each
        for each in domain.devices.interfaces
        if (mac is None or (each.mac is not None and each.mac.address.lower() == mac))
        and (place is None or str(each.address) == str(place))
        and (alias is None or each.alias is None or each.alias.name == alias)
    ]
    if len(found) > 1:
        if mac is not None:
            raise OperationFailed(f"multiple devices matching MAC address {mac} found")
        raise OperationFailed("multiple matching devices found")
    if not found:
        said = f" at address '{place}'" if place is not None else ""
        said += f" matching MAC address '{mac}'" if mac is not None else ""
        said += f" and alias '{alias}'" if alias is not None else ""
        raise DeviceMissing(f"no device found{said}")
    return found[0]


def _said(device: Device) -> dict[str, Any]:
    return device.to_data(secure=True)


def _agrees(device: Any, wanted: Any) -> bool:
    """Whether all that is said in `wanted` is so in `device`."""
    if isinstance(wanted, dict):
        return isinstance(device, dict) and all(_agrees(device.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(device, list) and len(device) == len(wanted) and all(map(_agrees, device, wanted))
    return bool(device == wanted)
