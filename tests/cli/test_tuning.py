"""`corral pin`, `corral numa` and `corral iothread` with our own daemon: the kernel's and QEMU's word for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs import corrald
from labs.corrald import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

Run = Callable[..., str]
DOCUMENT = """<domain type='qemu'><name>web</name><memory unit='MiB'>32</memory><vcpu current='1'>2</vcpu>
<iothreads>1</iothreads><os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><controller type='usb' model='none'/></devices></domain>"""


@pytest.fixture
def daemon(short_path: Path) -> Iterator[Daemon]:
    with corrald.running(short_path) as daemon:
        yield daemon


@pytest.fixture
def corral(daemon: Daemon) -> Run:
    def run(*words: str, status: int = 0, stdin: str = "") -> str:
        command = [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stderr

    return run


def threads(daemon: Daemon) -> dict[str, set[int]]:
    """The CPUs of each of QEMU's threads by its name."""
    (pid,) = corrald.machines(daemon.state)
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name)) for task in tasks}


def test_where_threads_run(corral: Run, daemon: Daemon) -> None:
    everywhere, last = set(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    corral("define", "-", stdin=DOCUMENT)
    corral("start", "web")
    assert json.loads(corral("pin", "web", "--format", "json"))["emulator"] == sorted(everywhere)
    assert corral("pin", "web", "0", str(last)) == f"vCPU 0 of web runs on {last}\n"
    assert threads(daemon)["CPU 0/TCG"] == {last}
    corral("iothread", "add", "web", "3")
    assert corral("pin", "web", "iothread:3", str(last), "--now") == f"iothread:3 of web runs on {last}\n"
    assert threads(daemon)["IO iothread3"] == {last}
    told = json.loads(corral("iothread", "ls", "web", "--format", "json"))
    assert told == [{"number": 1, "cpus": sorted(everywhere)}, {"number": 3, "cpus": [last]}]
    corral("pin", "web", "emulator", "0")
    assert threads(daemon)["IO iothread1"] == everywhere
    assert {"WHAT", "emulator", "iothread:3"} <= set(corral("pin", "web").split())
    assert "thread_pool_max=8" in corral("iothread", "tune", "web", "3", "--poll-max-ns", "1000", "--pool-max", "8")
    assert "<poll max='1000'/>" in corral("show", "web")
    assert "cannot find IOThread '9'" in corral("iothread", "tune", "web", "9", "--poll-max-ns", "1", status=1)
    assert "say what to change" in corral("iothread", "tune", "web", "3", status=2)
    assert "say what and where" in corral("pin", "web", "nothing", "0", status=2)
    corral("iothread", "rm", "web", "3")
    assert "IO iothread3" not in threads(daemon)
    assert "iothread='3'" not in corral("show", "web")


def test_where_memory_comes_from(corral: Run) -> None:
    corral("define", "-", stdin=DOCUMENT)
    assert corral("numa", "web") == "memory of web: strict, from any node\n"
    said = corral("numa", "web", "--mode", "preferred", "--nodes", "0")
    assert said == "memory of web: preferred, from nodes 0\n"
    assert "<memory mode='preferred' nodeset='0'/>" in corral("show", "web")
    assert "the mode is strict, preferred, interleave" in corral("numa", "web", "--mode", "odd", status=2)
