"""Events of a daemon, registered for and read as they come: an asynchronous iterator over the values of `events`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from corral.client.events import AUTOSCALE, KINDS, NAMES, Event
from corral.errors import ArgumentUnsupported, CorralError, InvalidArgument, NoSupport, OperationFailed

if TYPE_CHECKING:
    from types import TracebackType

    from corral.client.domain import Domain
    from corral.client.host import Host

QUEUE_LIMIT = 10_000  # events that wait for a slow reader; after that it is told that it missed some


class Events:
    """Events as they come: `async with host.events(…) as events: async for event in events: …`.

    Listening begins with `async with`, or with the first `async for`. The iterator ends when `close` is called and
    raises InvalidConnection when the daemon goes away, OperationFailed when the reader was so slow that some were lost.
    """

    def __init__(self, host: Host, kinds: Iterable[type[Event] | str], domain: Domain | None) -> None:
        self._host = host
        self._domain = domain
        chosen = [kind if isinstance(kind, str) else kind.kind for kind in kinds]
        if unknown := sorted(set(chosen) - NAMES.keys()):
            raise InvalidArgument(f"event kind '{unknown[0]}'", hint=f"known: {', '.join(sorted(NAMES))}")
        self._wanted = [NAMES[name] for name in chosen]
        self._queue: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._callbacks: dict[int, int] = {}
        self._silencers: list[Callable[[], None]] = []
        self._open = False
        self._closed = False
        self._missed = False

    async def open(self) -> None:
        """Begin to listen; events from here on are kept until they are read."""
        if self._open:
            return
        self._open = True
        connection = self._host.connection
        connection.ended.add_done_callback(self._wake)
        dom = self._domain.reference if self._domain else None
        registrations = [self._register(number, dom) for number in self._wanted or KINDS]
        results = await asyncio.gather(*registrations, return_exceptions=True)
        for error in results:
            # A daemon older than an event, or with no use for it, refuses it: no harm unless it was asked for by name.
            if isinstance(error, BaseException) and (self._wanted or not _refused(error)):
                await self.close()
                raise error

    async def _register(self, number: int, dom: Any) -> None:
        message, event_class, build = KINDS[number]
        connection = self._host.connection

        def registered(answer: Any) -> None:  # at once: its first event may be in the same packet
            self._callbacks[answer.callbackID] = number

        def heard(message: Any) -> None:
            if self._callbacks.get(message.callbackID) == number:
                body = getattr(message, "msg", message)
                self._push(event_class(domain=self._host.wrap(body.dom), **build(body)))

        if number == AUTOSCALE:
            await self._register_own(message, event_class, build)
            return
        silence = connection.listen(message, heard)
        try:
            await connection.call(
                "connect_domain_event_callback_register_any", {"eventID": number, "dom": dom}, receive=registered
            )
        except BaseException:
            silence()
            raise
        self._silencers.append(silence)

    async def _register_own(self, message: str, event_class: Any, build: Callable[[Any], dict[str, Any]]) -> None:
        """Listen to what only Corral's own daemon tells; NoSupport from a libvirtd."""

        def heard(msg: Any) -> None:
            if self._domain is None or msg.dom.uuid == self._domain.reference.uuid:
                self._push(event_class(domain=self._host.wrap(msg.dom), **build(msg)))

        silence = self._host.connection.listen(message, heard)
        try:
            await self._host.call_own("corral.autoscale_watch", on=1)
        except BaseException:
            silence()
            raise
        self._silencers.append(silence)

    def _wake(self, ended: object) -> None:
        self._arrived.set()

    def _push(self, event: Event) -> None:
        if len(self._queue) >= QUEUE_LIMIT:
            self._queue.popleft()
            self._missed = True
        self._queue.append(event)
        self._arrived.set()

    async def close(self) -> None:
        """Stop listening."""
        self._closed = True
        self._arrived.set()
        self._host.connection.ended.remove_done_callback(self._wake)
        for silence in self._silencers:
            silence()
        self._silencers.clear()
        callbacks, self._callbacks = list(self._callbacks), {}
        if not self._host.connection.closed:
            calls = [
                self._host.connection.call(
                    "connect_domain_event_callback_deregister_any", {"callbackID": number}, timeout=5
                )
                for number in callbacks
            ]
            await asyncio.gather(*calls, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await self.open()
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._host.connection.check()
            self._arrived.clear()
            await self._arrived.wait()
        if self._missed:
            self._missed = False
            raise OperationFailed(f"more than {QUEUE_LIMIT} events waited to be read, and some were lost")
        return self._queue.popleft()


def _refused(error: BaseException) -> bool:
    return isinstance(error, (NoSupport, InvalidArgument, ArgumentUnsupported)) or (
        isinstance(error, CorralError) and "event" in str(error).lower()
    )
