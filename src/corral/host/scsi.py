"""SCSI devices of this machine, by host, channel, target and LUN (`0:0:0:0`), from /sys/class/scsi_generic."""

from __future__ import annotations

from pathlib import Path

from corral.errors import DeviceMissing


def generics(root: Path = Path("/")) -> dict[str, str]:
    """The file by which a program sends commands to each device (`/dev/sg0`); the kernel's module sg makes them."""
    places = (root / "sys/class/scsi_generic").glob("sg*")
    return {(place / "device").resolve().name: f"/dev/{place.name}" for place in places}


def generic_of(place: str, root: Path = Path("/")) -> str:
    """The file of one device. Raises DeviceMissing when there is none."""
    file = generics(root).get(place)
    if file is None:
        raise DeviceMissing(f"this host has no SCSI device {place}", hint="lsscsi -g shows those it has; modprobe sg")
    return file


def disk_of(place: str, root: Path = Path("/")) -> str | None:
    """The block device (`/dev/sda`) that a device is; None for tapes and other kinds."""
    names = sorted(path.name for path in (root / "sys/bus/scsi/devices" / place / "block").glob("*"))
    return f"/dev/{names[0]}" if names else None
