"""One running QEMU process with its monitor: started, found again, steered, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corral.errors import CorralError, HostError, InternalError, OperationTimeout
from corral.host import priority
from corral.host.account import Account
from corral.qemu import descriptors
from corral.qemu.monitor import COMMAND_TIMEOUT, Monitor, MonitorClosed, MonitorCommandFailed, MonitorEvent
from corral.qemu.process import Process, last_words

#: Seconds from spawn to the monitor's greeting before we give up (memory may have to be preallocated).
START_TIMEOUT = 60.0

#: Seconds that a killed process may take to be gone: it may hang in the kernel, on a dead disk.
KILL_TIMEOUT = 15.0

#: Seconds in which the rest of a dead QEMU's monitor is read: its last event says why it ended.
_DRAIN_TIMEOUT = 1.0

#: Longest path of a UNIX socket, bytes without the final zero (unix(7)).
_SOCKET_PATH_LIMIT = 107


class Listener:
    """The monitor's UNIX socket, bound and listening before QEMU exists; `fd` is the number to put into the plan.

    Use as a context manager around the plan and `Machine.start`: it closes our copy of the descriptor.
    A socket file that an earlier machine left behind is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
            raise HostError(f"the monitor's socket path {path} is longer than {_SOCKET_PATH_LIMIT} bytes")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self._socket.fileno(), 0o600)  # of the file that bind makes, without touching the umask
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            self._socket.listen(1)
        except OSError as error:
            self._socket.close()
            raise HostError(f"cannot listen at {path}: {error.strerror}") from error

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close our copy, so that a QEMU that dies resets the connection that waits to be accepted."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Chardev:
    """A character device as QEMU has it; `open` says whether its frontend, the guest's side, is."""

    id: str
    filename: str
    open: bool

    @property
    def pty(self) -> str | None:
        """The host's terminal (/dev/pts/3) if it is one."""
        kind, _, path = self.filename.partition(":")
        return path if kind == "pty" else None


@dataclass(frozen=True, slots=True)
class End:
    """How a machine ended: exit status (-SIGNAL; None if it was not our child), SHUTDOWN's cause if QEMU told one.

    Causes are QEMU's ShutdownCause: guest-shutdown, host-qmp-quit, host-signal, guest-panic …; None means that it died.
    """

    status: int | None
    cause: str | None
    words: str


