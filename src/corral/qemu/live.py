"""What a running QEMU adds to the live document."""

from __future__ import annotations

from collections.abc import Mapping

from corral.model.devices.chardev import Chardev, ChardevSource
from corral.model.domain import Domain


def set_ptys(live: Domain, ptys: Mapping[str, str]) -> None:
    """Write the paths of ptys into the live document, in place; `ptys`: chardev id (`charserial0`) → path."""
    devices = live.devices
    chardevs: list[Chardev] = [*devices.serials, *devices.parallels, *devices.consoles, *devices.channels]
    for device in chardevs:
        path = ptys.get(f"char{device.alias.name}") if device.alias is not None and device.type == "pty" else None
        if path is not None:
            device.source = device.source or ChardevSource()
            device.source.path = path
            if device in devices.consoles:
                device.tty = path
