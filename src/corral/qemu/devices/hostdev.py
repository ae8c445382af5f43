"""Devices of the host that are lent to the guest: PCI functions by VFIO, USB devices by their file."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.host import usb
from corral.model.devices.hostdev import Hostdev, PCIHostdev, USBHostdev
from corral.qemu import descriptors
from corral.qemu.context import Context, Properties, alias, given
from corral.qemu.runtime import Part


def parts(device: Hostdev, context: Context) -> list[Part]:
    """The device; a USB device's file is opened for QEMU."""
    match device:
        case PCIHostdev():
            props: Properties = {"driver": context.driver("vfio-pci"), "host": str(device.source.address)}
            if device.rom is not None:
                props |= given(rombar=None if device.rom.bar is None else 1 if device.rom.bar == "on" else 0)
                props |= {"romfile": ""} if device.rom.enabled == "no" else given(romfile=device.rom.file)
            return [Part("device", alias(device), props | context.place(device) | context.boot_index(device))]
        case USBHostdev():
            return _usb(device, context)
    raise ConfigUnsupported(f"hostdev of class {type(device).__name__}")


def _usb(device: USBHostdev, context: Context) -> list[Part]:
    address = device.source.address
    path = usb.path_of(address.bus, address.device) if address is not None else "/dev/bus/usb/unknown"
    file = descriptors.other(f"usb-{alias(device)}", path, "device")
    props: Properties = {"driver": context.driver("usb-host"), "hostdevice": descriptors.reference(file)}
    reset = device.source.guest_reset
    if reset is not None:
        props |= {"guest-reset": reset != "off", "guest-resets-all": reset == "on"}
    return [file, Part("device", alias(device), props | context.place(device) | context.boot_index(device))]
