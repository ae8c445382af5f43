"""The floor: the same QEMU with the same arguments, started by nothing but a spawn and three monitor commands."""

from __future__ import annotations

import itertools
import json
import socket
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Command:
    """A QEMU command line in which one argument names our monitor's listening descriptor."""

    arguments: tuple[str, ...]
    descriptor: str  # the number to replace, as in fd=13

    @classmethod
    def of(cls, pid: int) -> Command:
        """The command line of the machine that Corral runs as `pid`, with files in place of their descriptors."""
        arguments = _with_files(Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0"))
        for option, value in itertools.pairwise(arguments):
            if option == "-chardev" and "fd=" in value and "socket" in value:
                fields = dict(field.split("=", 1) for field in value.split(",")[1:])
                return cls(tuple(arguments), fields["fd"])
        raise ValueError(f"no monitor on a descriptor in the command line of {pid}")


def _with_files(arguments: list[str]) -> list[str]:
    """The arguments without descriptor sets: QEMU opens the files itself."""
    found, kept = {}, arguments[:1]
    words = iter(arguments[1:])
    for word in words:
        if word == "-add-fd":
            fields = dict(field.split("=", 1) for field in next(words).split(","))
            found[f'"/dev/fdset/{fields["set"]}"'] = f'"{fields["opaque"]}"'
        else:
            kept.append(word)
    for reference, path in found.items():
        kept = [word.replace(reference, path) for word in kept]
    return kept


class Machine:
    """One bare QEMU, from spawn to running; machine `number` has an image of its own beside that of machine 0."""

    def __init__(self, command: Command, directory: Path, number: int = 0) -> None:
        path = directory / f"floor-{number}"
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        own = f"fd={self.listener.fileno()}"
        arguments = [
            argument.replace(f"fd={command.descriptor},", f"{own},").replace("/0.img", f"/{number}.img")
            for argument in command.arguments
        ]
        self.process = subprocess.Popen(
            arguments,
            pass_fds=[self.listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
        )
        self.monitor = socket.socket(socket.AF_UNIX)
        self.monitor.connect(str(path))
        self.lines = self.monitor.makefile("rb")

    def run(self) -> None:
        """Negotiate and let the guest run; returns when QEMU has answered."""
        self._read("QMP")
        for command in ("qmp_capabilities", "cont"):
            self.monitor.sendall(json.dumps({"execute": command}).encode())
            self._read("return")

    def _read(self, key: str) -> dict[str, Any]:
        while line := self.lines.readline():
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                raise RuntimeError(message["error"]["desc"])
            if key in message:
                return message
        raise RuntimeError(f"QEMU ended before it ran (status {self.process.wait()})")

    def destroy(self) -> None:
        """End the process and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self.lines.close()
        self.monitor.close()
        self.listener.close()


class Floor:
    """The floor of a start, measured in turns with a daemon's: a machine under load is not as fast a minute later."""

    def __init__(self, directory: Path, machines: Callable[[], Sequence[int]]) -> None:
        """Bare machines with their files under `directory`, like the first of the daemon's `machines` (process ids)."""
        self._directory = directory
        self._machines = machines
        self._command: Command | None = None
        self._measured: dict[int, list[float]] = defaultdict(list)

    def copy(self) -> None:
        """Take the command line of the daemon's machine, which runs now."""
        if self._command is None:
            self._command = Command.of(self._machines()[0])

    def measure(self, count: int) -> None:
        """Start `count` machines at once, once."""
        assert self._command is not None, "nothing was copied"
        self._measured[count].append(start_seconds(self._command, self._directory, count))

    def medians(self) -> dict[str, float]:
        """Seconds by the names that a daemon's figures have."""
        return {f"start {count}": statistics.median(seconds) for count, seconds in self._measured.items()}


def start_seconds(command: Command, directory: Path, count: int) -> float:
    """Seconds from the first spawn until `count` machines that were spawned together all run."""
    begin = time.perf_counter()
    machines = [Machine(command, directory, number) for number in range(count)]
    try:
        for machine in machines:
            machine.run()
        return time.perf_counter() - begin
    finally:
        for machine in machines:
            machine.destroy()


def resident_kib(pid: int) -> int:
    """Resident memory of a process in KiB (VmRSS of /proc/PID/status)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])
