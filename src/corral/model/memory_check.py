"""Whether a document's memory agrees with itself: sizes, slots, nodes. Texts follow libvirt's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, CorralError, XMLDetail, XMLError
from corral.model.address import DIMMAddress, PCIAddress

if TYPE_CHECKING:
    from corral.model.devices.memory import MemoryDevice
    from corral.model.domain import Domain

Problem = tuple[tuple[str | int, ...], str, type[CorralError]]
"""Where it is, what it is, and the class of its error."""

#: KiB of the smallest label of an nvdimm.
_LABEL = 128
_PATHS = ("nvdimm", "virtio-pmem")


def problems(domain: Domain) -> Iterator[Problem]:
    """What is wrong with the memory, the worst first."""
    cells = domain.cpu.numa.cells if domain.cpu and domain.cpu.numa else []
    modules = domain.devices.memories
    plugged = sum(each.target.size.kib for each in modules)
    total = sum(cell.memory_kib for cell in cells) + plugged if cells else domain.memory.kib if domain.memory else 0
    if domain.current_memory is not None and domain.current_memory.dump_core is not None:
        yield ("current_memory", "dump_core"), "unknown attribute 'dumpCore' in element <currentMemory>", XMLError
    if plugged > total:
        yield ("memory",), "Total size of memory devices exceeds the total memory size", XMLError
    if total == plugged:
        yield ("memory",), "Memory size must be specified via <memory> or in the <numa> configuration", XMLError
    most = domain.max_memory
    if most is not None:
        if not most.slots:
            yield ("max_memory",), "missing slot count for maximum memory", XMLError
        if most.kib < total:
            text = "maximum memory size must be equal or greater than the actual memory size"
            yield ("max_memory",), text, XMLError
    elif modules:
        text = "cannot use/hotplug a memory device when domain 'maxMemory' is not defined"
        yield ("devices", "memories", 0), text, ConfigUnsupported
    for position, device in enumerate(modules):
        for path, text, cls in _device(device):
            yield ("devices", "memories", position, *path), text, cls
    yield from _slots(modules, most.slots or 0 if most is not None else 0)
    yield from _nodes(modules, len(cells))
    if domain.numatune is not None:
        for position, node in enumerate(domain.numatune.memnodes):
            if node.cellid >= len(cells):
                text = f"the guest has no NUMA cell {node.cellid} to which this <memnode> could correspond"
                yield ("numatune", "memnodes", position), text, XMLError


def _device(device: MemoryDevice) -> Iterator[Problem]:
    """One device by itself."""
    source, target = device.source, device.target
    if target.size.kib == 0:
        yield ("target", "size"), "the size of a memory device must not be 0", XMLError
    if device.model in _PATHS and (source is None or source.path is None):
        yield (), f"path is required for model '{device.model}'", XMLDetail
    if device.model not in _PATHS and source is not None and (source.path or source.alignsize or source.pmem):
        yield ("source",), f"a path is not for model '{device.model}'", XMLError
    if device.model != "nvdimm" and (target.label is not None or target.readonly):
        yield ("target",), "<label> and <readonly> are for model 'nvdimm' only", XMLError
    if target.label is not None and target.label.size.kib < _LABEL:
        yield ("target", "label"), f"nvdimm label must be at least {_LABEL}KiB", XMLError
    if device.model == "virtio-pmem" and device.access == "private":
        yield ("access",), "shared access mode required for virtio-pmem device", ConfigUnsupported
    if device.discard is not None and device.model != "dimm":
        yield ("discard",), f"discard is not supported for model '{device.model}'", ConfigUnsupported
    address = device.address
    if device.in_slot and address is not None and not isinstance(address, DIMMAddress):
        yield ("address",), f"only 'dimm' addresses are supported for the {device.model} device", ConfigUnsupported
    if not device.in_slot and address is not None and not isinstance(address, PCIAddress):
        text = f"only 'pci' and 'ccw' addresses are supported for the {device.model} device"
        yield ("address",), text, ConfigUnsupported
    if device.model == "virtio-mem":
        yield from _growing(device)
    elif target.block or target.requested or target.dynamic_memslots:
        yield ("target",), "<block>, <requested> and dynamicMemslots are for model 'virtio-mem' only", XMLError


def _growing(device: MemoryDevice) -> Iterator[Problem]:
    size, requested = device.target.size.kib, device.target.requested
    block = device.target.block.kib if device.target.block is not None else 0
    if block & (block - 1):
        yield ("target", "block"), "block size must be a power of two", XMLDetail
    if requested is not None and requested.kib > size:
        text = f"requested size must be smaller than or equal to @size ({size}KiB)"
        yield ("target", "requested"), text, XMLDetail
    if block and requested is not None and requested.kib % block:
        yield ("target", "requested"), "requested size must be an integer multiple of block size", XMLDetail
    if block and size % block:
        yield ("target", "size"), f"size must be an integer multiple of block size ({block}KiB)", XMLDetail


def _slots(modules: list[MemoryDevice], slots: int) -> Iterator[Problem]:
    """Modules and the slots that they take."""
    needed = sum(each.in_slot for each in modules)
    if needed > slots and slots:
        text = f"count of memory devices requiring memory slots '{needed}' exceeds slots count '{slots}'"
        yield ("devices", "memories"), text, ConfigUnsupported
    taken: set[int] = set()
    for position, device in enumerate(modules):
        address = device.address
        if not isinstance(address, DIMMAddress) or address.slot is None:
            continue
        where = ("devices", "memories", position, "address")
        if slots and address.slot >= slots:
            yield where, f"memory device slot '{address.slot}' exceeds slots count '{slots}'", ConfigUnsupported
        if address.slot in taken:
            text = f"memory device slot '{address.slot}' is already being used by another memory device"
            yield where, text, ConfigUnsupported
        taken.add(address.slot)


def _nodes(modules: list[MemoryDevice], count: int) -> Iterator[Problem]:
    """The guest's nodes that devices belong to; a guest without nodes has the one numbered 0."""
    for position, device in enumerate(modules):
        node = device.target.node
        if device.model == "virtio-pmem":
            continue
        if count and node is None:
            text = f"target NUMA node needs to be specified for memory device of model '{device.model}'"
            yield ("devices", "memories", position, "target"), text, ConfigUnsupported
        elif node is not None and node >= max(count, 1):
            has = f"the guest has only '{count}' NUMA nodes configured"
            text = f"can't add memory backend for guest node '{node}' as {has}"
            yield ("devices", "memories", position, "target", "node"), text, XMLDetail
