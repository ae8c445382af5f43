"""Where the host runs and keeps a domain. https://libvirt.org/formatdomain.html#cpu-tuning"""

from __future__ import annotations

from typing import Annotated, Literal

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


NUMAMode = Literal["strict", "preferred", "interleave", "restrictive"]


class NUMAMemory(Element, tag="memory"):
    """The host's NUMA nodes that the guest's memory comes from."""

    mode: NUMAMode | None = attr(default=None)
    nodeset: str | None = attr(default=None)
    placement: Literal["static", "auto"] | None = attr(default=None)


class NUMANode(Element, tag="memnode"):
    """The same for one NUMA node of the guest."""

    cellid: Unsigned = attr()
    mode: NUMAMode = attr()
    nodeset: CPUSet = attr()


class NUMATune(Element, tag="numatune"):
    """Where on the host the memory is."""

    memory: NUMAMemory | None = element(default=None)
    memnodes: list[NUMANode] = element(tag="memnode", default_factory=list)


class CPUTune(Element, tag="cputune"):
    """Which threads run where."""

    vcpupins: list[VCPUPin] = element(tag="vcpupin", default_factory=list)
    emulatorpin: EmulatorPin | None = element(default=None)
    iothreadpins: list[IOThreadPin] = element(tag="iothreadpin", default_factory=list)
