"""The per-user daemon starts by itself on a command: the real one, in private directories."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs import corrald

pytestmark = pytest.mark.qemu


@pytest.fixture
def home(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user of our own; its daemon is ended afterwards."""
    for variable, name in {"RUNTIME_DIR": "run", "DATA_HOME": "data", "CACHE_HOME": "cache"}.items():
        monkeypatch.setenv(f"XDG_{variable}", str(short_path / name))
        (short_path / name).mkdir()
    monkeypatch.setenv("CORRAL_URI", "corral:///session")
    yield short_path
    for pid in [*listener(short_path / "run/corral/corral-sock"), *corrald.machines(short_path)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def listener(path: Path) -> list[int]:
    """The process that listens at `path`, if any."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return [struct.unpack("3i", credentials)[0]]
    return []


def test_two_commands_at_once_start_one_daemon(home: Path) -> None:
    ps, pipe = [sys.executable, "-m", "corral.cli", "ps", "-q"], subprocess.PIPE
    commands = [subprocess.Popen(ps, stdout=pipe, stderr=pipe) for _ in range(2)]
    results = [(*command.communicate(timeout=60), command.returncode) for command in commands]
    assert results == [(b"", b"", 0)] * 2
    (pid,) = listener(home / "run/corral/corral-sock")
    again = subprocess.run(ps, timeout=100, check=True)
    assert again.returncode == 0
    assert listener(home / "run/corral/corral-sock") == [pid]
    daemons = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(home).encode() in environment(entry) and b"daemon" in arguments(entry)
    ]
    assert daemons == [str(pid)]


def environment(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "environ").read_bytes()
    return b""


def arguments(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""


def test_completion_starts_nothing(home: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "corral.cli"],
        env={**os.environ, "_CORRAL_COMPLETE": "complete_bash", "COMP_WORDS": "corral start ", "COMP_CWORD": "2"},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert result.stdout.strip() == b""
    assert not (home / "run/corral").exists()
