"""The memory balloon. https://libvirt.org/formatdomain.html#memory-balloon-device"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element, OnOff, Unsigned


class BalloonStats(Element, tag="stats"):
    """How often the guest reports its memory, in seconds."""

    period: Unsigned = attr()


class Memballoon(Device, tag="memballoon"):
    """The balloon; model `none` leaves it out."""

    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional", "none"] = attr()
    autodeflate: OnOff | None = attr(default=None)
    free_page_reporting: OnOff | None = attr(name="freePageReporting", default=None)
    stats: BalloonStats | None = element(default=None)
    driver: VirtioOptions | None = element(default=None)

    last: ClassVar[tuple[str, ...]] = ("driver",)
