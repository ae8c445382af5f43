"""The parts of a domain's document that leave it room while it runs: memory by virtio-mem, and slots for devices."""

from __future__ import annotations

#: KiB of the blocks in which a virtio-mem grows, and of the modules that the guest's kernel takes it in.
BLOCK = 2048
#: Slots for modules that may be plugged besides.
SLOTS = 16

#: As many as virt-install gives: a PCI Express device is plugged into a root port that nothing else has.
ROOT_PORTS = 14


def ports() -> str:
    """Root ports, for what the machine starts with and for what comes later; two slots of the root bus hold them."""
    # Numbered, behind the root: libvirtd takes the first that has no number for the root.
    behind = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, ROOT_PORTS + 1))
    return f"<controller type='pci' index='0' model='pcie-root'/>{behind}"


def most_kib(kib: int, most: int | None) -> int | None:
    """`most` in whole blocks beyond `kib`; None when there is nothing to grow to."""
    return None if most is None or most <= kib else kib + -(-(most - kib) // BLOCK) * BLOCK


def sizes(kib: int, most: int | None) -> str:
    """`<memory>` and what goes with it, for a guest that starts with `kib` and can be given `most`."""
    if (whole := most_kib(kib, most)) is None:
        return f"<memory unit='KiB'>{kib}</memory>"
    return (
        f"<maxMemory slots='{SLOTS}' unit='KiB'>{whole}</maxMemory><memory unit='KiB'>{whole}</memory>"
        f"<currentMemory unit='KiB'>{kib}</currentMemory>"
    )


def device(kib: int, most: int | None) -> str:
    """The device that gives what is beyond `kib`; nothing where nothing is."""
    if (whole := most_kib(kib, most)) is None:
        return ""
    return (
        f"<memory model='virtio-mem'><target><size unit='KiB'>{whole - kib}</size><node>0</node>"
        f"<block unit='KiB'>{BLOCK}</block><requested unit='KiB'>0</requested></target></memory>"
    )
