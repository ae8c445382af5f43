"""Memory modules beside the memory of the start. https://libvirt.org/formatdomain.html#memory-devices"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device
from corral.model.element import Element, Hex, Unsigned, YesNo
from corral.model.units import Size

MODULES = ("dimm", "nvdimm")
"""Models that sit in a slot; the others are virtio devices."""


class MemoryDeviceSource(Element, tag="source"):
    """What it is made of on the host: the pages and nodes of memory, or the file of persistent memory."""

    nodemask: str | None = element(default=None)
    pagesize: Size | None = element(default=None)
    path: str | None = element(default=None)
    alignsize: Size | None = element(default=None)
    pmem: bool = element(default=False)


class MemoryLabel(Element, tag="label"):
    """The area of an nvdimm in which the guest keeps its namespaces."""

    size: Size = element()


class GuestAddress(Element, tag="address"):
    """Where in the guest's memory the device lies."""

    base: Annotated[int, Hex(1), Field(ge=0, le=2**64 - 1)] = attr()


class MemoryDeviceTarget(Element, tag="target"):
    """What the guest sees; of a virtio-mem `size` is the most, `requested` what it shall have, `current` what it has.

    `current` is written of running machines and means nothing when it is read.
    """

    dynamic_memslots: YesNo | None = attr(name="dynamicMemslots", default=None)
    size: Size = element()
    node: Unsigned | None = element(default=None)
    label: MemoryLabel | None = element(default=None)
    readonly: bool = element(default=False)
    block: Size | None = element(default=None)
    requested: Size | None = element(default=None)
    current: Size | None = element(default=None)
    address: GuestAddress | None = element(default=None)


class MemoryDevice(Device, tag="memory"):
    """One module: memory in a slot, a persistent one, or a virtio device that grows and shrinks."""

    model: Literal["dimm", "nvdimm", "virtio-mem", "virtio-pmem"] = attr()
    access: Literal["shared", "private"] | None = attr(default=None)
    discard: YesNo | None = attr(default=None)
    source: MemoryDeviceSource | None = element(default=None)
    target: MemoryDeviceTarget = element()

    @property
    def in_slot(self) -> bool:
        """Whether it sits in one of the machine's memory slots."""
        return self.model in MODULES
