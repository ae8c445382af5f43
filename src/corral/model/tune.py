"""Where the host runs and keeps a domain. https://libvirt.org/formatdomain.html#cpu-tuning"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element, Unsigned

CPUSet = Annotated[str, Field(min_length=1, max_length=16384)]


class VCPUPin(Element, tag="vcpupin"):
    """The host CPUs that one vCPU may run on."""

    vcpu: Unsigned = attr()
    cpuset: CPUSet = attr()


class EmulatorPin(Element, tag="emulatorpin"):
    """The host CPUs for QEMU's own work: every thread that is no vCPU's and no I/O thread."""

    cpuset: CPUSet = attr()


class IOThreadPin(Element, tag="iothreadpin"):
    """The host CPUs that one I/O thread may run on."""

    iothread: Annotated[int, Field(ge=1)] = attr()
    cpuset: CPUSet = attr()


class CPUTune(Element, tag="cputune"):
    """Which threads run where."""

    vcpupins: list[VCPUPin] = element(tag="vcpupin", default_factory=list)
    emulatorpin: EmulatorPin | None = element(default=None)
    iothreadpins: list[IOThreadPin] = element(tag="iothreadpin", default_factory=list)
