"""The one job slot of a domain: one change at a time, visible to everybody, and waiting for it has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from corral.constants import DomainJobOperation
from corral.errors import OperationTimeout

#: Seconds that a change waits for the one before it (libvirt's own patience).
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """A change under way: what it does, since when (monotonic seconds).

    `operation` is libvirt's word for a long one (start, save, dump, snapshot, migration …): clients are
    shown it, and the domain's size stands still meanwhile. UNKNOWN is any other.
    """

    what: str
    since: float
    operation: int = DomainJobOperation.UNKNOWN

    def elapsed_ms(self, now: float | None = None) -> int:
        """Milliseconds since it began."""
        return int(((time.monotonic() if now is None else now) - self.since) * 1000)


class JobSlot:
    """First come, first served; `holder` is the job under way."""

    def __init__(self) -> None:
        self.holder: Job | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    @contextlib.asynccontextmanager
    async def hold(
        self, what: str, *, patience: float = PATIENCE, operation: int = DomainJobOperation.UNKNOWN
    ) -> AsyncIterator[Job]:
        """Hold the slot for the block; OperationTimeout naming the holder when it does not come free in time."""
        await self._take(what, patience)
        job = Job(what, time.monotonic(), operation)
        self.holder = job
        try:
            yield job
        finally:
            self.holder = None
            self._wake()

    async def _take(self, what: str, patience: float) -> None:
        if self.holder is None and not self._waiting:
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._wake()  # it became ours in the very moment we gave up: hand it on
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            if not isinstance(error, TimeoutError):
                raise
            held = f"held by {self.holder.what} for {self.holder.elapsed_ms() // 1000} s" if self.holder else "held"
            raise OperationTimeout(f"cannot acquire state change lock ({held})") from error

    def _wake(self) -> None:
        # The slot passes to the next in line before anybody new can look: `holder` stays None until that one runs,
        # so a placeholder keeps newcomers in the queue.
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.holder = Job("handing over", time.monotonic())
                turn.set_result(None)
                return
        self.holder = None
