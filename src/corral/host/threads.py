"""What the kernel's scheduler counted for one thread (proc(5): schedstat, sched, stat)."""

from __future__ import annotations

import os
from dataclasses import dataclass

#: Bytes that one read of these files takes at most; the longest, `sched`, has about 3 KiB.
_READ = 8192

#: Present where the kernel can keep the further figures (CONFIG_SCHEDSTATS); 1 when it does.
SCHEDSTATS = "/proc/sys/kernel/sched_schedstats"

#: The names that the wait on a run queue has had in `sched`: since 5.16, since 2.6.35, before.
_WAIT_NAMES = (b"wait_sum", b"se.statistics.wait_sum", b"se.wait_sum")


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """Nanoseconds: `ran` on a CPU, `delay` ready to run but waiting for one; `wait` is the same by `sched`, or 0.

    `state` is the kernel's letter (R runs or is ready, S sleeps), `cpu` the one it last ran on.
    """

    ran: int
    delay: int
    wait: int
    state: str
    cpu: int


def keeps_schedstats() -> bool:
    """Whether this kernel keeps `wait_sum` now; most do only when told (sysctl kernel.sched_schedstats)."""
    return _read(SCHEDSTATS).strip() == b"1"


def thread_times(pid: int, thread: int, *, schedstats: bool = False) -> ThreadTimes | None:
    """The figures of one thread, None when it is gone; `wait` only with `schedstats`, for it costs the most."""
    task = f"/proc/{pid}/task/{thread}/"
    try:
        ran, delay, _ = _read(task + "schedstat").split()
        state = _read(task + "stat").rpartition(b")")[2].split()
        wait = _wait(_read(task + "sched")) if schedstats else 0
        return ThreadTimes(int(ran), int(delay), wait, state[0].decode(), int(state[36]))
    except (ValueError, IndexError):
        return None


def _wait(text: bytes) -> int:
    """Nanoseconds of `wait_sum`, which the file has in milliseconds."""
    for line in text.splitlines():
        name, colon, value = line.partition(b":")
        if colon and name.strip() in _WAIT_NAMES:
            return round(float(value) * 1_000_000)
    return 0


def _read(path: str) -> bytes:
    """The file at once, with three system calls; empty when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _READ)
    except OSError:
        return b""
    finally:
        os.close(fd)
