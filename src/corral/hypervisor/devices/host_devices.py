"""The host's own devices that a machine is lent: found at its start or at a plug.

What is changed on the host for it, and given back as it was, is in `lending`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from corral.errors import DeviceMissing, OperationFailed
from corral.host import scsi, usb

if TYPE_CHECKING:
    from corral.model.devices.device import Device
    from corral.model.devices.hostdev import USBHostdev
    from corral.model.domain import Domain as DomainDocument


def settle(document: DomainDocument) -> Mapping[str, str]:
    """Write down in the document of a machine that is about to run which of the host's USB devices are meant.

    `cid` is the number that was chosen for its vsock. Gives the files of its SCSI devices (`generics`).
    Raises DeviceMissing or HostError for what the host does not have; USB devices that may be missing are left out.
    Blocks on sysfs.
    """
    from corral.model.devices.hostdev import USBHostdev

    for device in list(document.devices.hostdevs):
        if isinstance(device, USBHostdev) and not _find_usb(device):
            document.devices.hostdevs.remove(device)
    return generics(document.devices.scsi_hostdevs)


def generics(devices: Iterable[Device]) -> Mapping[str, str]:
    """The files (`/dev/sg0`) of those that are the host's SCSI devices, by their places (`0:0:0:0`). Blocks on sysfs.

    Raises DeviceMissing for one that the host has not.
    """
    from corral.model.devices.hostdev_scsi import SCSIHostdev

    places = [each.source.place for each in devices if isinstance(each, SCSIHostdev)]
    return {place: scsi.generic_of(place) for place in places if place is not None}


def found(device: Device) -> Device:
    """A device to be plugged as it is on the host: a copy of a USB device that says where it is. Blocks on sysfs.

    Raises DeviceMissing for one that the host has not.
    """
    from corral.model.devices.hostdev import USBHostdev

    if not isinstance(device, USBHostdev):
        return device
    twin = device.copy()
    twin.source.startup_policy = None
    _find_usb(twin)
    return twin


def _find_usb(device: USBHostdev) -> bool:
    """Find a device by what it is; False when it is not there and need not be."""
    from corral.model.devices.hostdev import HostUSBAddress

    source = device.source
    there = [
        each
        for each in usb.devices()
        if (source.vendor is None or source.vendor.id == each.vendor)
        and (source.product is None or source.product.id == each.product)
        and (source.address is None or (source.address.bus, source.address.device) == (each.bus, each.device))
    ]
    what = ":".join(f"{each.id:04x}" for each in (source.vendor, source.product) if each is not None)
    where = f"bus {source.address.bus} device {source.address.device}" if source.address is not None else ""
    name = " at ".join(filter(None, (what, where)))
    if not there:
        if source.startup_policy == "optional":
            return False
        raise DeviceMissing(f"this host has no USB device {name}", hint="lsusb shows those that it has")
    if len(there) > 1:
        places = ", ".join(f"bus {each.bus} device {each.device}" for each in there)
        raise OperationFailed(f"USB device {name} is there {len(there)} times: {places}", hint="name one by <address>")
    source.address = HostUSBAddress(bus=there[0].bus, device=there[0].device)
    return True
