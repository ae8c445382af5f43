"""Controllers. https://libvirt.org/formatdomain.html#controllers"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, Queues, VirtioOptions
from corral.model.element import Element, Hex, NotAbsent, OnOff, Unsigned
from corral.model.units import ScaledSize

ControllerType = Literal["ide", "fdc", "scsi", "sata", "usb", "virtio-serial", "ccid", "pci", "isa", "nvme"]
ControllerModel = Literal[
    # scsi
    "auto", "buslogic", "lsilogic", "lsisas1068", "lsisas1078", "vmpvscsi", "virtio-scsi", "ncr53c90", "dc390",
    "am53c974", "virtio", "virtio-transitional", "virtio-non-transitional",
    # usb
    "piix3-uhci", "piix4-uhci", "ehci", "ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3", "vt82c686b-uhci",
    "pci-ohci", "nec-xhci", "qemu-xhci", "none",
    # ide
    "piix3", "piix4", "ich6",
    # pci
    "pci-root", "pcie-root", "pci-bridge", "dmi-to-pci-bridge", "pcie-to-pci-bridge", "pcie-root-port",
    "pcie-switch-upstream-port", "pcie-switch-downstream-port", "pci-expander-bus", "pcie-expander-bus",
]  # fmt: skip


class ControllerDriver(VirtioOptions, tag="driver"):
    queues: Queues | None = attr(default=None)
    cmd_per_lun: Unsigned | None = attr(default=None)
    max_sectors: Unsigned | None = attr(default=None)
    ioeventfd: OnOff | None = attr(default=None)
    iothread: Annotated[int, Field(ge=1)] | None = attr(default=None)


class ControllerHardware(Element, tag="model"):
    """The exact device QEMU emulates: `pcie-root-port`, `ioh3420`, `i82801b11-bridge` …"""

    name: Literal[
        "i82801b11-bridge", "ioh3420", "pci-bridge", "pcie-pci-bridge", "pcie-root-port", "pxb", "pxb-pcie",
        "x3130-upstream", "xio3130-downstream",
    ] = attr()  # fmt: skip


class ControllerTarget(Element, tag="target"):
    """What the guest sees of a PCI controller; `port` is a root port's slot and function."""

    chassis_nr: Annotated[int, Field(ge=1, le=255)] | None = attr(name="chassisNr", default=None)
    chassis: Annotated[int, Field(ge=0, le=255)] | None = attr(default=None)
    port: Annotated[int, Hex(1), Field(ge=0, le=255)] | None = attr(default=None)
    bus_nr: Annotated[int, Field(ge=1, le=254)] | None = attr(name="busNr", default=None)
    hotplug: OnOff | None = attr(default=None)
    node: Annotated[int, Field(ge=0)] | None = element(default=None)


class ControllerMaster(Element, tag="master"):
    startport: Unsigned = attr()


class Controller(Device, tag="controller"):
    """A bus for other devices; `index` None: the first free one. A `serial` is for those of NVMe, which are drives."""

    type: ControllerType = attr()
    index: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = attr(default=None)
    model: ControllerModel | None = attr(default=None)
    ports: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = attr(default=None)
    vectors: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = attr(default=None)
    hardware: ControllerHardware | None = element(tag="model", default=None)
    target: ControllerTarget | None = element(default=None)
    master: ControllerMaster | None = element(default=None)
    driver: ControllerDriver | None = element(default=None)
    serial: Annotated[str, NotAbsent()] | None = element(default=None)
    pcihole64: ScaledSize | None = element(default=None)

    last: ClassVar[tuple[str, ...]] = ("pcihole64",)
