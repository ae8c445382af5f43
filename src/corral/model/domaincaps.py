"""What one emulator offers to a domain of one machine type. https://libvirt.org/formatdomaincaps.html"""

from __future__ import annotations

from typing import Literal

from pydantic_xml import attr, element

from corral.model.cpu import MaxPhysAddr
from corral.model.element import Element, Unsigned, YesNo
from corral.model.units import ScaledSize


class Choice(Element, tag="enum"):
    """The values that one attribute may have here."""

    name: str = attr()
    values: list[str] = element(tag="value", default_factory=list)


class Offer(Element):
    """A family, whether it is supported, and the choices in it."""

    supported: YesNo = attr()
    enums: list[Choice] = element(tag="enum", default_factory=list)

    def values(self, name: str) -> list[str]:
        """The values offered for `name`; empty when there are none."""
        return next((choice.values for choice in self.enums if choice.name == name), [])


class LoaderOffer(Element, tag="loader"):
    """Firmware files, and how they may be used."""

    supported: YesNo = attr()
    paths: list[str] = element(tag="value", default_factory=list)
    enums: list[Choice] = element(tag="enum", default_factory=list)


class OSOffer(Offer, tag="os"):
    loader: LoaderOffer | None = element(default=None)


class MaxVCPUs(Element, tag="vcpu"):
    max: Unsigned = attr()


class Blocked(Element, tag="feature"):
    name: str = attr()
    policy: Literal["require", "disable"] | None = attr(default=None)


class Blockers(Element, tag="blockers"):
    """What the host lacks for the model named `model`."""

    model: str = attr()
    features: list[Blocked] = element(tag="feature", default_factory=list)


class OfferedModel(Element, tag="model"):
    """A CPU model; `fallback` in mode host-model, the others in mode custom."""

    fallback: Literal["allow", "forbid"] | None = attr(default=None)
    usable: Literal["yes", "no", "unknown"] | None = attr(default=None)
    deprecated: YesNo | None = attr(default=None)
    vendor: str | None = attr(default=None)
    canonical: str | None = attr(default=None)
    name: str


class CPUMode(Element, tag="mode"):
    """A CPU mode and its models; `blockers` name their model.

    Written grouped, not model by model as the schema has it: this class is for reading what a daemon says.
    """

    name: Literal["host-passthrough", "maximum", "host-model", "custom"] = attr()
    supported: YesNo = attr()
    enums: list[Choice] = element(tag="enum", default_factory=list)
    models: list[OfferedModel] = element(tag="model", default_factory=list)
    blockers: list[Blockers] = element(tag="blockers", default_factory=list)
    vendor: str | None = element(default=None)
    maxphysaddr: MaxPhysAddr | None = element(default=None)
    features: list[Blocked] = element(tag="feature", default_factory=list)


class CPUOffer(Element, tag="cpu"):
    modes: list[CPUMode] = element(tag="mode", default_factory=list)


class SGXSection(Element, tag="section"):
    node: Unsigned = attr()
    size: Unsigned = attr()
    unit: str | None = attr(default=None)


class SGXSections(Element, tag="sections"):
    sections: list[SGXSection] = element(tag="section", default_factory=list)


class SGX(Element, tag="sgx"):
    supported: YesNo = attr()
    flc: str | None = element(default=None)
    sgx1: str | None = element(default=None)
    sgx2: str | None = element(default=None)
    section_size: ScaledSize | None = element(default=None)
    sections: SGXSections | None = element(default=None)


class SEV(Element, tag="sev"):
    supported: YesNo = attr()
    cbitpos: Unsigned | None = element(default=None)
    reduced_phys_bits: Unsigned | None = element(tag="reducedPhysBits", default=None)
    max_guests: Unsigned | None = element(tag="maxGuests", default=None)
    max_es_guests: Unsigned | None = element(tag="maxESGuests", default=None)
    cpu0_id: str | None = element(tag="cpu0Id", default=None)


class HyperVDefaults(Element, tag="defaults"):
    spinlocks: Unsigned | None = element(default=None)
    stimer_direct: str | None = element(default=None)
    tlbflush_direct: str | None = element(default=None)
    tlbflush_extended: str | None = element(default=None)
    vendor_id: str | None = element(default=None)


class HyperVOffer(Offer, tag="hyperv"):
    defaults: HyperVDefaults | None = element(default=None)


class FeaturesOffer(Element, tag="features"):
    gic: Offer | None = element(default=None)
    vmcoreinfo: Offer | None = element(default=None)
    genid: Offer | None = element(default=None)
    backing_store_input: Offer | None = element(tag="backingStoreInput", default=None)
    backup: Offer | None = element(default=None)
    async_teardown: Offer | None = element(tag="async-teardown", default=None)
    s390_pv: Offer | None = element(tag="s390-pv", default=None)
    ps2: Offer | None = element(default=None)
    tdx: Offer | None = element(default=None)
    sev: SEV | None = element(default=None)
    sgx: SGX | None = element(default=None)
    hyperv: HyperVOffer | None = element(default=None)
    launch_security: Offer | None = element(tag="launchSecurity", default=None)


class DevicesOffer(Element, tag="devices"):
    disk: Offer | None = element(default=None)
    graphics: Offer | None = element(default=None)
    video: Offer | None = element(default=None)
    hostdev: Offer | None = element(default=None)
    rng: Offer | None = element(default=None)
    filesystem: Offer | None = element(default=None)
    tpm: Offer | None = element(default=None)
    redirdev: Offer | None = element(default=None)
    channel: Offer | None = element(default=None)
    crypto: Offer | None = element(default=None)
    interface: Offer | None = element(default=None)
    panic: Offer | None = element(default=None)
    console: Offer | None = element(default=None)


class DomainCapabilities(Element, tag="domainCapabilities"):
    """What a domain document may ask for here."""

    path: str = element()
    domain: str = element()
    machine: str | None = element(default=None)
    arch: str = element()
    vcpu: MaxVCPUs | None = element(default=None)
    iothreads: Offer | None = element(default=None)
    os: OSOffer | None = element(default=None)
    cpu: CPUOffer | None = element(default=None)
    memory_backing: Offer | None = element(tag="memoryBacking", default=None)
    devices: DevicesOffer | None = element(default=None)
    features: FeaturesOffer | None = element(default=None)
