"""Input devices. https://libvirt.org/formatdomain.html#input-devices"""

from __future__ import annotations

from typing import Literal

from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions


class Input(Device, tag="input"):
    """A mouse, tablet or keyboard."""

    type: Literal["mouse", "tablet", "keyboard"] = attr()
    bus: Literal["ps2", "usb", "virtio"] | None = attr(default=None)
    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = attr(default=None)
    driver: VirtioOptions | None = element(default=None)
