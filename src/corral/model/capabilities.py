"""What a host can do. https://libvirt.org/formatcaps.html"""

from __future__ import annotations

import uuid as _uuid
from typing import ClassVar, Literal

from pydantic_xml import attr, element

from corral.model.cpu import CPUTopology, Distances, MaxPhysAddr
from corral.model.element import Element, OnOff, Unsigned, YesNo
from corral.model.units import Memory, PageSize


class Microcode(Element, tag="microcode"):
    version: Unsigned = attr()


class Signature(Element, tag="signature"):
    family: Unsigned = attr()
    model: Unsigned = attr()
    stepping: Unsigned = attr()


class Counter(Element, tag="counter"):
    """A counter that can be given to guests: `tsc`, with its frequency in Hz."""

    name: str = attr()
    frequency: Unsigned = attr()
    scaling: YesNo | None = attr(default=None)


class HostCPUFeature(Element, tag="feature"):
    name: str = attr()


class HostCPU(Element, tag="cpu"):
    """The host's CPU as the nearest model and what it has beyond it."""

    arch: str = element()
    model: str | None = element(default=None)
    vendor: str | None = element(default=None)
    microcode: Microcode | None = element(default=None)
    signature: Signature | None = element(default=None)
    counter: Counter | None = element(default=None)
    topology: CPUTopology | None = element(default=None)
    maxphysaddr: MaxPhysAddr | None = element(default=None)
    features: list[HostCPUFeature] = element(tag="feature", default_factory=list)
    pages: list[PageSize] = element(tag="pages", default_factory=list)


class PowerManagement(Element, tag="power_management"):
    suspend_mem: bool = element(default=False)
    suspend_disk: bool = element(default=False)
    suspend_hybrid: bool = element(default=False)


class IOMMU(Element, tag="iommu"):
    support: YesNo = attr()


class URITransports(Element, tag="uri_transports"):
    transports: list[str] = element(tag="uri_transport", default_factory=list)


class MigrationFeatures(Element, tag="migration_features"):
    live: bool = element(default=False)
    uri_transports: URITransports | None = element(default=None)


class CellPages(Element, tag="pages"):
    """How many pages of one size (KiB) a node has."""

    size_kib: Unsigned = attr(name="size")
    count: Unsigned

    unit_field: ClassVar[str] = "size_kib"


class CellCPU(Element, tag="cpu"):
    """A logical CPU and where it sits; `siblings` is a list of ids such as `0-1`."""

    id: Unsigned = attr()
    socket_id: Unsigned | None = attr(default=None)
    die_id: Unsigned | None = attr(default=None)
    cluster_id: Unsigned | None = attr(default=None)
    core_id: Unsigned | None = attr(default=None)
    siblings: str | None = attr(default=None)


class CellCPUs(Element, tag="cpus"):
    num: Unsigned = attr()
    cpus: list[CellCPU] = element(tag="cpu", default_factory=list)


class HostCell(Element, tag="cell"):
    """A NUMA node of the host."""

    id: Unsigned = attr()
    memory: Memory | None = element(default=None)
    pages: list[CellPages] = element(tag="pages", default_factory=list)
    distances: Distances | None = element(default=None)
    cpus: CellCPUs | None = element(default=None)


class HostCells(Element, tag="cells"):
    num: Unsigned = attr()
    cells: list[HostCell] = element(tag="cell", default_factory=list)


class HostTopology(Element, tag="topology"):
    cells: HostCells | None = element(default=None)


class CacheBank(Element, tag="bank"):
    id: Unsigned = attr()
    level: Unsigned = attr()
    type: Literal["both", "code", "data"] = attr()
    size: Unsigned = attr()
    unit: str | None = attr(default=None)
    cpus: str = attr()


class HostCache(Element, tag="cache"):
    banks: list[CacheBank] = element(tag="bank", default_factory=list)


class BaseLabel(Element, tag="baselabel"):
    type: str = attr()
    label: str | None = None


class SecModel(Element, tag="secmodel"):
    model: str = element()
    doi: str | None = element(default=None)
    baselabels: list[BaseLabel] = element(tag="baselabel", default_factory=list)


class Host(Element, tag="host"):
    """The machine itself."""

    uuid: _uuid.UUID | None = element(default=None)
    cpu: HostCPU = element()
    power_management: PowerManagement | None = element(default=None)
    iommu: IOMMU | None = element(default=None)
    migration_features: MigrationFeatures | None = element(default=None)
    topology: HostTopology | None = element(default=None)
    cache: HostCache | None = element(default=None)
    secmodels: list[SecModel] = element(tag="secmodel", default_factory=list)


class GuestMachine(Element, tag="machine"):
    """A machine type; an alias names its canonical type."""

    canonical: str | None = attr(default=None)
    max_cpus: Unsigned | None = attr(name="maxCpus", default=None)
    deprecated: YesNo | None = attr(default=None)
    name: str


class GuestDomain(Element, tag="domain"):
    """An accelerator (`kvm`, `qemu`) and what differs from the architecture's defaults with it."""

    type: str = attr()
    emulator: str | None = element(default=None)
    machines: list[GuestMachine] = element(tag="machine", default_factory=list)


class GuestArch(Element, tag="arch"):
    name: str = attr()
    wordsize: Unsigned = element()
    emulator: str | None = element(default=None)
    machines: list[GuestMachine] = element(tag="machine", default_factory=list)
    domains: list[GuestDomain] = element(tag="domain", default_factory=list)


class GuestToggle(Element):
    """A feature that is there by `default`, and whether that can be `toggle`d."""

    default: OnOff = attr()
    toggle: YesNo = attr()


class GuestFeatures(Element, tag="features"):
    pae: bool = element(default=False)
    nonpae: bool = element(default=False)
    acpi: GuestToggle | None = element(default=None)
    apic: GuestToggle | None = element(default=None)
    cpuselection: bool = element(default=False)
    deviceboot: bool = element(default=False)
    disksnapshot: GuestToggle | None = element(default=None)
    external_snapshot: bool = element(tag="externalSnapshot", default=False)


class Guest(Element, tag="guest"):
    """A kind of guest that the host can run."""

    os_type: str = element()
    arch: GuestArch = element()
    features: GuestFeatures | None = element(default=None)


class Capabilities(Element, tag="capabilities"):
    """The host, and the kinds of guests it runs."""

    host: Host = element()
    guests: list[Guest] = element(tag="guest", default_factory=list)
