"""The host's own devices that a machine is lent: found and claimed at its start or at a plug, given back at its end."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import CorralError, DeviceMissing, HostError, OperationFailed
from corral.host import usb, vfio

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.model.devices.device import Device
    from corral.model.devices.hostdev import PCIHostdev, USBHostdev
    from corral.model.domain import Domain as DomainDocument

log = logging.getLogger(__name__)

LOCKED_BESIDES = 1 << 30
"""Bytes for the windows of the cards themselves."""
FIRST_CID = 3
"""0 to 2 are the hypervisor's, the loopback's and the host's."""


def settle(domain: Domain, document: DomainDocument) -> None:
    """Write down in the document of a machine that is about to run which of the host's devices are meant.

    Raises DeviceMissing or HostError for what the host does not have; USB devices that may be missing are left out.
    Blocks on sysfs.
    """
    from corral.model.devices.hostdev import USBHostdev
    from corral.qemu.devices.vsock import HOSTS

    for device in list(document.devices.hostdevs):
        if isinstance(device, USBHostdev) and not _find_usb(device):
            document.devices.hostdevs.remove(device)
    vsock = document.devices.vsock
    if vsock is not None:
        if not Path(HOSTS).exists():
            raise HostError(f"this host has no {HOSTS}", hint="modprobe vhost_vsock")
        if vsock.cid is not None and vsock.cid.auto == "yes":
            vsock.cid.address = _free_cid(domain)


def found(device: Device) -> Device:
    """A device to be plugged as it is on the host: a copy of a USB device that says where it is. Blocks on sysfs."""
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
    used = set()
    for other in domain.hypervisor.domains():
        vsock = other.run.live.document.devices.vsock if other.run is not None and other is not domain else None
        if vsock is not None and vsock.cid is not None:
            used.add(vsock.cid.address)
    return next(number for number in range(FIRST_CID, FIRST_CID + len(used) + 1) if number not in used)


def claim(devices: Iterable[Device], domain: Domain) -> None:
    """Have PCI functions ready for QEMU: all of them, or none. Blocks on sysfs."""
    claimed: list[PCIHostdev] = []
    try:
        for device in _functions(devices):
            if (other := _lent_to(device, domain)) is not None:
                raise HostError(f"PCI device {device.source.address} is in use by domain '{other.name}'")
            file = vfio.claim(str(device.source.address), managed=device.managed == "yes")
            claimed.append(device)
            if domain.hypervisor.account is not None:
                os.chown(file, domain.hypervisor.account.uid, -1)
    except BaseException:
        release(claimed, domain)
        raise


def _lent_to(device: PCIHostdev, domain: Domain) -> Domain | None:
    """The other domain that runs with a function."""
    for other in domain.hypervisor.domains():
        if other.run is None or other is domain:
            continue
        for lent in _functions(other.run.live.document.devices.hostdevs):
            if str(lent.source.address) == str(device.source.address):
                return other
    return None


def release(devices: Iterable[Device], domain: Domain) -> None:
    """Give managed functions back to the host's drivers, those that another domain has excepted; never raises."""
    for device in _functions(devices):
        if device.managed == "yes" and _lent_to(device, domain) is None:
            try:
                vfio.release(str(device.source.address))
            except CorralError as error:
                log.warning("%s", error)


def _functions(devices: Iterable[Device]) -> list[PCIHostdev]:
    from corral.model.devices.hostdev import PCIHostdev

    return [device for device in devices if isinstance(device, PCIHostdev)]


def allow_locking(pid: int, document: DomainDocument, devices: Iterable[Device]) -> None:
    """Let a QEMU that just started lock its guest's memory, as VFIO does for a card that reads and writes it."""
    if document.memory is not None and _functions(devices):
        limit = document.memory.bytes + LOCKED_BESIDES
        try:
            resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (limit, limit))
        except OSError as error:
            log.warning("QEMU %d may not lock its guest's memory: %s", pid, error.strerror)
