"""PCI functions that can be split into virtual functions (SR-IOV), from /sys/bus/pci. Kernel: PCI/pci-iov-howto."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from corral.host.sysfs import number


@dataclass(frozen=True, slots=True)
class PhysicalFunction:
    """A function with SR-IOV: its address (`0000:3b:00.0`), how many virtual ones it can have and has."""

    address: str
    total: int
    active: int


def physical_functions(root: Path = Path("/")) -> tuple[PhysicalFunction, ...]:
    """All functions of this machine that offer SR-IOV."""
    found = []
    for offer in sorted((root / "sys/bus/pci/devices").glob("*/sriov_totalvfs")):
        if total := number(offer):
            found.append(PhysicalFunction(offer.parent.name, total, number(offer.with_name("sriov_numvfs"))))
    return tuple(found)
