"""The scheduler's figures of real threads, and the interfaces' counters."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from corral.host import threads
from corral.host.interfaces import interface_counters
from corral.host.threads import thread_times

SCHED = b"""cpu0 (1, #threads: 1)
---------------------------------------------
se.exec_start                                :       4897758.208117
{name}                                     :            12.345678
"""


def busy(seconds: float) -> subprocess.Popen[bytes]:
    code = f"import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    return subprocess.Popen([sys.executable, "-S", "-E", "-c", code])


def test_a_busy_thread_runs_and_a_sleeping_one_does_not() -> None:
    with subprocess.Popen(["sleep", "90"]) as sleeper, busy(90.0) as runner:
        try:
            until = time.monotonic() + 60
            while True:  # both are to be where they stay, which may take them a while
                asleep, running = (thread_times(each.pid, each.pid) for each in (sleeper, runner))
                assert asleep is not None and running is not None
                if (asleep.state, running.state) == ("S", "R") and running.ran > 10 * asleep.ran:
                    break
                assert time.monotonic() < until, (asleep, running)
                time.sleep(0.1)
        finally:
            sleeper.kill()
            runner.kill()
    assert 0 <= running.cpu < (os.cpu_count() or 1)


def test_two_threads_on_one_cpu_wait_for_each_other() -> None:
    """Two busy programs pinned to one CPU: each waits at least as long as it runs, whatever else the host does."""
    cpu = min(os.sched_getaffinity(0))
    with busy(90.0) as one, busy(90.0) as other:
        try:
            for each in (one, other):
                os.sched_setaffinity(each.pid, {cpu})
            time.sleep(0.3)
            until = time.monotonic() + 60
            while min(waited := [share_waited(each.pid) for each in (one, other)]) <= 0.4:
                assert time.monotonic() < until, waited  # a program that is still being started does not compute
        finally:
            one.kill()
            other.kill()


def share_waited(pid: int) -> float:
    """The part of a second's time that a process waited instead of running."""
    first = thread_times(pid, pid)
    time.sleep(1.0)
    last = thread_times(pid, pid)
    assert first is not None and last is not None
    delay, ran = last.delay - first.delay, last.ran - first.ran
    return delay / (delay + ran) if delay + ran else 0.0


def test_a_thread_that_is_gone_has_none() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert thread_times(gone.pid, gone.pid) is None


def test_every_name_of_the_wait() -> None:
    for name in (b"wait_sum", b"se.statistics.wait_sum", b"se.wait_sum"):
        assert threads._wait(SCHED.replace(b"{name}", name)) == 12_345_678
    assert threads._wait(SCHED) == 0


def test_interfaces(tmp_path: Path) -> None:
    file = tmp_path / "dev"
    file.write_text(
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n"
        "    lo:  100       2    0    0    0     0          0         0      100       2    0    0    0     0\n"
        " vnet0: 1000      10    1    2    0     0          0         0     2000      20    3    4    0     0\n"
    )
    counters = interface_counters(file)["vnet0"]
    assert counters.received == (1000, 10, 1, 2)
    assert counters.sent == (2000, 20, 3, 4)
    assert "lo" in interface_counters()
