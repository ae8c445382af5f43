"""Devices of the host that are lent to the guest. https://libvirt.org/formatdomain.html#usb-pci-scsi-devices"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.address import HostPCIAddress
from corral.model.devices.device import BootableDevice
from corral.model.devices.hostdev_scsi import SCSIHostdev
from corral.model.devices.interface import ROM, Teaming
from corral.model.element import Element, Hex, YesNo


class HostPCISource(Element, tag="source"):
    address: HostPCIAddress = element()


class HostPCIDriver(Element, tag="driver"):
    """The host's driver that lends it."""

    name: Literal["vfio"] = attr()


class PCIHostdev(BootableDevice, tag="hostdev"):
    """A PCI function of the host; `managed`: bound to vfio-pci at start and given back to its driver at the end."""

    mode: Literal["subsystem"] = attr(default="subsystem")
    type: Literal["pci"] = attr(default="pci")
    managed: YesNo | None = attr(default=None)
    driver: HostPCIDriver | None = element(default=None)
    source: HostPCISource = element()
    teaming: Teaming | None = element(default=None)
    rom: ROM | None = element(default=None)

    @property
    def lent(self) -> HostPCIAddress:
        """The function that is lent."""
        return self.source.address


class HostUSBAddress(Element, tag="address"):
    """Where a device is plugged in now."""

    bus: Annotated[int, Field(ge=1, le=999)] = attr()
    device: Annotated[int, Field(ge=1, le=999)] = attr()


class HostUSBID(Element):
    """A vendor's or a product's number."""

    id: Annotated[int, Hex(4), Field(ge=0, le=0xFFFF)] = attr()


class HostUSBSource(Element, tag="source"):
    """A device by what it is (vendor and product), by where it is, or by both."""

    startup_policy: Literal["mandatory", "requisite", "optional"] | None = attr(name="startupPolicy", default=None)
    guest_reset: Literal["off", "uninitialized", "on"] | None = attr(name="guestReset", default=None)
    vendor: HostUSBID | None = element(tag="vendor", default=None)
    product: HostUSBID | None = element(tag="product", default=None)
    address: HostUSBAddress | None = element(default=None)


class USBHostdev(BootableDevice, tag="hostdev"):
    """A USB device of the host."""

    mode: Literal["subsystem"] = attr(default="subsystem")
    type: Literal["usb"] = attr(default="usb")
    managed: YesNo | None = attr(default=None)
    source: HostUSBSource = element()


for _kind in (PCIHostdev, USBHostdev, SCSIHostdev):
    _kind.model_rebuild()  # pydantic-xml takes a union of classes that are built

Hostdev = Annotated[PCIHostdev | USBHostdev | SCSIHostdev, Field(discriminator="type")]
