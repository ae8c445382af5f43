"""Random number generators. https://libvirt.org/formatdomain.html#random-number-generator-device"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element, Unsigned


class RngRate(Element, tag="rate"):
    """At most `bytes` in `period` milliseconds (1000 when absent)."""

    bytes: Unsigned = attr()
    period: Annotated[int, Field(ge=1)] | None = attr(default=None)


class RngBackend(Element, tag="backend"):
    """Where the numbers come from: `random` reads the file `path`, `builtin` is QEMU's own generator."""

    model: Literal["random", "builtin"] = attr()
    path: str | None = None


class Rng(Device, tag="rng"):
    """A virtio random number generator."""

    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] = attr(default="virtio")
    rate: RngRate | None = element(default=None)
    backend: RngBackend = element()
    driver: VirtioOptions | None = element(default=None)
