"""Lending PCI functions of this host by VFIO. Kernel: driver-api/vfio, ABI/testing/sysfs-bus-pci.

What an IOMMU cannot keep apart is one group, and a group is lent as a whole: every function of it must be bound to a
VFIO driver, to none, or be a bridge.
"""

from __future__ import annotations

from pathlib import Path

from corral.errors import DeviceMissing, HostError
from corral.host.sysfs import text

DRIVER = "vfio-pci"
BRIDGE_CLASS = "0x06"
_NO_IOMMU = "switch on VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on (AMD's is on by itself)"


def guarded(root: Path = Path("/")) -> bool:
    """Whether an IOMMU keeps this host's PCI functions apart, so that any can be lent."""
    groups = root / "sys/kernel/iommu_groups"
    return groups.is_dir() and any(groups.iterdir())


def place_of(address: str, root: Path = Path("/")) -> Path:
    """The function's directory in sysfs. Raises DeviceMissing when the host has no such function."""
    place = root / "sys/bus/pci/devices" / address
    if not place.exists():
        raise DeviceMissing(f"this host has no PCI device {address}", hint="lspci -D shows those that it has")
    return place


def group_of(address: str, root: Path = Path("/")) -> str:
    """The number of the function's group. Raises HostError where no IOMMU guards it."""
    link = place_of(address, root) / "iommu_group"
    if not link.exists():
        raise HostError(f"PCI device {address} cannot be lent to a guest: it is in no IOMMU group", hint=_NO_IOMMU)
    return link.resolve().name


def driver_of(place: Path) -> str | None:
    """The driver that a function is bound to."""
    link = place / "driver"
    return link.resolve().name if link.exists() else None


def claim(address: str, *, managed: bool, root: Path = Path("/")) -> None:
    """Have the function ready for QEMU, with `managed` bound to VFIO.

    Raises DeviceMissing, or HostError that says what stands in the way: no IOMMU, another driver, a neighbour's driver.
    """
    place = place_of(address, root)
    group = group_of(address, root)
    former = driver_of(place)
    if former != DRIVER and not managed:
        raise HostError(
            f"PCI device {address} is bound to the host's driver '{former or 'none'}', not to {DRIVER}",
            hint="managed='yes' has the daemon rebind it, or: virsh nodedev-detach, driverctl set-override",
        )
    for neighbour in sorted((root / "sys/kernel/iommu_groups" / group / "devices").glob("*")):
        driver = driver_of(neighbour)
        bridge = text(neighbour / "class").startswith(BRIDGE_CLASS)
        if neighbour.name != address and not bridge and driver not in (None, DRIVER, "pci-stub"):
            raise HostError(
                f"PCI device {address} is in IOMMU group {group} with {neighbour.name}, which the host has ({driver})",
                hint="lend both, or plug the card into another slot",
            )
    if former != DRIVER:
        _bind(place, DRIVER)
        if driver_of(place) != DRIVER:
            _bind(place, "")
            raise HostError(f"PCI device {address} could not be bound to {DRIVER}", hint="modprobe vfio-pci")


def file_of(address: str, root: Path = Path("/")) -> Path:
    """The file by which a program drives the function's group; there while VFIO has any function of it."""
    return root / "dev/vfio" / group_of(address, root)


def release(address: str, *, root: Path = Path("/")) -> None:
    """Give a function back to the driver that the host has for it; one that is gone is no error."""
    place = root / "sys/bus/pci/devices" / address
    if place.exists() and driver_of(place) == DRIVER:
        _bind(place, "")


def _bind(place: Path, driver: str) -> None:
    """Bind a function to one driver, or with "" to whichever fits."""
    bus = place.parent.parent
    try:
        (place / "driver_override").write_text(f"{driver}\n")
        if driver_of(place) is not None:
            (place / "driver" / "unbind").write_text(place.name)
        (bus / "drivers_probe").write_text(place.name)
    except OSError as error:
        raise HostError(f"PCI device {place.name} cannot be rebound: {error.strerror}") from error
