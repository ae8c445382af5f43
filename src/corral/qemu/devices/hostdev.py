"""Devices of the host that are lent to the guest: PCI functions by VFIO, USB devices by their file."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.host import usb
from corral.model.devices.hostdev import PCIHostdev, USBHostdev
from corral.model.devices.interface import Interface, Teaming
from corral.qemu import descriptors
from corral.qemu.context import Context, Properties, alias, given
from corral.qemu.runtime import Part


def function(device: PCIHostdev | Interface, context: Context) -> list[Part]:
    """A PCI function, or a network card that is one."""
    props: Properties = {"driver": context.driver("vfio-pci"), "host": str(device.lent)}
    if device.rom is not None:
        props |= given(rombar=None if device.rom.bar is None else 1 if device.rom.bar == "on" else 0)
        props |= {"romfile": ""} if device.rom.enabled == "no" else given(romfile=device.rom.file)
    if device.teaming is not None:
        props["failover_pair_id"] = _staying(device.teaming, context)
    return [Part("device", alias(device), props | context.place(device) | context.boot_index(device))]


def _staying(team: Teaming, context: Context) -> str:
    """The alias of the card that stays while this one comes and goes. Raises ConfigUnsupported where there is none."""
    for card in context.domain.devices.interfaces:
        if card.teaming is not None and card.teaming.type == "persistent" and alias(card) == team.persistent:
            return alias(card)
    raise ConfigUnsupported(
        f"the domain has no interface with <teaming type='persistent'/> and the alias '{team.persistent}'",
        hint="give the virtio interface that stays that element, and <alias name='ua-…'/>",
    )


def usb_device(device: USBHostdev, context: Context) -> list[Part]:
    """A USB device; its file is opened for QEMU."""
    address = device.source.address
    path = usb.path_of(address.bus, address.device) if address is not None else "/dev/bus/usb/unknown"
    file = descriptors.other(f"usb-{alias(device)}", path, "device")
    props: Properties = {"driver": context.driver("usb-host"), "hostdevice": descriptors.reference(file)}
    reset = device.source.guest_reset
    if reset is not None:
        props |= {"guest-reset": reset != "off", "guest-resets-all": reset == "on"}
    return [file, Part("device", alias(device), props | context.place(device) | context.boot_index(device))]
