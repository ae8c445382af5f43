"""CPUs that are kept from going to sleep, so that a call's time is the daemon's and not that of waking a CPU.

A virtual CPU that has nothing to do is given up to its host, and waking it takes longer than a call does: on an idle
virtual machine every daemon answers one call at a time at the same pace. A loop of the idle scheduling class on each
CPU takes no time from anybody (sched(7), SCHED_IDLE) and keeps it awake.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

_LOOP = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); os.write(1, b'.')\nwhile True: pass"


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep every CPU awake until the block ends."""
    with contextlib.ExitStack() as loops:
        for _ in os.sched_getaffinity(0):
            loop = subprocess.Popen([sys.executable, "-S", "-c", _LOOP], stdout=subprocess.PIPE)
            loops.enter_context(loop)
            loops.callback(loop.kill)
            assert loop.stdout is not None
            loop.stdout.read(1)
        yield
