"""Where a device sits: its address on a bus, its alias, its place in the boot order.

https://libvirt.org/formatdomain.html#device-addresses
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr

from corral.model.element import Element, Hex, OnOff


class PCIAddress(Element, tag="address"):
    """A function on a PCI bus; bus is the index of the pci controller. All zero means "not assigned yet"."""

    type: Literal["pci"] = attr(default="pci")
    domain: Annotated[int, Hex(4), Field(ge=0, le=0xFFFFFFFF)] = attr(default=0)
    bus: Annotated[int, Hex(2), Field(ge=0, le=0xFF)] = attr(default=0)
    slot: Annotated[int, Hex(2), Field(ge=0, le=0x1F)] = attr(default=0)
    function: Annotated[int, Hex(1), Field(ge=0, le=7)] = attr(default=0)
    multifunction: OnOff | None = attr(default=None)

    @property
    def assigned(self) -> bool:
        return bool(self.domain or self.bus or self.slot or self.function)

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


class HostPCIAddress(Element, tag="address"):
    """A PCI function of the host."""

    domain: Annotated[int, Hex(4), Field(ge=0, le=0xFFFFFFFF)] = attr(default=0)
    bus: Annotated[int, Hex(2), Field(ge=0, le=0xFF)] = attr(default=0)
    slot: Annotated[int, Hex(2), Field(ge=0, le=0x1F)] = attr(default=0)
    function: Annotated[int, Hex(1), Field(ge=0, le=7)] = attr(default=0)

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


class TypedHostPCIAddress(HostPCIAddress, tag="address"):
    """The same where an address says of what type it is."""

    type: Literal["pci"] = attr()


class DriveAddress(Element, tag="address"):
    """A unit on an ide, sata, scsi or fdc controller."""

    type: Literal["drive"] = attr(default="drive")
    controller: Annotated[int, Field(ge=0)] = attr(default=0)
    bus: Annotated[int, Field(ge=0)] = attr(default=0)
    target: Annotated[int, Field(ge=0)] = attr(default=0)
    unit: Annotated[int, Field(ge=0)] = attr(default=0)

    def __str__(self) -> str:
        return f"{self.controller}:{self.bus}:{self.target}:{self.unit}"


class USBAddress(Element, tag="address"):
    """A port (`1` or, behind hubs, `1.2`) of a usb controller; port None: not assigned yet."""

    type: Literal["usb"] = attr(default="usb")
    bus: Annotated[int, Field(ge=0)] = attr(default=0)
    port: Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){0,3}$")] | None = attr(default=None)

    def __str__(self) -> str:
        return f"{self.bus}:{self.port}"


class VirtioSerialAddress(Element, tag="address"):
    """A port of a virtio-serial controller; port 0 is for consoles."""

    type: Literal["virtio-serial"] = attr(default="virtio-serial")
    controller: Annotated[int, Field(ge=0)] = attr(default=0)
    bus: Annotated[int, Field(ge=0)] = attr(default=0)
    port: Annotated[int, Field(ge=0)] | None = attr(default=None)

    def __str__(self) -> str:
        return f"{self.controller}:{self.bus}:{self.port}"


class CCIDAddress(Element, tag="address"):
    """A slot of a ccid (smart card) controller."""

    type: Literal["ccid"] = attr(default="ccid")
    controller: Annotated[int, Field(ge=0)] = attr(default=0)
    slot: Annotated[int, Field(ge=0)] | None = attr(default=None)

    def __str__(self) -> str:
        return f"{self.controller}:{self.slot}"


class ISAAddress(Element, tag="address"):
    """An I/O base and interrupt on the ISA bus."""

    type: Literal["isa"] = attr(default="isa")
    iobase: Annotated[int, Hex(1), Field(ge=0, le=0xFFFF)] | None = attr(default=None)
    irq: Annotated[int, Hex(1), Field(ge=0, le=15)] | None = attr(default=None)

    def __str__(self) -> str:
        return f"{self.iobase or 0:#x}:{self.irq or 0:#x}"


class DIMMAddress(Element, tag="address"):
    """A memory slot, and where in the guest's memory the module lies; None: not assigned yet."""

    type: Literal["dimm"] = attr(default="dimm")
    slot: Annotated[int, Field(ge=0)] | None = attr(default=None)
    base: Annotated[int, Hex(1), Field(ge=0, le=2**64 - 1)] | None = attr(default=None)

    def __str__(self) -> str:
        return f"{self.slot}"


for _kind in (PCIAddress, DriveAddress, USBAddress, VirtioSerialAddress, CCIDAddress, ISAAddress, DIMMAddress):
    _kind.model_rebuild()  # pydantic-xml takes a union of classes that are built; the other classes build on first use

Address = Annotated[
    PCIAddress | DriveAddress | USBAddress | VirtioSerialAddress | CCIDAddress | ISAAddress | DIMMAddress,
    Field(discriminator="type"),
]


class Alias(Element, tag="alias"):
    """The device's name inside one run; names that start with `ua-` are the user's and stay.

    QEMU's ids and files of the run are called by it: only the characters that libvirt's schema has.
    """

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_\-.]+$")] = attr()


class Boot(Element, tag="boot"):
    """The device's place in the boot order, from 1."""

    order: Annotated[int, Field(ge=1, le=2**31 - 1)] = attr()


class ACPI(Element, tag="acpi"):
    """The ACPI index by which a guest names the device."""

    index: Annotated[int, Field(ge=0, le=16 * 1024 - 1)] | None = attr(default=None)
