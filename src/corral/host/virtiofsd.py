"""The program that serves virtiofs: QEMU's descriptors of vhost-user programs say where it is.

Format: QEMU's docs/interop/vhost-user.json; one of type `fs` has the program's path under `binary`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

DESCRIPTORS = (Path("/etc/qemu/vhost-user"), Path("/usr/share/qemu/vhost-user"))
KNOWN = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"), Path("/usr/lib/virtiofsd"))
"""Where distributions put it."""
PACKAGE = "virtiofsd"


def find(root: Path = Path("/")) -> Path | None:
    """The program, or None when this host has none."""
    for directory in DESCRIPTORS:
        for path in sorted((root / directory.relative_to("/")).glob("*.json")):
            program = _program(path)
            if program is not None:
                return program
    return next((path for path in KNOWN if os.access(root / path.relative_to("/"), os.X_OK)), None)


def _program(descriptor: Path) -> Path | None:
    try:
        facts = json.loads(descriptor.read_bytes()[: 1 << 20])
        if facts["type"] == "fs" and os.access(facts["binary"], os.X_OK):
            return Path(facts["binary"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
