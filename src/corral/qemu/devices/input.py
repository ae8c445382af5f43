"""Input devices and USB hubs. PS/2 mouse and keyboard are the machine's own."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.hub import Hub
from corral.model.devices.input import Input
from corral.qemu.context import Context, alias, virtio_options
from corral.qemu.runtime import Part

USB = {"mouse": "usb-mouse", "tablet": "usb-tablet", "keyboard": "usb-kbd"}


def parts(device: Input, context: Context) -> list[Part]:
    """The device; nothing on PS/2."""
    match device.bus:
        case "ps2":
            if device.type == "tablet":
                raise ConfigUnsupported("ps2 bus does not support tablet input device")
            return []
        case "usb":
            driver = context.driver(USB[device.type])
        case _:
            driver = context.virtio(f"virtio-{device.type}", device.model)
    return [Part("device", alias(device), {"driver": driver} | context.place(device) | virtio_options(device.driver))]


def hub(device: Hub, context: Context) -> list[Part]:
    """A USB hub."""
    return [Part("device", alias(device), {"driver": context.driver("usb-hub")} | context.place(device))]
