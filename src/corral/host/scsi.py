"""SCSI devices of this machine, by host, channel, target and LUN (`0:0:0:0`), from /sys/bus/scsi/devices."""

from __future__ import annotations

from pathlib import Path

from corral.errors import DeviceMissing


def generic_of(place: str, root: Path = Path("/")) -> str:
    """The file by which a program sends commands to a device (`/dev/sg0`); the kernel's module sg makes it.

    Raises DeviceMissing when there is none.
    """
    file = _file_of(place, "scsi_generic", root)
    if file is None:
        raise DeviceMissing(f"this host has no SCSI device {place}", hint="lsscsi -g shows those it has; modprobe sg")
    return file


def disk_of(place: str, root: Path = Path("/")) -> str | None:
    """The block device (`/dev/sda`) that a device is; None for tapes and other kinds."""
    return _file_of(place, "block", root)


def _file_of(place: str, kind: str, root: Path) -> str | None:
    names = sorted(path.name for path in (root / "sys/bus/scsi/devices" / place / kind).glob("*"))
    return f"/dev/{names[0]}" if names else None