class Machine:
    """A QEMU process and its monitor; `chardevs` and `vcpu_threads` (vCPU index → thread id) are as of start."""

    def __init__(
        self, name: str, process: Process, log: Path, log_start: int, on_event: Callable[[MonitorEvent], None] | None
    ) -> None:
        self.name = name
        self.process = process
        self.monitor: Monitor
        self.chardevs: dict[str, Chardev] = {}
        self.vcpu_threads: dict[int, int] = {}
        #: Done when the process is gone and the monitor's last event has been heard.
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._log = log
        self._log_start = log_start
        self._on_event = on_event
        self._cause: str | None = None
        self._ending: asyncio.Task[None] | None = None
        process.on_end(self._process_ended)

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        name: str,
        listener: Listener,
        log: Path,
        pass_fds: Collection[int] = (),
        account: Account | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        on_spawn: Callable[[Process], None] | None = None,
        on_event: Callable[[MonitorEvent], None] | None = None,
        timeout: float = START_TIMEOUT,
    ) -> Machine:
        """Spawn QEMU (with -S), negotiate, learn chardevs and threads; it stays paused and favoured (`host.priority`).

        `listener.fd` is passed on by itself. `on_spawn` is called as soon as the pid exists, before anything else can
        happen. A QEMU that ends early makes it raise InternalError with QEMU's last words; on any failure, also
        cancellation, the process is killed and gone when the exception arrives.
        """
        log_start = _size(log)
        process = await Process.spawn(
            argv, log=log, pass_fds={*pass_fds, listener.fd}, account=account, cwd=cwd, env=env
        )
        priority.favour(process.pid)
        machine = cls(name, process, log, log_start, on_event)
        try:
            listener.close()
            if on_spawn is not None:
                on_spawn(process)
            await machine._connect(listener.path, timeout)
        except BaseException as error:
            end = await asyncio.shield(asyncio.ensure_future(machine._undo(isinstance(error, MonitorClosed))))
            if isinstance(error, MonitorClosed):
                words = end.words or f"QEMU ended with status {end.status}"
                raise InternalError(f"qemu unexpectedly closed the monitor: {words}") from error
            raise
        return machine

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
        machine = cls(name, Process.adopt(pid, start_time), log, 0, on_event)
        try:
            await machine._connect(monitor_path, timeout)
        except BaseException as error:
            ended = machine.process.ended
            await machine.close()
            if ended and isinstance(error, MonitorClosed):
                raise HostError(f"process {pid} is gone: it ended while it was reattached") from error
            raise
        return machine

    async def status(self, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """QEMU's run state: running, paused, prelaunch, shutdown, io-error, guest-panicked …"""
        return str((await self.monitor.execute("query-status", timeout=timeout))["status"])

    async def cont(self) -> None:
        """Let the vCPUs run."""
        await self.monitor.execute("cont")

    async def stop(self) -> None:
        """Stop the vCPUs."""
        await self.monitor.execute("stop")

    async def system_powerdown(self) -> None:
        """Press the power button: the guest decides what follows."""
        await self.monitor.execute("system_powerdown")

    async def system_reset(self) -> None:
        """Press the reset button."""
        await self.monitor.execute("system_reset")

    async def inject_nmi(self) -> None:
        """Send a non-maskable interrupt to the guest."""
        await self.monitor.execute("inject-nmi")

    async def send_key(self, keycodes: Sequence[int], *, hold_ms: int = 0) -> None:
        """Press keys together, given as QEMU's `number` codes (libvirt's qnum keycode set)."""
        arguments: dict[str, object] = {"keys": [{"type": "number", "data": code} for code in keycodes]}
        if hold_ms:
            arguments["hold-time"] = hold_ms
        await self.monitor.execute("send-key", arguments)

    async def screendump(self, *, device: str | None = None, head: int = 0) -> tuple[str, bytes]:
        """The screen as a picture: its MIME type and content. PNG where this QEMU was built with it, else PPM."""
        number = descriptors.SCREEN_SET
        arguments: dict[str, object] = {"filename": f"/dev/fdset/{number}"}
        if device is not None:
            arguments |= {"device": device, "head": head}
        with contextlib.ExitStack() as stack:
            picture = os.memfd_create("screen")
            stack.callback(os.close, picture)
            written = os.open(f"/proc/self/fd/{picture}", os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, written)
            await self.monitor.execute("add-fd", {"fdset-id": number}, descriptor=written)
            try:
                mime = await self._screendump(arguments)
            finally:
                with contextlib.suppress(CorralError):
                    await self.monitor.execute("remove-fd", {"fdset-id": number})
            return mime, await asyncio.to_thread(os.pread, picture, os.fstat(picture).st_size, 0)

    async def _screendump(self, arguments: dict[str, object]) -> str:
        try:
            await self.monitor.execute("screendump", arguments | {"format": "png"})
        except MonitorCommandFailed as error:
            if "format" not in error.description.lower() and "png" not in error.description.lower():
                raise
            await self.monitor.execute("screendump", arguments)
            return "image/x-portable-pixmap"
        return "image/png"

    async def query_chardevs(self) -> dict[str, Chardev]:
        """The character devices by id, asked now."""
        return _chardevs(await self.monitor.execute("query-chardev"))

    async def query_vcpu_threads(self) -> dict[int, int]:
        """Thread id of each vCPU by its index, asked now."""
        return _threads(await self.monitor.execute("query-cpus-fast"))

    async def terminate(self, *, timeout: float = 10.0) -> End:
        """End QEMU with SIGTERM, so that caches are flushed; OperationTimeout when it is not gone after `timeout`."""
        self.process.terminate()
        return await self.ended(timeout)

    async def kill(self) -> End:
        """End QEMU now; returns when the process is gone."""
        self.process.kill()
        return await self.ended(KILL_TIMEOUT)

    async def ended(self, timeout: float | None = None) -> End:
        """Wait for the end, however it comes; many may, any time. OperationTimeout after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self.end)
        except TimeoutError as error:
            raise OperationTimeout(
                f"process {self.process.pid} of '{self.name}' is still there after {timeout:g} s"
            ) from error

    async def close(self) -> None:
        """Let go: the machine runs on."""
        self.process.close()
        if hasattr(self, "monitor"):
            await self.monitor.close()
        if self._ending is not None:
            await asyncio.wait((self._ending,))
        self.end.cancel()

    async def _connect(self, path: Path, timeout: float) -> None:
        """Negotiate, then ask what only a running QEMU knows: two commands in one go."""
        self.monitor = await Monitor.connect(path, name=self.name, on_event=self._event, timeout=timeout)
        self.chardevs, self.vcpu_threads = await asyncio.gather(self.query_chardevs(), self.query_vcpu_threads())

    async def _undo(self, dying: bool) -> End:
        """Make the process be gone; one that hung up by itself may say its words first."""
        if dying:
            with contextlib.suppress(OperationTimeout):
                return await self.ended(_DRAIN_TIMEOUT)
        return await self.kill()

    def _event(self, event: MonitorEvent) -> None:
        if event.name == "SHUTDOWN":
            self._cause = str(event.data.get("reason", "")) or None
        if self._on_event is not None:
            self._on_event(event)

    def _process_ended(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._finish(), name=f"end of {self.name}")

    async def _finish(self) -> None:
        if hasattr(self, "monitor"):
            await asyncio.wait((self.monitor.closed,), timeout=_DRAIN_TIMEOUT)
        status = await self.process.wait()
        words = last_words(self._log, self._log_start)
        if not self.end.done():
            self.end.set_result(End(status, self._cause, words))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _chardevs(reply: list[dict[str, object]]) -> dict[str, Chardev]:
    return {
        str(each["label"]): Chardev(str(each["label"]), str(each["filename"]), bool(each.get("frontend-open")))
        for each in reply
    }


def _threads(reply: list[dict[str, int]]) -> dict[int, int]:
    return {each["cpu-index"]: each["thread-id"] for each in reply}
