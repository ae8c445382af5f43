"""Who is being started goes first, and only until it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corral.host import priority

#: Makes a thread before and one after it is told to, and says so.
_THREADS = """
import sys, threading
wait = threading.Event()
for _ in range(2):
    threading.Thread(target=wait.wait, daemon=True).start()
    print("made", flush=True)
    sys.stdin.readline()
"""


def _nices(pid: int) -> set[int]:
    return {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may favour a process")
def test_a_favoured_process_and_the_threads_it_makes_become_equal_again() -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", _THREADS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        priority.favour(child.pid)
        child.stdout.readline()
        assert min(_nices(child.pid)) < ours
        priority.equal(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        assert len(list(Path(f"/proc/{child.pid}/task").iterdir())) == 3
        assert _nices(child.pid) == {ours}
        child.kill()
    priority.favour(child.pid)  # gone: nothing happens
    priority.equal(child.pid)
