"""`corral set` with our own daemon and a guest: CPUs and memory as the guest counts them, and what cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs import corrald
from labs.corrald import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.timeout(300)]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="cr") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon


@pytest.fixture
def corral(daemon: Daemon) -> Run:
    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert result.returncode == status, (words, result.stdout, result.stderr)
        return result

    return run


def memory(corral: Run) -> int:
    """KiB, as the guest counts them."""
    return int(corral("exec", "web", "--", "grep", "MemTotal", "/proc/meminfo").stdout.split()[1])


def becomes(corral: Run, kib: int) -> None:
    """The guest's count comes to that, once what it was given is on line."""
    until = time.monotonic() + 60
    while abs((now := memory(corral)) - kib) >= 8 * 1024:
        assert time.monotonic() < until, (now, kib)


def test_more_and_less_while_it_runs(corral: Run) -> None:
    sizes = ("--cpus", "1", "--max-cpus", "3", "--memory", "256M", "--max-memory", "384M")
    corral("run", "tiny", "--name", "web", *sizes, "--wait")
    assert corral("exec", "web", "--", "nproc").stdout == "1\n"
    if corral("exec", "web", "--", "cat", "/sys/devices/system/cpu/possible").stdout == "0\n":
        pytest.skip("the guest's Linux takes no vCPU in software emulation")
    said = corral("set", "web", "--cpus", "3", "--memory", "200M").stdout
    assert said == "web has 3 of at most 3 CPUs, and 200 MiB of at most 384 MiB memory\n"
    assert corral("exec", "web", "--", "nproc").stdout == "3\n"
    told = json.loads(corral("set", "web", "--now", "--cpus", "2", "--format", "json").stdout)
    assert (told["vcpus"], told["max_vcpus"], told["memory_kib"]) == (2, 3, 200 * 1024)
    assert corral("exec", "web", "--", "nproc").stdout == "2\n"
    had = memory(corral)
    corral("set", "web", "--now", "--memory", "384M")
    becomes(corral, had + 184 * 1024)
    corral("set", "web", "--memory", "200M")
    becomes(corral, had)
    assert "current='3'" not in corral("show", "web").stdout

    refused = corral("set", "web", "--cpus", "9", status=1).stderr
    assert "9 > 3" in refused
    assert "corral set web --max-cpus 9 --later" in refused
    refused = corral("set", "web", "--memory", "512M", status=1).stderr
    assert "web can have at most 384 MiB of memory\n        corral set web --max-memory 512M --later" in refused
    assert "too little" in corral("set", "web", "--memory", "2", status=1).stderr
    said = corral("set", "web", "--max-cpus", "4", "--max-memory", "300M").stdout.splitlines()
    assert said[0].endswith("at most 384 MiB memory")
    assert said[1] == "from its next start: at most 4 CPUs and 300 MiB of memory"
    assert "say what to change" in corral("set", "web", status=2).stderr
    corral("kill", "web")
    told = json.loads(corral("set", "web", "--cpus", "4", "--memory", "300M", "--format", "json").stdout)
    assert told == {
        "name": "web",
        "vcpus": 4,
        "max_vcpus": 4,
        "memory_kib": 300 * 1024,
        "max_memory_kib": 300 * 1024,
    }
