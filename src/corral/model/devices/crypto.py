"""Crypto devices. https://libvirt.org/formatdomain.html#crypto"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element


class CryptoBackend(Element, tag="backend"):
    """Who does the work: QEMU itself (`builtin`), or the host's kernel (`lkcf`)."""

    model: Literal["builtin", "lkcf"] = attr()
    queues: Annotated[int, Field(ge=1, le=1024)] | None = attr(default=None)


class Crypto(Device, tag="crypto"):
    """A virtio crypto device."""

    model: Literal["virtio"] = attr(default="virtio")
    type: Literal["qemu"] = attr(default="qemu")
    backend: CryptoBackend = element()
    driver: VirtioOptions | None = element(default=None)

    last: ClassVar[tuple[str, ...]] = ("driver",)
