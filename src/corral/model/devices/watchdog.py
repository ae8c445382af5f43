"""Watchdogs. https://libvirt.org/formatdomain.html#watchdog-devices"""

from __future__ import annotations

from typing import Literal

from pydantic_xml import attr

from corral.model.devices.device import Device


class Watchdog(Device, tag="watchdog"):
    """A watchdog and what happens when the guest stops feeding it."""

    model: Literal["i6300esb", "ib700", "itco"] = attr()
    action: Literal["reset", "shutdown", "poweroff", "pause", "none", "dump", "inject-nmi"] | None = attr(default=None)
