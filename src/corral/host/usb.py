"""USB devices of this machine, from /sys/bus/usb/devices. Kernel: ABI/stable/sysfs-bus-usb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from corral.host.sysfs import number, text


@dataclass(frozen=True, slots=True)
class USBDevice:
    """A device: where it is plugged in, what it is, what it calls itself."""

    bus: int
    device: int
    vendor: int
    product: int
    name: str


def devices(root: Path = Path("/")) -> tuple[USBDevice, ...]:
    """All devices but the hubs that are the controllers' own."""
    found = []
    for place in sorted((root / "sys/bus/usb/devices").glob("[0-9]*-*")):
        if ":" in place.name:  # an interface of a device
            continue
        vendor, product = (int(text(place / name, "0") or "0", 16) for name in ("idVendor", "idProduct"))
        name = " ".join(filter(None, (text(place / "manufacturer"), text(place / "product"))))
        found.append(USBDevice(number(place / "busnum"), number(place / "devnum"), vendor, product, name))
    return tuple(found)


def present(root: Path = Path("/")) -> bool:
    """Whether this host has a USB bus at all."""
    return (root / "dev/bus/usb").is_dir()


def path_of(bus: int, device: int) -> str:
    """The file by which a program drives the device."""
    return f"/dev/bus/usb/{bus:03d}/{device:03d}"
