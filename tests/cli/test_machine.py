"""The commands with our own daemon and a guest that boots."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.client import connect
from labs import corrald
from labs.corrald import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.guest]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="cr") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon


@pytest.fixture
def corral(daemon: Daemon) -> Run:
    def run(*words: str, stdin: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, *words]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=100, check=False)
        assert result.returncode == status, (words, result.stdout, result.stderr)
        return result

    return run


def test_a_life(corral: Run) -> None:
    said = corral("run", "tiny", "--name", "web", "--cpus", "2", "--memory", "256M").stdout
    assert said.startswith("web is running (2 vCPUs, 256 MiB); reach it with: corral console web")
    assert corral("exec", "web", "--", "nproc").stdout == "2\n"  # waits for the agent by itself
    assert corral("exec", "-i", "web", "--", "cat", stdin="through\n").stdout == "through\n"
    failed = corral("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (failed.stdout, failed.stderr) == ("out\n", "err\n")
    assert "No such file" in corral("exec", "web", "--", "no-such-program", status=127).stderr
    until = time.monotonic() + 20  # its network comes up beside the agent
    while "10.0.2.15" not in (listed := corral("ps", "-A").stdout):
        assert time.monotonic() < until, listed
    assert "Linux" in corral("console", "web", stdin="\nuname\n").stdout
    assert "char device redirected" in corral("logs", "web").stdout
    assert "already exists" in corral("run", "tiny", "--name", "web", status=1).stderr
    corral("restart", "web")
    assert corral("exec", "web", "--", "true").stdout == ""
    corral("stop", "web")
    row = json.loads(corral("ps", "-a", "--format", "json").stdout)[0]
    assert (row["name"], row["state"], row["reason"], row["id"]) == ("web", "shutoff", "shutdown", None)
    corral("rm", "web")
    assert json.loads(corral("ps", "-a", "--format", "json").stdout) == []


def test_stop_while_it_boots(corral: Run) -> None:
    """A guest that has not booted hears no power button; `stop` goes on asking."""
    corral("run", "tiny", "--name", "early")
    corral("stop", "early", "--timeout", "60")
    corral("rm", "early")


def test_console_from_the_first_line_and_nothing_left(corral: Run, daemon: Daemon) -> None:
    options = ["--name", "brief", "--rm", "--console"]
    command = [sys.executable, "-m", "corral.cli", "-c", daemon.uri, "run", "tiny", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        until = time.monotonic() + 60
        while "brief" not in corral("ps", "-q").stdout and time.monotonic() < until:
            time.sleep(0.1)
        corral("stop", "brief")
        process.wait(60)  # the machine's end is the console's
        assert process.stdout
        output = process.stdout.read().decode(errors="replace")
    assert "Power down" in output
    assert process.returncode == 0
    until = time.monotonic() + 20
    while corral("ps", "-aq").stdout and time.monotonic() < until:
        time.sleep(0.1)
    assert corral("ps", "-aq").stdout == ""


def test_ps_is_fast(daemon: Daemon) -> None:
    """150 ms for the whole process, counted in processor time: the machine may have other things to do."""
    asyncio.run(define_machines(daemon, 20))
    command = [sys.executable, "-m", "corral.cli", "ps", "-a", "-c", daemon.uri]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, capture_output=True, check=True, timeout=30, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert result.stdout.count(b"machine-") == 20
    assert min(times) < 0.15, times


async def define_machines(daemon: Daemon, count: int) -> None:
    async with connect(daemon.uri) as host:
        for number in range(count):
            await host.define(DOCUMENT.format(name=f"machine-{number}"))


DOCUMENT = """\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os></domain>
"""
