"""What all devices have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.address import ACPI, Address, Alias, Boot
from corral.model.element import Element, OnOff, YesNo


class Device(Element):
    """One device of a domain; these elements are written after the device's own."""

    alias: Alias | None = element(default=None)
    acpi: ACPI | None = element(default=None)
    address: Address | None = element(default=None)

    last: ClassVar[tuple[str, ...]] = ()
    """Fields that libvirt writes even after the address."""


class BootableDevice(Device):
    """A device that the firmware can boot from."""

    boot: Boot | None = element(default=None)


class VirtioOptions(Element, tag="driver"):
    """The transport's options of any virtio device."""

    iommu: OnOff | None = attr(default=None)
    ats: OnOff | None = attr(default=None)
    packed: OnOff | None = attr(default=None)
    page_per_vq: OnOff | None = attr(default=None)


class DeviceSeclabel(Element, tag="seclabel"):
    """How one security driver labels this source; kept, not acted on."""

    model: str | None = attr(default=None)
    relabel: YesNo | None = attr(default=None)
    labelskip: Literal["yes"] | None = attr(default=None)
    label: str | None = element(default=None)


Queues = Annotated[int, Field(ge=1, le=2**31 - 1)]
