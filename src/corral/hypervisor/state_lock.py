"""One daemon a state directory: a lock, in a file that says who holds it.

A daemon that a command started by itself is there until it is idle; it makes way at once for one that was started on
purpose, by systemd say, which could otherwise not start while anybody's machine runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corral.errors import HostError, ResourceBusy
from corral.qemu.process import start_time

log = logging.getLogger(__name__)

#: Seconds in which a daemon that makes way finishes what is under way; its own patience is the same.
PATIENCE = 15.0

_TEMPORARY, _PERMANENT = "temporary", "permanent"


@dataclass(frozen=True, slots=True)
class Holder:
    """The daemon that holds a lock: its process, and whether it leaves by itself."""

    pid: int
    start_time: int
    temporary: bool

    @classmethod
    def us(cls, *, temporary: bool) -> Self:
        """This process."""
        return cls(os.getpid(), start_time(os.getpid()), temporary)

    @classmethod
    def of(cls, lock: int) -> Self | None:
        """Whoever is written in the lock's file; None when it says nothing that can be understood."""
        words = os.pread(lock, 100, 0).decode("ascii", "replace").split()
        if len(words) != 3 or not (words[0].isdecimal() and words[1].isdecimal()):
            return None
        return cls(int(words[0]), int(words[1]), words[2] == _TEMPORARY)

    def write(self, lock: int) -> None:
        """Write it into the lock's file."""
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{self.pid} {self.start_time} {_TEMPORARY if self.temporary else _PERMANENT}\n".encode(), 0)

    def make_way(self) -> bool:
        """Ask it to end, and wait; whether it did, or was gone."""
        try:
            process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if start_time(self.pid) != self.start_time:
                return True  # another process has its number
            signal.pidfd_send_signal(process, signal.SIGTERM)
            return bool(select.select([process], [], [], PATIENCE)[0])
        except (HostError, ProcessLookupError):
            return True
        finally:
            os.close(process)


def acquire(path: Path, *, temporary: bool) -> int:
    """The descriptor of the lock at `path`, to be kept open; waits for a temporary daemon to make way (in a thread).

    Raises ResourceBusy when another daemon has it, HostError when its file cannot be opened.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"cannot open {path}: {error.strerror}") from error
    try:
        if not _locked(lock):
            holder = Holder.of(lock)
            gone = holder is not None and holder.temporary and not temporary and holder.make_way()
            if not gone or not _locked(lock):
                who = f" (process {holder.pid})" if holder else ""
                raise ResourceBusy(f"another Corral daemon{who} keeps its state in {path.parent}")
            if holder:
                log.info("took over from the daemon of process %d, which had started by itself", holder.pid)
        Holder.us(temporary=temporary).write(lock)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise HostError(f"cannot lock the state directory: {error.strerror}") from error
    return True
