"""The performance monitoring unit that KVM gives guests, as CPUID describes it.

Intel SDM volume 3, "Architectural performance monitoring" (leaf 0xA); AMD APM volume 3, leaf 0x8000_0022.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LEAF, _AMD_LEAF, _AMD_FEATURES = 0xA, 0x80000022, 0x80000001
_PERFCTR_CORE = 1 << 23
_AMD_WIDTH = 48


@dataclass(frozen=True, slots=True)
class PMU:
    """`version` 0 is none; `counters` of `width` bits count any event, `fixed` ones of `fixed_width` one event each."""

    version: int = 0
    counters: int = 0
    width: int = 0
    fixed: int = 0
    fixed_width: int = 0

    def __str__(self) -> str:
        if not self.version:
            return "no PMU"
        words = f"PMU version {self.version} with {self.counters} counters of {self.width} bits"
        return f"{words} and {self.fixed} fixed ones of {self.fixed_width}" if self.fixed else words


def differences(wanted: Mapping[str, int], has: PMU) -> list[str]:
    """The names of the wanted figures that are others."""
    return [name for name, value in wanted.items() if getattr(has, name) != value]


def from_cpuid(entries: Iterable[tuple[int, int, int, int, int]]) -> PMU:
    """The PMU in CPUID's entries (function, eax, ebx, ecx, edx): Intel's architectural one, or AMD's core counters."""
    registers = {function: values for function, *values in entries}
    eax, _, _, edx = registers.get(_LEAF, [0] * 4)
    if version := eax & 0xFF:
        return PMU(version, eax >> 8 & 0xFF, eax >> 16 & 0xFF, edx & 0x1F, edx >> 5 & 0xFF)
    eax, ebx, _, _ = registers.get(_AMD_LEAF, [0] * 4)
    if eax & 1:
        return PMU(2, ebx & 0xF, _AMD_WIDTH)
    if registers.get(_AMD_FEATURES, [0] * 4)[2] & _PERFCTR_CORE:
        return PMU(1, 6, _AMD_WIDTH)
    return PMU()
