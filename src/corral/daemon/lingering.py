"""Looking out for the next call a moment longer, instead of sleeping at once.

Putting a process to sleep and waking it, perhaps on another CPU of a virtual machine, takes several times as long as an
answer. A client that asks one thing after the other sends its next call some microseconds after our answer; while calls
come so close, the daemon polls for the next one before it sleeps, as KVM's halt polling does for vCPUs.
"""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop
from time import monotonic

#: Seconds of polling after a call, and how close the call before must have been for it.
WINDOW, CLOSE = 60e-6, 200e-6


class Lingering:
    """Polls after `arrived`, for `WINDOW` at most, when what arrived before was `CLOSE`; `turns` counts its polls."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._last = self._until = 0.0
        self._polling = False
        #: On a single CPU the client could not send while we look out.
        self._useful = len(os.sched_getaffinity(0)) > 1
        self.turns = 0

    def arrived(self, now: float) -> None:
        """Bytes of a client's were read, at `now` on the clock of time.monotonic."""
        close, self._last = now - self._last < CLOSE, now
        if not close or not self._useful:
            return
        self._until = now + WINDOW
        if not self._polling:
            self._polling = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.turns += 1
        if monotonic() < self._until:
            os.sched_yield()  # to a client on this very CPU, which could not send its next call while we look out
            # A loop that has something to call looks at its sockets, and does not wait.
            self._loop.call_soon(self._turn)
        else:
            self._polling = False
