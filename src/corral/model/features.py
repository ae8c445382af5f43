"""The machine's features. https://libvirt.org/formatdomain.html#hypervisor-features"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element, OnOff, State
from corral.model.units import ScaledSize


class APIC(Element, tag="apic"):
    eoi: OnOff | None = attr(default=None)


class Spinlocks(State, tag="spinlocks"):
    retries: Annotated[int, Field(ge=4095, le=2**32 - 1)] | None = attr(default=None)


class Stimer(State, tag="stimer"):
    direct: State | None = element(default=None)


class TLBFlush(State, tag="tlbflush"):
    direct: State | None = element(default=None)
    extended: State | None = element(default=None)


class VendorID(State, tag="vendor_id"):
    value: Annotated[str, Field(max_length=12, pattern=r"^[^,]*$")] | None = attr(default=None)


class HyperV(Element, tag="hyperv"):
    """Enlightenments for Windows guests."""

    mode: Literal["custom", "passthrough"] | None = attr(default=None)
    relaxed: State | None = element(default=None)
    vapic: State | None = element(default=None)
    spinlocks: Spinlocks | None = element(default=None)
    vpindex: State | None = element(default=None)
    runtime: State | None = element(default=None)
    synic: State | None = element(default=None)
    stimer: Stimer | None = element(default=None)
    reset: State | None = element(default=None)
    vendor_id: VendorID | None = element(default=None)
    frequencies: State | None = element(default=None)
    reenlightenment: State | None = element(default=None)
    tlbflush: TLBFlush | None = element(default=None)
    ipi: State | None = element(default=None)
    evmcs: State | None = element(default=None)
    avic: State | None = element(default=None)
    emsr_bitmap: State | None = element(default=None)
    xmm_input: State | None = element(default=None)


class DirtyRing(State, tag="dirty-ring"):
    size: Annotated[int, Field(ge=1024, le=65536)] | None = attr(default=None)


class KVM(Element, tag="kvm"):
    """KVM's paravirtual features."""

    hidden: State | None = element(default=None)
    hint_dedicated: State | None = element(tag="hint-dedicated", default=None)
    poll_control: State | None = element(tag="poll-control", default=None)
    pv_ipi: State | None = element(tag="pv-ipi", default=None)
    dirty_ring: DirtyRing | None = element(tag="dirty-ring", default=None)


class GIC(Element, tag="gic"):
    version: Literal["2", "3", "host"] | None = attr(default=None)


class SMM(State, tag="smm"):
    tseg: ScaledSize | None = element(default=None)


class IOAPIC(Element, tag="ioapic"):
    driver: Literal["kvm", "qemu"] = attr()


class TCG(Element, tag="tcg"):
    """Options of software emulation."""

    tb_cache: ScaledSize | None = element(tag="tb-cache", default=None)


class Features(Element, tag="features"):
    """What the machine offers beside devices."""

    acpi: bool = element(default=False)
    apic: APIC | None = element(default=None)
    pae: bool = element(default=False)
    hyperv: HyperV | None = element(default=None)
    kvm: KVM | None = element(default=None)
    pvspinlock: State | None = element(default=None)
    pmu: State | None = element(default=None)
    vmport: State | None = element(default=None)
    gic: GIC | None = element(default=None)
    smm: SMM | None = element(default=None)
    ioapic: IOAPIC | None = element(default=None)
    vmcoreinfo: State | None = element(default=None)
    tcg: TCG | None = element(default=None)
    ps2: State | None = element(default=None)
