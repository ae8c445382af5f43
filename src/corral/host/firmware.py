"""QEMU firmware descriptors: the JSON files that say which firmware image serves which machine.

Format and search order: QEMU's docs/interop/firmware.json. Files of the same name in a directory of higher priority
replace those in a lower one; an empty file hides one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/usr/share/qemu/firmware")
ADMIN = Path("/etc/qemu/firmware")


@dataclass(frozen=True, slots=True)
class Firmware:
    """One descriptor.

    `interfaces`: bios, uefi …; `device`: flash or memory; `mode`: split, combined or stateless;
    `machines`: patterns such as `pc-q35-*` per QEMU architecture; `features`: secure-boot, enrolled-keys …
    """

    source: Path
    description: str
    interfaces: tuple[str, ...]
    device: str
    mode: str
    executable: Path
    executable_format: str
    nvram_template: Path | None
    nvram_format: str
    targets: tuple[tuple[str, tuple[str, ...]], ...]
    features: frozenset[str]

    def serves(self, arch: str, machine: str) -> bool:
        """Whether a machine (canonical name) of libvirt architecture `arch` can run it."""
        raise NotImplementedError


def directories() -> tuple[Path, ...]:
    """Where descriptors lie, lowest priority first: the system's, the administrator's, the user's (not for root)."""
    raise NotImplementedError


def descriptors(paths: Iterable[Path] | None = None) -> tuple[Firmware, ...]:
    """All descriptors in the order QEMU ranks them. Unreadable or unknown ones are left out."""
    raise NotImplementedError


def choose(
    arch: str,
    machine: str,
    *,
    secure: bool | None = None,
    enrolled: bool | None = None,
    stateless: bool = False,
    firmwares: Iterable[Firmware] | None = None,
) -> Firmware | None:
    """The first UEFI firmware for the machine, as `<os firmware='efi'>` asks for; None when there is none.

    `secure` and `enrolled`: required, refused, or None for whatever ranks first.
    """
    raise NotImplementedError
