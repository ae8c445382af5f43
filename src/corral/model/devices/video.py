"""Video cards. https://libvirt.org/formatdomain.html#video-devices"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element, OnOff, Unsigned, YesNo


class Acceleration(Element, tag="acceleration"):
    accel2d: YesNo | None = attr(default=None)
    accel3d: YesNo | None = attr(default=None)
    rendernode: str | None = attr(default=None)


class Resolution(Element, tag="resolution"):
    """The size the card prefers, in pixels."""

    x: Annotated[int, Field(ge=1, le=2**31 - 1)] = attr()
    y: Annotated[int, Field(ge=1, le=2**31 - 1)] = attr()


class VideoModel(Element, tag="model"):
    """The card; `ram`, `vram`, `vram64`, `vgamem` in KiB."""

    type: Literal["vga", "cirrus", "virtio", "qxl", "bochs", "ramfb", "vmvga", "none"] = attr()
    ram: Unsigned | None = attr(default=None)
    vram: Unsigned | None = attr(default=None)
    vram64: Unsigned | None = attr(default=None)
    vgamem: Unsigned | None = attr(default=None)
    heads: Annotated[int, Field(ge=1, le=16)] | None = attr(default=None)
    primary: YesNo | None = attr(default=None)
    blob: OnOff | None = attr(default=None)
    acceleration: Acceleration | None = element(default=None)
    resolution: Resolution | None = element(default=None)


class VideoDriver(VirtioOptions, tag="driver"):
    name: Literal["qemu"] | None = attr(default=None)
    vgaconf: Literal["io", "on", "off"] | None = attr(default=None)


class Video(Device, tag="video"):
    """A video card; `model` None: the default of machine and display."""

    driver: VideoDriver | None = element(default=None)
    model: VideoModel | None = element(default=None)
