"""How busy the host's CPUs are: the kernel's counters of /proc/stat (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from corral.host.sysfs import text

#: The key of all CPUs together.
TOTAL = -1

NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CPUTimes:
    """Nanoseconds since boot; `kernel` includes interrupts, `user` includes niced."""

    kernel: int
    user: int
    idle: int
    iowait: int


def cpu_times(root: Path = Path("/")) -> dict[int, CPUTimes]:
    """The times of each online CPU by number, and of all under `TOTAL`."""
    times = {}
    for line in text(root / "proc/stat").splitlines():
        name, *counters = line.split()
        if not name.startswith("cpu") or len(counters) < 7:
            continue
        user, nice, system, idle, iowait, irq, softirq = (int(counter) * NS_PER_TICK for counter in counters[:7])
        number = int(name.removeprefix("cpu") or TOTAL)
        times[number] = CPUTimes(kernel=system + irq + softirq, user=user + nice, idle=idle, iowait=iowait)
    return times
