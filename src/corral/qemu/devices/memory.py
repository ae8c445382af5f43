"""Memory devices: modules in slots (dimm, nvdimm) and virtio devices that grow and shrink (virtio-mem, virtio-pmem)."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.address import DIMMAddress
from corral.model.devices.memory import MemoryDevice
from corral.model.domain import Domain
from corral.qemu import guest_memory
from corral.qemu.context import Context, Properties, alias, given
from corral.qemu.runtime import Command, Part

DRIVERS = {
    "dimm": "pc-dimm",
    "nvdimm": "nvdimm",
    "virtio-mem": "virtio-mem-pci",
    "virtio-pmem": "virtio-pmem-pci",
}


def parts(device: MemoryDevice, context: Context) -> list[Part]:
    """What it is made of on the host, then the device."""
    name = alias(device)
    memory = f"mem{name}"
    props: Properties = {"driver": context.driver(DRIVERS[device.model])}
    target = device.target
    if device.model != "virtio-pmem":
        props["node"] = target.node or 0
    if device.model == "virtio-mem":
        props |= _growing(device, context)
    if device.model == "nvdimm":
        props |= given({"label-size": target.label.size.bytes if target.label is not None else None})
        if target.readonly:
            props["unarmed"] = True
    props["memdev"] = memory
    if isinstance(device.address, DIMMAddress):
        props |= given(slot=device.address.slot, addr=device.address.base)
    else:
        props |= given(memaddr=target.address.base if target.address is not None else None) | context.place(device)
    return [Part("object", memory, _backend(device, context)), Part("device", name, props)]


def _growing(device: MemoryDevice, context: Context) -> Properties:
    target = device.target
    props: Properties = given({"block-size": target.block.bytes if target.block is not None else None})
    props |= {"requested-size": target.requested.bytes} if target.requested is not None and target.requested.kib else {}
    if target.dynamic_memslots is not None:
        if not context.binary.has_property(DRIVERS[device.model], "dynamic-memslots"):
            raise ConfigUnsupported(f"virtio-mem of QEMU binary '{context.binary.path}' has no dynamicMemslots")
        props["dynamic-memslots"] = target.dynamic_memslots == "yes"
    if guest_memory.preallocates(context.domain, device):
        props["prealloc"] = True
    return props


def _backend(device: MemoryDevice, context: Context) -> Properties:
    """The host's memory, or the file of persistent memory."""
    source, size = device.source, device.target.size.bytes
    if source is None or source.path is None:
        return guest_memory.module_backend(context, device)
    props: Properties = {
        "qom-type": guest_memory.object_type(context, "file"),
        "mem-path": source.path,
        "share": device.access == "shared",
        "size": size,
    }
    props |= given(align=source.alignsize.bytes if source.alignsize is not None else None)
    props |= {"pmem": True} if source.pmem else {}
    return props | guest_memory.binding(context.domain, device.target.node)


def request(device: MemoryDevice, kib: int) -> Command:
    """Have a virtio-mem device give the guest so much, or take it back; the guest does it in its own time."""
    path = f"/machine/peripheral/{alias(device)}"
    return "qom-set", {"path": path, "property": "requested-size", "value": kib * 1024}


def growing(domain: Domain) -> list[MemoryDevice]:
    """The devices whose size can be changed while they are there."""
    return [each for each in domain.devices.memories if each.model == "virtio-mem"]


def current_kib(device: MemoryDevice) -> int:
    """What a virtio-mem device gives the guest now."""
    return device.target.current.kib if device.target.current is not None else 0
