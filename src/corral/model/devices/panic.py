"""Panic notifiers. https://libvirt.org/formatdomain.html#panic-device"""

from __future__ import annotations

from typing import Literal

from pydantic_xml import attr

from corral.model.devices.device import Device


class Panic(Device, tag="panic"):
    """How the guest reports that it panicked; None: the machine's own way."""

    model: Literal["isa", "hyperv", "pvpanic"] | None = attr(default=None)
