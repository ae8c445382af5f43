"""What a guest asks of the host's processor beside its model: performance counters and the time stamp counter.

Functions of a document and of what KVM said (`host.kvm`); a document that comes from elsewhere is judged like any.

What PMU a running guest has is noted in its live document, as metadata, so that whoever takes it over can compare:

    <pmu:given xmlns:pmu='urn:corral:pmu:1' version='2' counters='8' width='48' fixed='3' fixed_width='48'/>

A definition may have such an element, too, with the figures that matter (`version` at least): a host with others
refuses to start it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from lxml import etree

from corral.errors import ConfigUnsupported, CPUIncompatible
from corral.host.pmu import PMU, differences
from corral.model.metadata import Metadata
from corral.qemu.devices.iommu import XAPIC_LIMIT

if TYPE_CHECKING:
    from corral.host.kvm import KVM
    from corral.model.domain import Domain as DomainDocument

NAMESPACE = "urn:corral:pmu:1"
PREFIX = "pmu"

_WITH_PMU = ("host-passthrough", "maximum")
"""CPU modes that bring the host's PMU along unless the document switches it off."""


def check(document: DomainDocument, accel: str, kvm: KVM, features: Collection[str]) -> None:
    """Refuse what this host's KVM or emulator cannot give, with both figures.

    `features` are those of a CPU that the accelerator has here.
    Raises ConfigUnsupported for what it lacks, CPUIncompatible for a PMU that is not the one that is wanted.
    """
    _check_count(document.vcpu.count if document.vcpu is not None else 1, accel, kvm, features)
    _check_iommu(document, accel, features)
    _check_pmu(document, accel, kvm)
    if accel == "kvm":
        _check_tsc(document, kvm)


def note(document: DomainDocument, accel: str, kvm: KVM) -> None:
    """Write into a live document which PMU the guest has; nothing where it has none."""
    if accel != "kvm" or not _on(document) or not kvm.pmu.version:
        return
    figures = " ".join(f"{name}='{value}'" for name, value in asdict(kvm.pmu).items())
    document.metadata = document.metadata or Metadata()
    document.metadata.set(NAMESPACE, PREFIX, f"<given {figures}/>")


def _on(document: DomainDocument) -> bool:
    """Whether the guest gets what PMU there is."""
    state = document.features.pmu.state if document.features is not None and document.features.pmu is not None else None
    return state == "on" or (state is None and document.cpu is not None and document.cpu.mode in _WITH_PMU)


def _check_count(count: int, accel: str, kvm: KVM, features: Collection[str]) -> None:
    if accel == "kvm" and kvm.max_vcpus and count > kvm.max_vcpus:
        raise ConfigUnsupported(f"{count} vCPUs are wanted, and this host's KVM has at most {kvm.max_vcpus} of a guest")
    if count > XAPIC_LIMIT and not (kvm.x2apic if accel == "kvm" else "x2apic" in features):
        whose = "this host's KVM" if accel == "kvm" else "this QEMU's software emulation"
        raise ConfigUnsupported(
            f"{count} vCPUs are wanted: more than {XAPIC_LIMIT} need x2APIC, which {whose} does not have"
        )


def _check_iommu(document: DomainDocument, accel: str, features: Collection[str]) -> None:
    extended = any(each.driver is not None and each.driver.eim == "on" for each in document.devices.iommus)
    if extended and accel == "tcg" and "x2apic" not in features:
        raise ConfigUnsupported(
            "an IOMMU with eim='on' is wanted, and this QEMU's software emulation has no x2APIC for it",
            hint="leave eim='on' out: up to 255 vCPUs do not need it",
        )


def _check_pmu(document: DomainDocument, accel: str, kvm: KVM) -> None:
    asked = document.features is not None and document.features.pmu is not None and document.features.pmu.state == "on"
    wanted = _wanted(document)
    if not asked and (wanted is None or not _on(document)):
        return
    has = kvm.pmu if accel == "kvm" else PMU()
    if wanted is not None and (found := differences(wanted, has)):
        raise CPUIncompatible(
            f"{PMU(**wanted)} wanted, this host has {has} (different: {', '.join(found).replace('_', ' ')})",
            hint="<pmu state='off'/> starts it without performance counters",
        )
    if not has.version:
        reason = "kvm.enable_pmu is off, or the processor keeps its counters to itself"
        raise ConfigUnsupported(
            f"a virtual PMU (<pmu state='on'/>) is wanted, and this host's KVM has none: {reason}",
            hint="leave <pmu> out, or set the module's option kvm.enable_pmu=1",
        )


def _wanted(document: DomainDocument) -> dict[str, int] | None:
    """The figures of a PMU that the document's metadata speak of."""
    text = document.metadata.get(NAMESPACE) if document.metadata is not None else None
    if text is None:
        return None
    attributes = etree.fromstring(text).attrib
    try:
        return {each.name: int(attributes[each.name]) for each in fields(PMU) if each.name in attributes}
    except ValueError as error:
        raise ConfigUnsupported(f"the metadata's PMU is not described by numbers: {text}") from error


def _frequency(document: DomainDocument) -> int | None:
    timers = document.clock.timers if document.clock is not None else ()
    return next((timer.frequency for timer in timers if timer.name == "tsc" and timer.frequency), None)


def _check_tsc(document: DomainDocument, kvm: KVM) -> None:
    hz, tsc = _frequency(document), kvm.tsc
    if hz is not None and not tsc.gives(hz):
        raise ConfigUnsupported(
            f"a TSC frequency of {hz:,} Hz is wanted: {tsc}",
            hint=f"frequency='{tsc.hz}' can be had here" if tsc.khz else "leave the frequency out",
        )
    timers = document.clock.timers if document.clock is not None else ()
    native = any(timer.name == "tsc" and timer.mode == "native" for timer in timers)
    if native and hz is not None and not tsc.near(hz):
        raise ConfigUnsupported(f"mode 'native' of timer 'tsc' is the host's {tsc.hz:,} Hz, not {hz:,} Hz")
