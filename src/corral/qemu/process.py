"""One operating system process that outlives us: spawned into its own session, watched and signalled through a pidfd.

A pidfd names the process and nothing else, so neither a wait nor a signal can meet a reused process id; across a restart
of the daemon the pair (pid, start time in clock ticks since boot, field 22 of /proc/PID/stat, proc(5)) does the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path


class Process:
    """A running process, our child or adopted; `pid` and `start_time` are what to write down to find it again."""

    pid: int
    start_time: int

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        log: Path,
        pass_fds: Collection[int] = (),
        user: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `argv` in a new session, stdin from /dev/null, stdout and stderr appended to `log`. About 1 ms.

        `pass_fds` keep their numbers in the child. Raises HostError when it cannot be executed.
        """
        raise NotImplementedError

    @classmethod
    def adopt(cls, pid: int, start_time: int) -> Process:
        """The process that was started earlier, perhaps by another daemon; HostError when it is gone."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Whether the process is known to be gone."""
        raise NotImplementedError

    async def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end (TimeoutError after `timeout` seconds); exit status, -SIGNAL, or None if not our child."""
        raise NotImplementedError

    def terminate(self) -> None:
        """Send SIGTERM; nothing happens when the process is gone."""
        raise NotImplementedError

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when the process is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the process: stop watching, leave it running."""
        raise NotImplementedError


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot; HostError when there is none."""
    raise NotImplementedError


def last_words(log: Path, since: int = 0, *, limit: int = 4096) -> str:
    """What was written to the log from byte `since` on, at most its last `limit` bytes, without blank ends."""
    raise NotImplementedError


def find_by_marker(*markers: str) -> list[tuple[int, int]]:
    """(pid, start time) of every process of ours whose command line contains all of `markers` (UUID, run directory)."""
    raise NotImplementedError
