"""The processor's time stamp counter as KVM can give it to a guest: at its own pace, or scaled to another.

virt/kvm/api.rst of the kernel: KVM_CAP_TSC_CONTROL, KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ.
"""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE_PPM = 250
"""How far from the host's own pace KVM takes a guest's TSC without scaling it (its parameter tsc_tolerance_ppm)."""


@dataclass(frozen=True, slots=True)
class TSC:
    """`khz`: the host's pace, 0 when KVM does not tell; `scaling`: a guest's may have any other."""

    khz: int = 0
    scaling: bool = False

    @property
    def hz(self) -> int:
        return self.khz * 1000

    def near(self, hz: int) -> bool:
        """Whether a frequency is the host's own, within the tolerance."""
        return abs(hz - self.hz) * 1_000_000 <= self.hz * TOLERANCE_PPM

    def gives(self, hz: int) -> bool:
        """Whether a guest can have a TSC of that frequency here."""
        return self.scaling or (self.khz > 0 and self.near(hz))

    def __str__(self) -> str:
        if not self.khz:
            return "KVM does not tell the TSC's frequency"
        return f"the TSC runs at {self.hz:,} Hz, which KVM {'scales' if self.scaling else 'cannot scale'}"
