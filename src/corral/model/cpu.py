"""The virtual CPU: model, features, topology, NUMA. https://libvirt.org/formatdomain.html#cpu-model-and-topology"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element, OnOff, Unsigned, YesNo

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class CPUModel(Element, tag="model"):
    """A named model; in mode host-model, what the running domain got."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9\-_.]*$")] | None = None
    fallback: Literal["allow", "forbid"] | None = attr(default=None)
    vendor_id: Annotated[str, Field(pattern=r"^[^,]{12}$")] | None = attr(default=None)


class CPUTopology(Element, tag="topology"):
    sockets: Count = attr()
    dies: Count | None = attr(default=None)
    clusters: Count | None = attr(default=None)
    cores: Count = attr()
    threads: Count = attr()

    @property
    def cpus(self) -> int:
        return self.sockets * (self.dies or 1) * (self.clusters or 1) * self.cores * self.threads


class CPUCache(Element, tag="cache"):
    level: Annotated[int, Field(ge=1, le=3)] | None = attr(default=None)
    mode: Literal["emulate", "passthrough", "disable"] = attr()


class MaxPhysAddr(Element, tag="maxphysaddr"):
    mode: Literal["passthrough", "emulate"] = attr()
    bits: Annotated[int, Field(ge=1, le=64)] | None = attr(default=None)
    limit: Annotated[int, Field(ge=1, le=64)] | None = attr(default=None)


class CPUFeature(Element, tag="feature"):
    policy: Literal["force", "require", "optional", "disable", "forbid"] | None = attr(default=None)
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9\-_.]+$")] = attr()


class Sibling(Element, tag="sibling"):
    id: Unsigned = attr()
    value: Annotated[int, Field(ge=10, le=255)] = attr()


class Distances(Element, tag="distances"):
    siblings: list[Sibling] = element(tag="sibling", default_factory=list)


class NUMACell(Element, tag="cell"):
    """A node of the guest: its vCPUs (`0-3,7`) and its memory in KiB."""

    id: Unsigned | None = attr(default=None)
    cpus: str | None = attr(default=None)
    memory_kib: Unsigned = attr(name="memory")
    mem_access: Literal["shared", "private"] | None = attr(name="memAccess", default=None)
    discard: YesNo | None = attr(default=None)
    distances: Distances | None = element(default=None)

    unit_field: ClassVar[str] = "memory_kib"


class NUMA(Element, tag="numa"):
    cells: list[NUMACell] = element(tag="cell", default_factory=list)


class CPU(Element, tag="cpu"):
    """What CPU the guest gets."""

    mode: Literal["custom", "host-model", "host-passthrough", "maximum"] | None = attr(default=None)
    match: Literal["minimum", "exact", "strict"] | None = attr(default=None)
    check: Literal["none", "partial", "full"] | None = attr(default=None)
    migratable: OnOff | None = attr(default=None)
    deprecated_features: OnOff | None = attr(default=None)
    model: CPUModel | None = element(default=None)
    vendor: str | None = element(default=None)
    topology: CPUTopology | None = element(default=None)
    cache: CPUCache | None = element(default=None)
    maxphysaddr: MaxPhysAddr | None = element(default=None)
    features: list[CPUFeature] = element(tag="feature", default_factory=list)
    numa: NUMA | None = element(default=None)
