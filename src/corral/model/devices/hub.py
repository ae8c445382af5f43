"""USB hubs and redirected USB devices. https://libvirt.org/formatdomain.html#redirected-devices"""

from __future__ import annotations

from typing import Literal

from pydantic_xml import attr, element

from corral.model.devices.chardev import ChardevLog, ChardevSource, Protocol
from corral.model.devices.device import BootableDevice, Device


class Hub(Device, tag="hub"):
    """A USB hub of eight ports."""

    type: Literal["usb"] = attr(default="usb")


class Redirdev(BootableDevice, tag="redirdev"):
    """A USB port that a SPICE client, or a usbredir peer, fills."""

    bus: Literal["usb"] = attr(default="usb")
    type: Literal["spicevmc", "tcp", "unix", "null"] = attr(default="spicevmc")
    source: ChardevSource | None = element(default=None)
    protocol: Protocol | None = element(default=None)
    log: ChardevLog | None = element(default=None)
