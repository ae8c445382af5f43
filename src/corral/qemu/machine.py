"""One running QEMU process with its monitor: started, found again, steered, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.qemu.monitor import Monitor, MonitorEvent
from corral.qemu.process import Process

#: Seconds from spawn to the monitor's greeting before we give up (memory may have to be preallocated).
START_TIMEOUT = 60.0


class Listener:
    """The monitor's UNIX socket, bound and listening before QEMU exists; `fd` is the number to put into the plan.

    Use as a context manager around the plan and `Machine.start`: it closes our copy of the descriptor.
    """

    path: Path
    fd: int

    def __init__(self, path: Path) -> None: ...
    def __enter__(self) -> Listener:
        raise NotImplementedError

    def __exit__(self, *exc: object) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Chardev:
    """A character device as QEMU has it: `pty` is the host's device path if it is one, `open` whether its frontend is."""

    id: str
    filename: str
    open: bool

    @property
    def pty(self) -> str | None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class End:
    """How a machine ended: exit status (-SIGNAL; None if it was not our child), SHUTDOWN's cause if QEMU told one."""

    status: int | None
    cause: str | None
    words: str


class Machine:
    """A QEMU process and its monitor; `chardevs` and `vcpu_threads` (vCPU index → thread id) are as of start."""

    name: str
    process: Process
    monitor: Monitor
    chardevs: dict[str, Chardev]
    vcpu_threads: dict[int, int]

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        name: str,
        listener: Listener,
        log: Path,
        pass_fds: Collection[int] = (),
        user: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        on_spawn: Callable[[Process], None] | None = None,
        on_event: Callable[[MonitorEvent], None] | None = None,
        timeout: float = START_TIMEOUT,
    ) -> Machine:
        """Spawn QEMU (with -S), negotiate, learn its chardevs and threads; it stays paused.

        `listener.fd` is passed on by itself. `on_spawn` is called as soon as the pid exists, before anything else can
        happen. A QEMU that ends early makes it raise InternalError with QEMU's last words; on any failure, also
        cancellation, the process is killed and gone when the exception arrives.
        """
        raise NotImplementedError

    @classmethod
    async def reattach(
        cls,
        pid: int,
        start_time: int,
        monitor_path: Path,
        *,
        name: str,
        log: Path,
        on_event: Callable[[MonitorEvent], None] | None = None,
        timeout: float = 10.0,
    ) -> Machine:
        """Find a running QEMU again; HostError when the process is gone, OperationTimeout when it does not answer."""
        raise NotImplementedError

    async def status(self) -> str:
        """QEMU's run state: running, paused, prelaunch, shutdown, io-error, guest-panicked …"""
        raise NotImplementedError

    async def cont(self) -> None: ...
    async def stop(self) -> None: ...
    async def system_powerdown(self) -> None: ...
    async def system_reset(self) -> None: ...
    async def inject_nmi(self) -> None: ...
    async def send_key(self, keycodes: Sequence[int], *, hold_ms: int = 0) -> None:
        """Press keys together, given as QEMU's `number` codes (libvirt's qnum keycode set)."""

    async def screendump(self, path: Path, *, format: str = "png", device: str | None = None, head: int = 0) -> None:
        """Write the screen to `path` (a file that QEMU may write)."""

    async def query_chardevs(self) -> dict[str, Chardev]:
        raise NotImplementedError

    async def query_vcpu_threads(self) -> dict[int, int]:
        raise NotImplementedError

    async def quit(self, *, timeout: float = 10.0) -> End:
        """End QEMU in its own way, so that caches are flushed; killed after `timeout`."""
        raise NotImplementedError

    async def kill(self) -> End:
        """End QEMU now; returns when the process is gone."""
        raise NotImplementedError

    async def ended(self) -> End:
        """Wait for the end of the process, however it comes; may be awaited by many, any time."""
        raise NotImplementedError

    @property
    def end(self) -> asyncio.Future[End]:
        """Done when the process is gone."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go: the machine runs on."""
        raise NotImplementedError
