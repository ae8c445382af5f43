"""One operating system process that outlives us: spawned into its own session, watched and signalled through a pidfd.

A pidfd names the process and nothing else, so neither a wait nor a signal can meet a reused process id; across a
restart of the daemon the pair (pid, start time in clock ticks since boot: field 22 of /proc/PID/stat, proc(5)) does so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from corral.errors import HostError
from corral.host.account import Account


class Process:
    """A running process, our child or adopted; `pid` and `start_time` are what to write down to find it again.

    Made only inside a running event loop, which watches for the end from then on.
    """

    __slots__ = ("__weakref__", "_child", "_end", "_loop", "_pidfd", "pid", "start_time")

    def __init__(self, pid: int, start_time: int, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.start_time = start_time
        self._pidfd = pidfd
        self._child = child
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._ended)

    def __repr__(self) -> str:
        return f"<Process {self.pid}{' ended' if self.ended else ''}>"

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        log: Path,
        pass_fds: Collection[int] = (),
        account: Account | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `argv` in a new session, stdin from /dev/null, stdout and stderr appended to `log`.

        `pass_fds` keep their numbers in the child. No account means ours. Raises HostError when it cannot be executed.
        A caller that is cancelled leaves no process behind.
        """
        # In a thread: who spawns waits until the child has executed, and so for a CPU on which it can.
        work = asyncio.ensure_future(asyncio.to_thread(_execute, argv, log, tuple(pass_fds), account, cwd, env))
        try:
            child = await asyncio.shield(work)
        except asyncio.CancelledError:
            await _discard(work)
            raise
        except OSError as error:
            raise HostError(f"cannot execute {argv[0]}: {error.strerror}") from error
        # Nobody reaps the child before us, so its pid cannot have been reused.
        try:
            return cls(child.pid, start_time(child.pid), os.pidfd_open(child.pid), child)
        except OSError as error:  # no descriptor is left: then no process that nobody watches, either
            child.kill()
            await asyncio.to_thread(child.wait)
            raise HostError(f"cannot watch {argv[0]}: {error}") from error

    @classmethod
    def adopt(cls, pid: int, start: int) -> Process:
        """The process that was started earlier, perhaps by another daemon; HostError when it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise HostError(f"process {pid} is gone: {error.strerror}") from error
        try:
            state, born = _stat(pid)
            if born != start or state in "ZX":
                raise HostError(
                    f"process {pid} is gone: {'it has ended' if born == start else 'another has its number'}"
                )
        except BaseException:
            os.close(pidfd)
            raise
        return cls(pid, start, pidfd, None)

    @property
    def ended(self) -> bool:
        """Whether the process is known to be gone."""
        return self._end.done()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back from the event loop when the process has ended, also if it has already."""
        self._end.add_done_callback(lambda future: None if future.cancelled() else callback())

    async def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end (TimeoutError after `timeout` seconds); exit status, -SIGNAL, or None if not our child."""
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self._end)

    def terminate(self) -> None:
        """Send SIGTERM; nothing happens when the process is gone."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when the process is gone."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of the process: stop watching, leave it running."""
        if self._pidfd >= 0:
            self._release()
            self._end.cancel()

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _ended(self) -> None:
        status: int | None = None
        if self._child is not None:
            # It has ended, so this does not wait; the status is the child's own, reaped by nobody else.
            status = self._child.wait()
        self._release()
        if not self._end.done():
            self._end.set_result(status)

    def _release(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self._child is not None and self._child.returncode is None:
            # A process that is left running on purpose: Popen shall neither warn of it nor wait for it.
            self._child.returncode = 0
        self._child = None


def _execute(
    argv: Sequence[str],
    log: Path,
    pass_fds: Collection[int],
    account: Account | None,
    cwd: Path | None,
    env: Mapping[str, str] | None,
) -> subprocess.Popen[bytes]:
    if account is not None and account.capabilities:  # subprocess would drop them with the user
        argv, account = [*account.assuming(), *argv], None
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # The vfork path of subprocess: no page tables are copied unless the user changes (1 ms).
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=True,
            cwd=cwd,
            env=env,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=account.groups if account else None,
        )
    finally:
        os.close(output)


async def _discard(work: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    """End the process that nobody wants any more, as soon as it is there."""
    await asyncio.wait((work,))
    if work.exception() is None:
        work.result().kill()
        await asyncio.to_thread(work.result().wait)


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot; HostError when there is none."""
    return _stat(pid)[1]


def _stat(pid: int) -> tuple[str, int]:
    """State (R, S, D, Z …) and start time of a process, proc(5)."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError as error:
        raise HostError(f"process {pid} is gone: {error.strerror}") from error
    # The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    fields = line.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def last_words(log: Path, since: int = 0, *, limit: int = 4096) -> str:
    """What was written to the log from byte `since` on, at most its last `limit` bytes, without blank ends.

    Lines in which QEMU only tells where its terminals are do not count as words.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - limit))
            text = file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if not line.startswith("char device redirected to ")]
    return "\n".join(lines).strip()


def find_by_marker(*markers: str, cwd: Path | None = None) -> list[tuple[int, int]]:
    """(pid, start time) of every process whose command line contains all of `markers` (such as a UUID).

    With `cwd`, of those only the ones whose working directory it is, even when it has been removed since.
    """
    wanted = [marker.encode() for marker in markers]
    places = {str(cwd.resolve()), f"{cwd.resolve()} (deleted)"} if cwd is not None else None
    found: list[tuple[int, int]] = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError, HostError):
                process = Path(entry.path)
                line = (process / "cmdline").read_bytes()
                if not all(marker in line for marker in wanted):
                    continue
                if places is None or str((process / "cwd").readlink()) in places:
                    found.append((int(entry.name), start_time(int(entry.name))))
    return found
