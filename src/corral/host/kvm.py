"""Whether this machine's KVM is there, may be used, and is fast.

On some machines `/dev/kvm` opens and creates machines, but runs them in software a thousand times too slow. So KVM is
not assumed: a short-lived process (`kvm_loop.py`, run by path) counts 20,000 turns of a loop in a 64-bit virtual CPU
and times them. A hang or a crash of that process harms nobody; it is killed at its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import stat
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEVICE = Path("/dev/kvm")
TURNS = 20_000
FAST_SECONDS = 0.001
"""The longest time for `TURNS` turns that counts as fast.

Real hardware takes about 10 µs, software emulation of the instructions 10 ms or far more: the limit lies between."""
DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class KVM:
    """What the probe found.

    `present`: the device node exists. `usable`: a machine could be made and its CPU ran. `fast`: it ran at the
    hardware's speed. `loop_seconds`: the time of 20,000 turns, None when they never ended. `reason`: one sentence
    that says why type kvm is offered or not, for a person.
    """

    present: bool
    usable: bool
    fast: bool
    loop_seconds: float | None
    reason: str

    def offered(self, *, allow_slow: bool = False) -> bool:
        """Whether domains of type kvm may run here; `allow_slow` accepts a KVM that works but is slow."""
        return self.usable and (self.fast or allow_slow)


async def probe(cache_dir: Path | None = None, *, device: Path = DEVICE, deadline: float = DEADLINE) -> KVM:
    """Find out about KVM; the answer is kept in `cache_dir` until the next boot. Never raises for what KVM does."""
    raise NotImplementedError
