"""A process that is being started goes before those that already run: else those hold it up.

Two things decide who gets a CPU (sched(7)): the nice value, kept per thread, and, where the kernel groups the processes
of a session (autogroup), the group's own. Neither may be raised without CAP_SYS_NICE; without it nothing changes.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: Nice value of a process while it is being started; about three times the share of one that has none (0).
_FAVOURED = -5


def favour(pid: int) -> None:
    """Put a new process, the only thread of a session of its own, before the others."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _FAVOURED)
    _set_group(pid, _FAVOURED)


def equal(pid: int) -> None:
    """Make all its threads, and its session, equal to the others again; nothing happens when it is gone."""
    settled: set[int] = set()
    tasks = Path(f"/proc/{pid}/task")
    with contextlib.suppress(OSError):
        # A thread made meanwhile by one that was still favoured has inherited that: look until there is none.
        while fresh := {int(thread.name) for thread in tasks.iterdir()} - settled:
            for thread in fresh:
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0))
            settled |= fresh
    _set_group(pid, 0)


def _set_group(pid: int, nice: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
