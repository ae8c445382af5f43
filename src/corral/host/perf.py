"""The host's `perf`, run on one machine's process: what it may do here, exits counted, stacks sampled.

perf-kvm(1), perf-record(1), perf-script(1), Documentation/admin-guide/perf-security.rst
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from corral.errors import HostError, OperationUnsupported
from corral.host import perf_output
from corral.host.perf_output import Exits, Stacks

T = TypeVar("T")

#: Seconds that perf gets beyond the time that it measures, and for the reading of its recording.
GRACE = 30.0
READING = 120.0
#: perf ends its recording when it has grown to this.
LARGEST = "256M"

_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_CAP_SYS_ADMIN, _CAP_PERFMON = 21, 38


@dataclass(frozen=True, slots=True)
class Symbols:
    """Files with the guest's own /proc/kallsyms and /proc/modules."""

    kallsyms: Path
    modules: Path


def require(*, tracepoints: bool) -> str:
    """The path of perf; raises naming the package or the permission that is missing."""
    path = shutil.which("perf")
    if path is None:
        raise OperationUnsupported(
            "perf is not installed on the host",
            hint="apt-get install linux-perf (Debian), linux-tools-$(uname -r) (Ubuntu), or dnf install perf",
        )
    if not _may_measure() and _paranoid() > (-1 if tracepoints else 1):
        raise HostError(
            f"the daemon may not use perf: it has no CAP_PERFMON, and kernel.perf_event_paranoid is {_paranoid()}",
            hint="run the daemon as root, give it CAP_PERFMON, or sysctl kernel.perf_event_paranoid=-1",
        )
    if tracepoints:
        _require_tracepoints()
    return path


def _require_tracepoints() -> None:
    for root in (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing")):
        try:
            if (root / "events").is_dir():
                if (root / "events/kvm").is_dir():
                    return
                raise OperationUnsupported(
                    "the kernel has no KVM tracepoints", hint="load kvm; it must be built with CONFIG_TRACEPOINTS"
                )
            if any(root.iterdir()):
                return
        except PermissionError as error:
            raise HostError(
                f"{root} may not be read", hint=f"run the daemon as root, or: mount -o remount,mode=755 {root}"
            ) from error
        except FileNotFoundError:
            continue
    # Not mounted yet: perf mounts it by itself if it may.
    if os.geteuid() != 0:
        raise HostError(
            "the kernel's tracepoints are not to be seen", hint="mount -t tracefs nodev /sys/kernel/tracing (as root)"
        )


def _paranoid() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(_PARANOID.read_text())
    return 2


def _may_measure() -> bool:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = int(next(line for line in lines if line.startswith("CapEff")).split()[1], 16)
        return bool(effective & (1 << _CAP_SYS_ADMIN | 1 << _CAP_PERFMON))
    return False


async def stat(pid: int, seconds: float) -> Exits:
    """Count the exits of the virtual machine in process `pid` for that long."""
    program = require(tracepoints=True)
    with tempfile.TemporaryDirectory(prefix="corral-perf-") as directory:
        data = Path(directory) / "data"
        further = ("-e", "kvm:kvm_userspace_exit", "-e", "kvm:kvm_fpu")
        record = [program, "kvm", "stat", "record", *further, "--max-size", LARGEST, "-p", str(pid), "-o", str(data)]
        await _measure([*record, "sleep", f"{seconds:g}"], seconds, data)
        script = [program, "script", "-i", str(data), "-F", "comm,tid,time,event,trace"]
        return await asyncio.to_thread(_read, script, perf_output.exits)


async def record(pid: int, seconds: float, frequency: int, symbols: Symbols | None) -> Stacks:
    """Sample the stacks of process `pid` and of the guest inside for that long, `frequency` times a second and CPU."""
    program = require(tracepoints=False)
    with tempfile.TemporaryDirectory(prefix="corral-perf-") as directory:
        data = Path(directory) / "data"
        guest = (
            [f"--guestkallsyms={symbols.kallsyms}", f"--guestmodules={symbols.modules}"] if symbols is not None else []
        )
        event = "cycles" if await _samples_cycles(program) else "cpu-clock"
        command = [program, "kvm", "--host", "--guest", *guest, "record", "-e", event, "-F", str(frequency), "-g"]
        command += ["--max-size", LARGEST, "-p", str(pid), "-o", str(data), "sleep", f"{seconds:g}"]
        await _measure(command, seconds, data)
        script = [program, "script", "-i", str(data), *guest, "-F", "comm,tid,time,event,ip,sym,dso"]
        return await asyncio.to_thread(_read, script, perf_output.stacks)


#: A fraction of a second's work for a processor.
_WORK = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
_sampling: dict[str, bool] = {}


def _counts() -> bool:
    return any(Path("/sys/bus/event_source/devices").glob("cpu*"))


async def _samples_cycles(program: str) -> bool:
    """Whether this machine's processor counts its cycles and interrupts by them (a virtual one may do either only).

    Seen by a sampling of our own, once: where it yields nothing, the kernel's clock must serve.
    """
    if not _counts():
        return False
    if program not in _sampling:
        with tempfile.TemporaryDirectory(prefix="corral-perf-") as directory:
            data = Path(directory) / "data"
            await _measure(
                [program, "record", "-e", "cycles", "-F", "999", "-o", str(data), "sh", "-c", _WORK], 0, data
            )
            script = [program, "script", "-i", str(data), "-F", "event"]
            _sampling[program] = await asyncio.to_thread(_read, script, any)
    return _sampling[program]


async def _measure(command: Sequence[str], seconds: float, data: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        async with asyncio.timeout(seconds + GRACE):
            _, said = await process.communicate()
    except TimeoutError as error:
        raise HostError(f"perf has not ended {GRACE:g} s after its time") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    words = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    if process.returncode or not await asyncio.to_thread(data.exists):
        text = "; ".join(words[-3:]) or f"status {process.returncode}"
        raise HostError(f"perf failed: {text[:500]}")


def _read(command: Sequence[str], parse: Callable[[Iterable[str]], T]) -> T:
    """Parse perf's output while it comes; runs in a thread."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
    ) as process:
        timer = threading.Timer(READING, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            parsed = parse(process.stdout)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
    if status:
        raise HostError(f"perf script failed with status {status}")
    return parsed
