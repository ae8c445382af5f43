"""One connection to a daemon: the protocol's state machine on an asyncio transport.

Calls are written at once and answered as the daemon gets to them, so `asyncio.gather` over calls pipelines them in one
round trip. Every call has a deadline, and cancelling one forgets its answer without harm to the others.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from corral.client.stream import Stream
from corral.errors import CorralError, InvalidConnection, NoSupport, OperationTimeout
from corral.protocol import connection as wire
from corral.protocol import events
from corral.protocol.codec import codec
from corral.protocol.procedures import Procedure, procedure

if TYPE_CHECKING:
    from asyncio.subprocess import Process

CALL_TIMEOUT = 120.0  # seconds; a start with much memory to touch or an unplug takes long, none of them minutes
KEEPALIVE_INTERVAL = 5.0  # seconds of silence before the peer is asked whether it lives, as libvirt's clients do

Receive = Callable[[Any], Any]


class Connection(asyncio.Protocol):
    """Calls, their answers, messages and streams over one transport; made by `corral.client.transport.dial`."""

    def __init__(self) -> None:
        self._wire = wire.Connection("client", keepalive_interval=KEEPALIVE_INTERVAL)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, tuple[asyncio.Future[Any], Procedure, Receive | None]] = {}
        self._streams: dict[int, Stream] = {}
        self._listeners: dict[str, list[Callable[[Any], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lending = asyncio.Lock()
        self._holders: set[Stream] = set()
        self._lost: CorralError | None = None
        self.helper: Process | None = None  # the ssh process that carries us, if any
        self.ended: asyncio.Future[None] = self._loop.create_future()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone; calls raise InvalidConnection then."""
        return self._lost is not None

    async def call(
        self,
        name: str,
        args: dict[str, Any] | None = None,
        *,
        timeout: float | None = CALL_TIMEOUT,
        receive: Receive | None = None,
    ) -> Any:
        """Call the procedure `name` with the fields `args`; its decoded answer, or None where it has none.

        Raises the daemon's error, OperationTimeout after `timeout` seconds, InvalidConnection when the peer is gone.
        `receive` is given the answer before any later message is looked at, and its result takes the answer's place.
        """
        serial, future = self._start(procedure(name), args or {}, receive)
        return await self._answer(name, serial, future, timeout)

    async def lend(
        self, name: str, args: dict[str, Any], descriptors: Sequence[int], *, timeout: float | None = CALL_TIMEOUT
    ) -> Any:
        """Call a procedure that takes descriptors along; the caller keeps its own. NoSupport but over a UNIX socket."""
        if self.helper is not None:
            raise NoSupport(f"{name} sends a descriptor", hint="that goes over a UNIX socket, not through ssh")
        self.check()
        target = procedure(name)
        future: asyncio.Future[Any] = self._loop.create_future()
        serial = self._wire.call(target, args, [os.dup(each) for each in descriptors])
        self._calls[serial] = (future, target, None)
        self._flush()
        try:
            async with asyncio.timeout(timeout):
                # Shielded: bytes that were announced and do not come would end the connection.
                await asyncio.shield(self._loop.create_task(self._lend()))
        except TimeoutError as error:
            self._calls.pop(serial, None)
            raise OperationTimeout(f"the daemon has not taken {name} within {timeout:g} s") from error
        return await self._answer(name, serial, future, timeout)

    async def _lend(self) -> None:
        """Send the descriptors that are due, each on a byte of its own, between the bytes before and behind them."""
        async with self._lending:
            transport = self._transport
            assert transport is not None
            low, high = transport.get_write_buffer_limits()
            transport.set_write_buffer_limits(high=0)
            try:
                while transport.get_write_buffer_size() or not (descriptors := self._wire.fds_to_send()):
                    if self._wire.lost:
                        raise InvalidConnection(self._wire.lost)
                    self._flush()
                    await self.drain()
                self._writable.clear()
                try:
                    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as ours:
                        for each in descriptors:
                            await self._send_descriptor(ours, each)
                finally:
                    self._writable.set()
                    for each in descriptors:
                        os.close(each)
            finally:
                transport.set_write_buffer_limits(high=high, low=low)
        self._flush()

    async def _send_descriptor(self, ours: socket.socket, descriptor: int) -> None:
        while True:
            self.check()
            try:
                socket.send_fds(ours, [b"\0"], [descriptor])
            except BlockingIOError:
                room = asyncio.Event()
                self._loop.add_writer(ours, room.set)
                try:
                    await room.wait()
                finally:
                    self._loop.remove_writer(ours)
            except OSError as error:
                raise InvalidConnection(f"the daemon takes no descriptor: {error.strerror}") from error
            else:
                return

    async def open_stream(
        self, name: str, args: dict[str, Any], *, timeout: float | None = CALL_TIMEOUT
    ) -> tuple[Any, Stream]:
        """Call a procedure that opens a stream: its answer and the stream."""
        target = procedure(name)
        serial, future = self._start(target, args, None)
        stream = self._streams[serial] = Stream(self, serial, target)
        try:
            return await self._answer(name, serial, future, timeout), stream
        except CorralError:
            self._streams.pop(serial, None)  # it was never opened
            raise
        except asyncio.CancelledError:
            stream.abort()
            raise

    def keep_alive(self) -> None:
        """Ask after the peer whenever it has been silent for a while; the daemon has said that it answers."""
        self._wire.start_keepalive(self._loop.time())
        self._arm()

    def check(self) -> None:
        """Raise what ended the connection, if anything did."""
        if self._lost:
            raise self._lost

    def listen(self, name: str, listener: Callable[[Any], None]) -> Callable[[], None]:
        """Give `listener` each decoded message of the procedure `name`; the result stops that."""
        listeners = self._listeners.setdefault(name, [])
        listeners.append(listener)
        return lambda: listeners.remove(listener) if listener in listeners else None

    def _start(
        self, target: Procedure, fields: dict[str, Any], receive: Receive | None
    ) -> tuple[int, asyncio.Future[Any]]:
        self.check()
        serial = self._wire.call(target, fields if target.args else None)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls[serial] = (future, target, receive)
        self._flush()
        return serial, future

    async def _answer(self, name: str, serial: int, future: asyncio.Future[Any], timeout: float | None) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            raise OperationTimeout(f"the daemon has not answered {name} within {timeout:g} s") from error
        finally:
            self._calls.pop(serial, None)

    async def close(self) -> None:
        """Say good-bye and close the transport; never raises and takes two seconds at most."""
        if not self.closed:
            with suppress(CorralError):
                await self.call("connect_close", timeout=1.0)
            self._lose(InvalidConnection("the connection was closed"))
        if self._transport:
            self._transport.close()
        if self.helper:
            try:
                async with asyncio.timeout(1.0):
                    await self.helper.wait()
            except TimeoutError:
                self.helper.kill()
                await self.helper.wait()

    # Streams: what Stream asks of us.

    def send_stream_data(self, serial: int, target: Procedure, data: bytes) -> None:
        self._wire.send_stream_data(serial, target, data)
        self._flush()

    def send_stream_end(self, serial: int, target: Procedure) -> None:
        self._wire.send_stream_end(serial, target)
        self._flush()

    def send_stream_abort(self, serial: int, target: Procedure) -> None:
        self._wire.send_stream_abort(serial, target)
        self._flush()

    def pause_reading(self, stream: Stream) -> None:
        """Hold the connection back while `stream` has too much that nobody reads: memory stays bounded."""
        if not self._holders and self._transport and not self._transport.is_closing():
            self._transport.pause_reading()
            self._wire.reading = False
        self._holders.add(stream)

    def resume_reading(self, stream: Stream) -> None:
        if stream in self._holders:
            self._holders.discard(stream)
            if not self._holders and self._transport and not self._transport.is_closing():
                self._wire.reading = True
                self._transport.resume_reading()

    async def drain(self) -> None:
        """Wait until the transport has room."""
        await self._writable.wait()
        self.check()

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._wire.receive_data(data, self._loop.time()):
            self._handle(event)
        self._flush()

    def connection_lost(self, cause: Exception | None) -> None:
        self._lose(InvalidConnection(f"the daemon closed the connection{f' ({cause})' if cause else ''}"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._flush()

    def _flush(self) -> None:
        ready = self._transport and not self._transport.is_closing() and self._writable.is_set()
        if ready and self._transport and (data := self._wire.data_to_send()):
            self._transport.write(data)
        self._arm()

    def _arm(self) -> None:
        """One timer for the state machine's next deadline; it is left alone while it is early enough."""
        deadline = self._wire.next_deadline(self._loop.time())
        if deadline is None or self._lost:
            if self._timer:
                self._timer.cancel()
            self._timer = None
        elif self._timer is None or self._timer.cancelled() or self._timer.when() > deadline:
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for event in self._wire.tick(self._loop.time()):
            self._handle(event)
        self._flush()

    def _handle(self, event: Any) -> None:
        match event:
            case events.Reply(serial=serial, body=body):
                self._replied(serial, body)
            case events.Error(serial=serial, error=error):
                if entry := self._calls.pop(serial, None):
                    _fail(entry[0], error)
            case events.Message(procedure=target, body=body):
                self._message(target, body)
            case events.StreamData(serial=serial, data=data):
                if stream := self._streams.get(serial):
                    stream.arrived(data)
            case events.StreamHole(serial=serial, length=length):
                if stream := self._streams.get(serial):
                    stream.skipped(length)
            case events.StreamEOF(serial=serial):
                if stream := self._streams.get(serial):
                    stream.exhausted()
            case events.StreamEnd(serial=serial):
                if stream := self._streams.pop(serial, None):
                    stream.ended()
            case events.StreamAbort(serial=serial, error=error):
                if stream := self._streams.pop(serial, None):
                    stream.failed(error)
            case events.KeepaliveTimeout():
                self._lose(InvalidConnection("the daemon stopped answering keepalive messages"))
            case events.ConnectionLost(reason=reason):
                self._lose(InvalidConnection(reason))

    def _replied(self, serial: int, body: Any) -> None:
        entry = self._calls.pop(serial, None)
        if entry is None:
            return  # the caller went away
        future, target, receive = entry
        try:
            answer = codec(target.ret).decode(body) if target.ret else None
            answer = receive(answer) if receive else answer
        except CorralError as error:
            _fail(future, error)
        else:
            if not future.done():
                future.set_result(answer)

    def _message(self, target: Procedure, body: Any) -> None:
        if listeners := self._listeners.get(target.name):
            message = codec(target.msg).decode(body) if target.msg else None
            for listener in list(listeners):
                listener(message)

    def _lose(self, error: CorralError) -> None:
        if self._lost:
            return
        self._lost = error
        if self._timer:
            self._timer.cancel()
        for future, _, _ in self._calls.values():
            _fail(future, error)
        self._calls.clear()
        for stream in self._streams.values():
            stream.failed(error)
        self._writable.set()
        self._wire.close()
        for descriptor in self._wire.take_fds():
            os.close(descriptor)
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport:
            self._transport.close()


def _fail(future: asyncio.Future[Any], error: CorralError) -> None:
    if not future.done():
        future.set_exception(error)
