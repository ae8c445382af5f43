"""One stream of a client's: bytes pumped between the connection and a console, a channel or a picture."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from corral.errors import CorralError, InvalidStream, OperationFailed
from corral.hypervisor.guest.stream import ByteStream
from corral.protocol.interface import STREAM_CHUNK

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.protocol.procedures import Procedure

log = logging.getLogger(__name__)

#: Bytes from the client that may wait for a slow console before we stop reading from the client.
INCOMING_HIGH = 1 << 20
INCOMING_LOW = 1 << 18
#: Bytes that a hole counts as.
HOLE_WEIGHT = 64


class Picture(ByteStream):
    """Bytes that are there already, to be read only."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    async def read(self, limit: int = 65536) -> bytes:
        """The next piece."""
        piece, self._data = bytes(self._data[:limit]), self._data[limit:]
        return piece

    async def write(self, data: bytes) -> None:
        """There is nobody to take it."""
        raise OperationFailed("the stream can only be read")

    def close(self) -> None:
        """Forget the rest."""
        self._data = memoryview(b"")


class Stream:
    """Created when the opening call arrives, for the client may send before it is answered; `attach` makes it flow."""

    __slots__ = (
        "_arrived",
        "_finished",
        "_incoming",
        "_size",
        "_source",
        "_tasks",
        "over",
        "procedure",
        "serial",
        "session",
    )

    def __init__(self, session: Session, serial: int, procedure: Procedure) -> None:
        self.session = session
        self.serial = serial
        self.procedure = procedure
        self.over = False
        self._source: ByteStream | None = None
        #: Bytes, or the length of a hole.
        self._incoming: deque[bytes | int] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._finished = False
        self._tasks: list[asyncio.Task[None]] = []

    def attach(self, source: ByteStream) -> None:
        """Start both directions; the reply to the opening call has been sent."""
        if self.over:
            source.close()
            return
        self._source = source
        self._tasks = [
            self.session.loop.create_task(self._send(source)),
            self.session.loop.create_task(self._receive(source)),
        ]

    @property
    def full(self) -> bool:
        """Whether the client should wait with more."""
        return self._size > INCOMING_HIGH

    def feed(self, data: bytes) -> None:
        """Bytes arrived from the client."""
        if not self.over:
            self._incoming.append(data)
            self._size += len(data)
            self._arrived.set()

    def hole(self, length: int) -> None:
        """A hole arrived; what it weighs here keeps a client from sending them without end."""
        if not self.over:
            self._incoming.append(length)
            self._size += HOLE_WEIGHT
            self._arrived.set()

    def finish(self) -> None:
        """The client has sent all; confirmed when it is written."""
        self._finished = True
        self._arrived.set()
        if self._source is None:
            self.abort(InvalidStream("the stream is not open yet"))

    def abort(self, error: CorralError) -> None:
        """Break off, and tell the client."""
        if not self.over:
            self.close()
            self.session.abort_stream(self, error)

    def close(self) -> None:
        """The stream is gone on the wire: let go of its source."""
        if self.over:
            return
        self.over = True
        self._incoming.clear()
        self._size = 0
        self.session.forget_stream(self)
        if self._source is not None:
            self._source.close()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    async def _send(self, source: ByteStream) -> None:
        try:
            while data := await source.section(STREAM_CHUNK):
                await self.session.writable()
                if self.over:
                    return
                if isinstance(data, int):
                    self.session.send_hole(self, data)
                else:
                    self.session.send_stream(self, data)
            if not self.over and not self._finished:
                self.session.end_stream(self)
        except CorralError as error:
            self.abort(error)
        except OSError as error:
            self.abort(OperationFailed(f"cannot read from the stream: {error.strerror}"))
        except Exception:
            log.exception("stream of %s", self.procedure.name)
            self.abort(OperationFailed("the stream broke; the daemon's log says why"))

    async def _receive(self, source: ByteStream) -> None:
        try:
            while True:
                while self._incoming:
                    data = self._incoming.popleft()
                    if isinstance(data, int):
                        await source.skip(data)
                        self._size -= HOLE_WEIGHT
                    else:
                        await source.write(data)
                        self._size -= len(data)
                    if self._size < INCOMING_LOW:
                        self.session.stream_drained()
                if self._finished:
                    break
                self._arrived.clear()
                await self._arrived.wait()
            await source.finish()
            if not self.over:
                self.session.end_stream(self)
                self.close()
        except CorralError as error:
            self.abort(error)
        except OSError as error:
            self.abort(OperationFailed(f"cannot write to the stream: {error.strerror}"))
        except Exception:
            log.exception("stream of %s", self.procedure.name)
            self.abort(OperationFailed("the stream broke; the daemon's log says why"))
