"""The host's own devices that a machine is lent: found at its start or at a plug.

What is changed on the host for it, and given back as it was, is in `lending`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import DeviceMissing, HostError, OperationFailed
from corral.host import scsi, usb

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.devices.hostdev import USBHostdev
    from corral.model.domain import Domain as DomainDocument

FIRST_CID = 3
"""0 to 2 are the hypervisor's, the loopback's and the host's."""


def choose_cid(domain: Domain, run: Run, document: DomainDocument) -> None:
    """Choose the number of a vsock that shall have any: one that no run has, or is about to have."""
    vsock = document.devices.vsock
    if vsock is not None and vsock.cid is not None and vsock.cid.auto == "yes":
        run.cid = _free_cid(domain)


def settle(document: DomainDocument, *, cid: int) -> Mapping[str, str]:
    """Write down in the document of a machine that is about to run which of the host's devices are meant.

    `cid` is the number that was chosen for its vsock. Gives the files of its SCSI devices (`generics`).
    Raises DeviceMissing or HostError for what the host does not have; USB devices that may be missing are left out.
    Blocks on sysfs.
    """
    from corral.model.devices.hostdev import USBHostdev
    from corral.qemu.devices.vsock import HOSTS

    for device in list(document.devices.hostdevs):
        if isinstance(device, USBHostdev) and not _find_usb(device):
            document.devices.hostdevs.remove(device)
    files = generics(document.devices.scsi_hostdevs)
    vsock = document.devices.vsock
    if vsock is not None:
        if not Path(HOSTS).exists():
            raise HostError(f"this host has no {HOSTS}", hint="modprobe vhost_vsock")
        if vsock.cid is not None and vsock.cid.auto == "yes":
            vsock.cid.address = cid
    return files


def generics(devices: Iterable[Device]) -> Mapping[str, str]:
    """The files (`/dev/sg0`) of those that are the host's SCSI devices, by their places (`0:0:0:0`). Blocks on sysfs.

    Raises DeviceMissing for one that the host has not.
    """
    from corral.model.devices.hostdev_scsi import SCSIHostdev

    places = [each.source.place for each in devices if isinstance(each, SCSIHostdev)]
    return {place: scsi.generic_of(place) for place in places if place is not None}


@contextlib.contextmanager
def opened(document: DomainDocument) -> Iterator[Mapping[str, int]]:
    """The host's end of a vsock, which QEMU's account may not open: a descriptor by the name that the plan gives it."""
    from corral.qemu.devices.vsock import HOSTS, descriptor

    vsock = document.devices.vsock
    if vsock is None:
        yield {}
        return
    try:
        end = os.open(HOSTS, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot open {HOSTS}: {error.strerror}", hint="modprobe vhost_vsock") from error
    try:
        yield {descriptor(vsock): end}
    finally:
        os.close(end)


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


def _free_cid(domain: Domain) -> int:
    used: set[int | None] = set()
    for other in domain.hypervisor.domains():
        if other.run is not None and other is not domain:
            vsock = other.run.live.document.devices.vsock
            used |= {other.run.cid, vsock.cid.address if vsock is not None and vsock.cid is not None else None}
    return next(number for number in range(FIRST_CID, FIRST_CID + len(used) + 1) if number not in used)
