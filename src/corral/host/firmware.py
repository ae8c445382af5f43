"""QEMU firmware descriptors: the JSON files that say which firmware image serves which machine.

Format and search order: QEMU's docs/interop/firmware.json. Files of the same name in a directory of higher priority
replace those in a lower one; an empty file hides one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

SYSTEM = Path("/usr/share/qemu/firmware")
ADMIN = Path("/etc/qemu/firmware")
QEMU_ARCHITECTURES = {"i686": "i386", "armv7l": "arm"}
SIZE_LIMIT = 1 << 20


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
        qemu_arch = QEMU_ARCHITECTURES.get(arch, arch)
        return any(
            target == qemu_arch and any(fnmatchcase(machine, pattern) for pattern in patterns)
            for target, patterns in self.targets
        )

    @property
    def secure(self) -> bool:
        """Whether it can do Secure Boot, in a machine whose firmware memory the guest cannot reach (SMM)."""
        return "secure-boot" in self.features


def directories() -> tuple[Path, ...]:
    """Where descriptors lie, lowest priority first: the system's, the administrator's, the user's (not for root)."""
    if os.geteuid() == 0:
        return (SYSTEM, ADMIN)
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return (SYSTEM, ADMIN, Path(config) / "qemu" / "firmware")


def descriptors(paths: Iterable[Path] | None = None) -> tuple[Firmware, ...]:
    """All descriptors in the order QEMU ranks them, by file name. Unreadable or unknown ones are left out."""
    files = {path.name: path for directory in paths or directories() for path in sorted(directory.glob("*.json"))}
    found = (_read(files[name]) for name in sorted(files))
    return tuple(firmware for firmware in found if firmware is not None)


def choose(
    arch: str,
    machine: str,
    *,
    interface: str = "uefi",
    secure: bool | None = None,
    enrolled: bool | None = None,
    smm: bool = True,
    stateless: bool = False,
    executable: tuple[str | None, str | None] = (None, None),
    template: tuple[str | None, str | None] = (None, None),
    firmwares: Iterable[Firmware] | None = None,
) -> Firmware | None:
    """The first firmware for the machine, as `<os firmware='efi'>` asks for; None when there is none.

    `interface`: uefi or bios. `secure` and `enrolled`: required, refused, or None for whatever ranks first. `smm`: the
    machine may have system management mode. `stateless`: without NVRAM of its own. `executable` and `template`: the
    file and the format that it must have; None for any.
    """
    for firmware in descriptors() if firmwares is None else firmwares:
        vars_file = str(firmware.nvram_template) if firmware.nvram_template is not None else None
        if (
            interface in firmware.interfaces
            and firmware.serves(arch, machine)
            and (secure is None or secure == firmware.secure)
            and (enrolled is None or enrolled == ("enrolled-keys" in firmware.features))
            and (smm or "requires-smm" not in firmware.features)
            and (firmware.mode == "stateless" or firmware.device == "memory" or not stateless)
            and (firmware.mode != "stateless" or stateless)
            and executable[0] in (None, str(firmware.executable))
            and executable[1] in (None, firmware.executable_format)
            and template[0] in (None, vars_file)
            and template[1] in (None, firmware.nvram_format)
        ):
            return firmware
    return None


def _read(path: Path) -> Firmware | None:
    """One descriptor; None for an empty (hiding) file, a damaged one, one whose image is gone, and unknown mappings."""
    try:
        if path.stat().st_size > SIZE_LIMIT:
            return None
        content = json.loads(path.read_bytes())
        mapping: dict[str, Any] = content["mapping"]
        device = mapping["device"]
        image = mapping if device == "memory" else mapping["executable"]
        template = mapping.get("nvram-template")
        if not Path(image["filename"]).exists():
            return None
        return Firmware(
            source=path,
            description=str(content.get("description", "")),
            interfaces=tuple(content["interface-types"]),
            device=device,
            mode=mapping.get("mode", "split") if device == "flash" else "",
            executable=Path(image["filename"]),
            executable_format=image.get("format", "raw"),
            nvram_template=Path(template["filename"]) if template else None,
            nvram_format=template.get("format", "raw") if template else "raw",
            targets=tuple((target["architecture"], tuple(target["machines"])) for target in content["targets"]),
            features=frozenset(content["features"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
