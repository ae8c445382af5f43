"""What KVM says of counters and of the TSC, and when that is enough for a guest."""

from __future__ import annotations

import pytest

from corral.host.pmu import PMU, differences, from_cpuid
from corral.host.tsc import TSC

INTEL = (0xA, 0x07300805, 0, 0, 0x8604)
ZEN4 = (0x80000022, 1, 0x1406, 0, 0)
ZEN2 = (0x80000001, 0, 0, 1 << 23, 0)


@pytest.mark.parametrize(
    ("entry", "pmu"),
    [
        (INTEL, PMU(version=5, counters=8, width=48, fixed=4, fixed_width=48)),
        (ZEN4, PMU(version=2, counters=6, width=48)),
        (ZEN2, PMU(version=1, counters=6, width=48)),
        ((0xA, 0, 0, 0, 0), PMU()),
        ((1, 0xA0671, 0, 0, 0), PMU()),
    ],
)
def test_a_pmu_in_cpuid(entry: tuple[int, int, int, int, int], pmu: PMU) -> None:
    assert from_cpuid([(0, 0x24, 0, 0, 0), entry]) == pmu


def test_a_pmu_in_words_and_compared() -> None:
    has = from_cpuid([INTEL])
    assert str(has) == "PMU version 5 with 8 counters of 48 bits and 4 fixed ones of 48"
    assert str(PMU(2, 6, 48)) == "PMU version 2 with 6 counters of 48 bits"
    assert str(PMU()) == "no PMU"
    assert differences({"version": 5, "counters": 8}, has) == []
    assert differences({"version": 2, "counters": 8, "fixed": 3}, has) == ["version", "fixed"]


@pytest.mark.parametrize(
    ("tsc", "hz", "given"),
    [
        (TSC(2_600_000), 2_600_000_000, True),
        (TSC(2_600_000), 2_600_650_000, True),  # 250 ppm
        (TSC(2_600_000), 2_599_350_000, True),
        (TSC(2_600_000), 2_600_651_000, False),
        (TSC(2_600_000), 2_599_349_000, False),
        (TSC(2_600_000, scaling=True), 1_000_000_000, True),
        (TSC(), 2_600_000_000, False),
    ],
)
def test_a_tsc_that_a_guest_may_have(tsc: TSC, hz: int, given: bool) -> None:
    assert tsc.gives(hz) == given


def test_a_tsc_in_words() -> None:
    assert str(TSC(2_600_000)) == "the TSC runs at 2,600,000,000 Hz, which KVM cannot scale"
    assert str(TSC(2_600_000, scaling=True)).endswith("which KVM scales")
    assert "does not tell" in str(TSC())
