"""Looking out for the next call a moment longer, instead of sleeping at once.

Putting a process to sleep and waking it, perhaps on another CPU of a virtual machine, takes several times as long as an
answer. A client that asks one thing after the other sends its next call some microseconds after our answer; while calls
come so close, the daemon polls for the next one before it sleeps, as KVM's halt polling does for vCPUs. Where one
client talks alone it polls that client's socket, which takes a fraction of a turn of the event loop.
"""

from __future__ import annotations

import os
import select
from asyncio import AbstractEventLoop
from time import monotonic
from typing import Protocol

#: Seconds of polling after a call, and how close the call before must have been for it.
WINDOW, CLOSE = 60e-6, 200e-6
#: Seconds without polling after somebody else has taken the CPU that we offered.
REST = 0.1
#: Seconds of one client's socket, while its calls come, before everybody else gets a turn.
TURN = 300e-6


class Talker(Protocol):
    """A client, as far as it is listened to."""

    @property
    def awaited(self) -> bool:
        """Whether nothing is to be done for it but to read its next call."""

    def fileno(self) -> int:
        """Its socket's descriptor."""

    def read(self) -> None:
        """Read what there is, tell us that it `arrived`, and answer it."""


class Lingering:
    """Polls after calls that came `CLOSE` together, for `WINDOW` at most; `turns` counts the turns of polling."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._talker: Talker | None = None
        self._last = self._mixed = self._resting_until = 0.0
        self._alone = True
        self._polling = False
        #: On a single CPU the client could not send while we look out.
        self._useful = len(os.sched_getaffinity(0)) > 1
        self.turns = 0

    def arrived(self, talker: Talker, now: float) -> bool:
        """A client's bytes were read, at `now` on the clock of time.monotonic; whether it has talked alone lately."""
        close = now - self._last < CLOSE
        if close and talker is not self._talker:
            self._mixed = now
        self._alone = now - self._mixed >= CLOSE
        self._talker, self._last = talker, now
        if close and self._useful and not self._polling and now >= self._resting_until:
            self._polling = True
            self._loop.call_soon(self._turn)
        return self._alone

    def forget(self, talker: Talker) -> None:
        """A client is gone."""
        if self._talker is talker:
            self._talker = None

    def _turn(self) -> None:
        """One turn: a loop that has something to call looks at its sockets, and does not wait."""
        self.turns += 1
        goes_on = False
        try:
            talker = self._talker
            if self._alone and talker is not None:
                goes_on = self._watch(talker)
            else:
                goes_on = self._offered() < self._last + WINDOW
        finally:
            self._polling = goes_on
        if goes_on:
            self._loop.call_soon(self._turn)

    def _watch(self, talker: Talker) -> bool:
        """Look for one client's calls and answer them; whether they still came when its turn was over."""
        if not talker.awaited:
            return False
        poll = select.poll()
        poll.register(talker.fileno(), select.POLLIN)
        now = monotonic()
        end = now + TURN
        while now < self._last + WINDOW and talker.awaited:
            if now > end:
                return True
            if poll.poll(0):
                talker.read()
                now = monotonic()
            else:
                now = self._offered()
        return False

    def _offered(self) -> float:
        """Offer the CPU to a client on it, which could not send its next call while we look out; the time afterwards.

        A process that computes would take it for milliseconds each time. One that sleeps gets its CPU back from that
        when it wakes, so while there is such a neighbour we sleep.
        """
        before = monotonic()
        os.sched_yield()
        now = monotonic()
        if now - before > WINDOW:
            self._resting_until = now + REST
        return now
