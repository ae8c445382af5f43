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
    with subprocess.Popen(["sleep", "5"]) as sleeper, busy(5.0) as runner:
        try:
            time.sleep(0.8)
            asleep, running = (thread_times(each.pid, each.pid) for each in (sleeper, runner))
        finally:
            sleeper.kill()
            runner.kill()
    assert asleep is not None
    assert running is not None
    assert asleep.state == "S"
    assert running.state == "R"
    assert running.ran > 10 * asleep.ran
    assert 0 <= running.cpu < (os.cpu_count() or 1)


def test_two_threads_on_one_cpu_wait_for_each_other() -> None:
    """Two busy programs pinned to one CPU: each waits at least as long as it runs, whatever else the host does."""
    cpu = min(os.sched_getaffinity(0))
    with busy(5.0) as one, busy(5.0) as other:
        try:
            for each in (one, other):
                os.sched_setaffinity(each.pid, {cpu})
            time.sleep(0.3)
            before = [thread_times(each.pid, each.pid) for each in (one, other)]
            time.sleep(1.0)
            after = [thread_times(each.pid, each.pid) for each in (one, other)]
        finally:
            one.kill()
            other.kill()
    for first, last in zip(before, after, strict=True):
        assert first is not None
        assert last is not None
        delay, ran = last.delay - first.delay, last.ran - first.ran
        assert delay / (delay + ran) > 0.4


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
