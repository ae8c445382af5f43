"""Sockets between host and guest. https://libvirt.org/formatdomain.html#vsock"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element, YesNo


class CID(Element, tag="cid"):
    """The guest's number on the host: chosen at start with `auto`, or `address`, from 3 on."""

    auto: YesNo | None = attr(default=None)
    address: Annotated[int, Field(ge=3, le=2**32 - 2)] | None = attr(default=None)


class Vsock(Device, tag="vsock"):
    """A vhost-vsock device."""

    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = attr(default=None)
    cid: CID | None = element(default=None)
    driver: VirtioOptions | None = element(default=None)
