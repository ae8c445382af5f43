"""Our own daemon, private: `corral daemon --state DIR --socket PATH`, ended by its process id, and its machines too."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Daemon:
    """A running Corral daemon: its process, its socket, its state directory."""

    process: subprocess.Popen[bytes]
    socket: Path
    state: Path

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    @property
    def uri(self) -> str:
        """A URI for virsh and for our own client."""
        driver = "system" if os.geteuid() == 0 else "session"
        return f"qemu+unix:///{driver}?socket={self.socket}"


def start(directory: Path, *options: str, within: Sequence[str] = (), deadline: float = 90.0) -> Daemon:
    """Start a daemon with everything under `directory` and return once it accepts connections.

    `within` are words before the command: `ip netns exec NAME`. It asks all QEMUs what they can before it listens: one
    second alone, half a minute on a machine with ten times as much to do as it has CPUs.
    """
    path, state, log = directory / "sock", directory / "state", directory / "daemon.log"
    command = [
        *within,
        sys.executable,
        "-m",
        "corral.cli",
        "daemon",
        "--state",
        str(state),
        "--socket",
        str(path),
        *options,
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    daemon = Daemon(process, path, state)
    try:
        _await_socket(daemon, time.monotonic() + deadline, log)
    except BaseException:
        stop(daemon)
        raise
    return daemon


def _await_socket(daemon: Daemon, until: float, log: Path) -> None:
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(daemon.socket))
            if _listens(probe):
                return
        if daemon.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"corral daemon did not start: {log.read_text()[-4000:]}")
        time.sleep(0.01)


def _listens(probe: socket.socket) -> bool:
    """Whether who listens at the other end lives.

    A daemon that was killed while it started a machine leaves its socket to that process until it is QEMU.
    """
    pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Path(f"/proc/{pid}").exists()


def stop(daemon: Daemon) -> None:
    """End the daemon, then the machines that it left running, each by its process id."""
    if daemon.process.poll() is None:
        daemon.process.send_signal(signal.SIGTERM)
        try:
            daemon.process.wait(10)
        except subprocess.TimeoutExpired:
            daemon.process.kill()
            daemon.process.wait()
    for pid in machines(daemon.state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def machines(state: Path) -> Sequence[int]:
    """The process ids of the QEMUs that run in a directory under `state`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                program = (entry / "cmdline").read_bytes().split(b"\0", 1)[0]
                if b"qemu-system" in program and (entry / "cwd").readlink().is_relative_to(state.resolve()):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def running(directory: Path, *options: str, within: Sequence[str] = ()) -> Iterator[Daemon]:
    """Run a daemon with everything under `directory` (short: socket paths are limited) until the block ends."""
    daemon = start(directory, *options, within=within)
    try:
        yield daemon
    finally:
        stop(daemon)
