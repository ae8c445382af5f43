"""What a definition leaves open about memory devices: their nodes, blocks and slots; and what does not fit."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.address import DIMMAddress
from corral.model.devices.memory import MemoryDevice
from corral.model.domain import Domain
from corral.model.units import Size

MIB = 1024
BLOCK = 2 * MIB
"""KiB of the smallest change of a virtio-mem: a huge page of the host."""


def complete(domain: Domain) -> None:
    """Fill in the memory devices of the document, in place; modules get the lowest free slots."""
    modules = domain.devices.memories
    for device in modules:
        _complete(device)
    taken = {each.address.slot for each in modules if isinstance(each.address, DIMMAddress)}
    for device in modules:
        if not device.in_slot:
            continue
        address = device.address if isinstance(device.address, DIMMAddress) else DIMMAddress()
        if address.slot is None:
            address.slot = next(number for number in range(len(taken) + 1) if number not in taken)
            taken.add(address.slot)
        device.address = address


def _complete(device: MemoryDevice) -> None:
    target = device.target
    target.size.kib = -(-target.size.kib // MIB) * MIB
    if device.model == "virtio-pmem":
        device.access = "shared"
        return
    target.node = target.node or 0
    if device.model == "virtio-mem":
        target.block = target.block if target.block is not None and target.block.kib else Size(kib=BLOCK)
        target.requested = target.requested or Size(kib=0)


def refuse_unfit(live: Domain, device: MemoryDevice) -> None:
    """Raise when the machine has no room for one more device of that size."""
    most = live.max_memory
    if most is None:
        raise ConfigUnsupported(
            "cannot use/hotplug a memory device when domain 'maxMemory' is not defined",
            hint="add <maxMemory slots='8' unit='GiB'>…</maxMemory> to the definition and start the machine again",
        )
    has = live.memory.kib if live.memory is not None else 0
    if has + device.target.size.kib > most.kib:
        raise ConfigUnsupported(
            f"Attaching memory device with size '{device.target.size.kib}' would exceed domain's maxMemory config size"
            f" '{most.kib}'"
        )
