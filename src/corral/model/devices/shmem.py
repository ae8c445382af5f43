"""Memory shared between guests. https://libvirt.org/formatdomain.html#shared-memory-device"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device
from corral.model.element import Element, OnOff
from corral.model.units import ScaledSize


class ShmemModel(Element, tag="model"):
    type: Literal["ivshmem-plain", "ivshmem-doorbell"] = attr()


class ShmemServer(Element, tag="server"):
    """The socket of the ivshmem server that brings the memory, and the interrupts between its guests."""

    path: str | None = attr(default=None)


class ShmemMSI(Element, tag="msi"):
    vectors: Annotated[int, Field(ge=1, le=2048)] | None = attr(default=None)
    ioeventfd: OnOff | None = attr(default=None)


class Shmem(Device, tag="shmem"):
    """Memory called `name`, the same in all guests of the host that name it; `size` is a power of two MiB."""

    name: Annotated[str, Field(pattern=r"^[^/]+$", max_length=200)] = attr()
    role: Literal["master", "peer"] | None = attr(default=None)
    model: ShmemModel | None = element(default=None)
    size: ScaledSize | None = element(default=None)
    server: ShmemServer | None = element(default=None)
    msi: ShmemMSI | None = element(default=None)
