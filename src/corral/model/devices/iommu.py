"""IOMMUs, with the remapping of interrupts. https://libvirt.org/formatdomain.html#iommu-devices"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device
from corral.model.element import Element, OnOff


class IOMMUDriver(Element, tag="driver"):
    """VT-d's options; `eim` is the interrupt mode that more than 255 vCPUs take."""

    intremap: OnOff | None = attr(default=None)
    caching_mode: OnOff | None = attr(default=None)
    eim: OnOff | None = attr(default=None)
    iotlb: OnOff | None = attr(default=None)
    aw_bits: Annotated[int, Field(ge=1, le=255)] | None = attr(default=None)
    dma_translation: OnOff | None = attr(default=None)


class IOMMU(Device, tag="iommu"):
    """An IOMMU; at most one."""

    model: Literal["intel", "virtio"] = attr()
    driver: IOMMUDriver | None = element(default=None)
