"""Trusted platform modules. https://libvirt.org/formatdomain.html#tpm-device"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device
from corral.model.element import Element, YesNo


class TPMDevice(Element, tag="device"):
    path: str = attr()


class PassthroughBackend(Element, tag="backend"):
    """The host's own module."""

    type: Literal["passthrough"] = attr(default="passthrough")
    device: TPMDevice | None = element(default=None)


class TPMDirectory(Element, tag="source"):
    type: Literal["dir"] = attr()
    path: str = attr()


class EmulatorBackend(Element, tag="backend"):
    """A module that swtpm emulates for this domain; its state lies in a directory, by default one of the daemon's."""

    type: Literal["emulator"] = attr(default="emulator")
    version: Literal["1.2", "2.0"] | None = attr(default=None)
    persistent_state: YesNo | None = attr(default=None)
    source: TPMDirectory | None = element(default=None)


class TPMSocket(Element, tag="source"):
    type: Literal["unix"] = attr()
    mode: Literal["connect"] = attr()
    path: str = attr()


class ExternalBackend(Element, tag="backend"):
    """An emulator that somebody else runs, by its control socket."""

    type: Literal["external"] = attr(default="external")
    source: TPMSocket = element()


for _kind in (PassthroughBackend, EmulatorBackend, ExternalBackend):
    _kind.model_rebuild()  # pydantic-xml takes a union of classes that are built

TPMBackend = Annotated[PassthroughBackend | EmulatorBackend | ExternalBackend, Field(discriminator="type")]


class TPM(Device, tag="tpm"):
    """The guest's module: `tpm-tis` on ISA or `tpm-crb`, which is 2.0 only."""

    model: Literal["tpm-tis", "tpm-crb"] | None = attr(default=None)
    backend: TPMBackend = element()
