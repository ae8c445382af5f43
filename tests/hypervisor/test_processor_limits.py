"""What a document asks of the processor beside its model, against what KVM said on hosts of several kinds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corral.errors import ConfigUnsupported, CPUIncompatible
from corral.host.kvm import KVM
from corral.host.pmu import PMU
from corral.host.tsc import TSC
from corral.hypervisor.cpus import processor_limits
from corral.model.domain import VCPU, Domain

INTEL = PMU(version=2, counters=8, width=48, fixed=3, fixed_width=48)
HOST = KVM(True, True, True, 1e-5, "fast", 1024, True, TSC(2_600_000), INTEL, 1)
BARE = replace(HOST, pmu=PMU(), pmu_capability=0)
SCALING = replace(HOST, tsc=TSC(2_600_000, scaling=True))


def document(*, pmu: str = "", cpu: str = "", timer: str = "", metadata: str = "") -> Domain:
    timers = f"<clock offset='utc'><timer name='tsc' {timer}/></clock>" if timer else ""
    text = f"""<domain type='kvm'><name>limits</name>{metadata and f"<metadata>{metadata}</metadata>"}
      <memory unit='MiB'>32</memory><os><type>hvm</type></os><features><acpi/>{pmu}</features>{cpu}{timers}</domain>"""
    return Domain.from_xml(text)


def given(**figures: int) -> str:
    words = " ".join(f"{name}='{value}'" for name, value in figures.items())
    return f"<pmu:given xmlns:pmu='{processor_limits.NAMESPACE}' {words}/>"


def check(asked: Domain, accel: str, kvm: KVM) -> None:
    processor_limits.check(asked, accel, kvm, {"x2apic"})


ON, OFF = "<pmu state='on'/>", "<pmu state='off'/>"
PASSTHROUGH = "<cpu mode='host-passthrough'/>"


@pytest.mark.parametrize("asked", [document(), document(pmu=ON), document(pmu=OFF), document(cpu=PASSTHROUGH)])
def test_a_host_with_a_pmu_gives_it(asked: Domain) -> None:
    check(asked, "kvm", HOST)


def test_a_host_without_one_refuses_only_those_that_ask() -> None:
    for content in (document(), document(pmu=OFF), document(cpu=PASSTHROUGH)):
        check(content, "kvm", BARE)
    with pytest.raises(ConfigUnsupported, match=r"this host's KVM has none: kvm\.enable_pmu is off"):
        check(document(pmu=ON), "kvm", BARE)
    with pytest.raises(ConfigUnsupported):
        check(document(pmu=ON), "tcg", HOST)


def test_what_a_guest_has_is_noted_and_must_be_found_again() -> None:
    live = document(pmu=ON)
    processor_limits.note(live, "kvm", HOST)
    assert "version='2' counters='8' width='48' fixed='3' fixed_width='48'" in live.to_xml().replace('"', "'")
    check(live, "kvm", HOST)
    with pytest.raises(CPUIncompatible) as caught:
        check(live, "kvm", replace(HOST, pmu=PMU(5, 6, 48, 3, 48)))
    assert (
        "PMU version 2 with 8 counters of 48 bits and 3 fixed ones of 48 wanted, this host has PMU version 5 "
        "with 6 counters of 48 bits and 3 fixed ones of 48 (different: version, counters)"
    ) in str(caught.value)
    with pytest.raises(CPUIncompatible, match="this host has no PMU"):
        check(live, "kvm", BARE)


def test_only_figures_that_are_named_count() -> None:
    asked = document(cpu=PASSTHROUGH, metadata=given(version=2, counters=8))
    check(asked, "kvm", HOST)
    with pytest.raises(CPUIncompatible, match="different: counters"):
        check(asked, "kvm", replace(HOST, pmu=PMU(2, 4, 48, 3, 48)))
    check(document(pmu=OFF, metadata=given(version=5)), "kvm", HOST)


@pytest.mark.parametrize("content", [document(pmu=OFF, cpu=PASSTHROUGH), document()])
def test_nothing_is_noted_of_a_guest_without(content: Domain) -> None:
    processor_limits.note(content, "kvm", HOST)
    assert content.metadata is None
    processor_limits.note(document(pmu=ON), "kvm", BARE)
    assert content.metadata is None


def test_a_tsc_that_the_host_cannot_give_is_refused_with_both_figures() -> None:
    for content in (document(timer="frequency='2600000000'"), document(timer="frequency='2600500000'")):
        check(content, "kvm", HOST)
    wanted = document(timer="frequency='3000000000'")
    with pytest.raises(ConfigUnsupported, match=r"3,000,000,000 Hz is wanted: the TSC runs at 2,600,000,000 Hz"):
        check(wanted, "kvm", HOST)
    check(wanted, "kvm", SCALING)
    with pytest.raises(ConfigUnsupported, match="mode 'native'"):
        check(document(timer="frequency='3000000000' mode='native'"), "kvm", SCALING)


def test_more_vcpus_than_there_can_be() -> None:
    many = document()
    many.vcpu = VCPU(count=300)
    processor_limits.check(many, "kvm", HOST, ())
    processor_limits.check(many, "tcg", HOST, {"x2apic"})
    with pytest.raises(ConfigUnsupported, match="300 vCPUs are wanted, and this host's KVM has at most 288"):
        processor_limits.check(many, "kvm", replace(HOST, max_vcpus=288), ())
    with pytest.raises(ConfigUnsupported, match="more than 255 need x2APIC, which this host's KVM does not have"):
        processor_limits.check(many, "kvm", replace(HOST, x2apic=False), ())
    with pytest.raises(ConfigUnsupported, match="which this QEMU's software emulation does not have"):
        processor_limits.check(many, "tcg", HOST, {"aes"})
