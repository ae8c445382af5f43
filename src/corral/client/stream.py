"""A stream beside a call: a console, a channel, a screenshot's bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from corral.errors import CorralError, InvalidStream
from corral.protocol.interface import STREAM_CHUNK

if TYPE_CHECKING:
    from types import TracebackType

    from corral.client.connection import Connection
    from corral.protocol.procedures import Procedure

BUFFER_LIMIT = 4 << 20  # bytes that wait for a slow reader before the whole connection is held back
HOLE_LIMIT = 1 << 30  # bytes of zeros that a daemon may ask us to make up
FINISH_TIMEOUT = 30.0  # seconds for the daemon to confirm that it has taken everything


class Stream:
    """Bytes both ways until one side ends it. `async with` ends it tidily, or aborts it when the block raised."""

    def __init__(self, connection: Connection, serial: int, procedure: Procedure) -> None:
        self._connection = connection
        self._serial = serial
        self._procedure = procedure
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self.received = 0  # bytes so far
        self._changed = asyncio.Event()
        self._exhausted = False  # the daemon has no more data
        self._finishing = False  # we said that we have none either
        self._gone = False  # both sides agree
        self._error: CorralError | None = None

    async def read(self, limit: int = -1) -> bytes:
        """The next bytes, at most `limit` of them; b"" at the end. Raises what the daemon aborted the stream with."""
        while not self._chunks:
            if self._error:
                raise self._error
            if self._exhausted or self._gone or self._finishing:
                return b""
            self._changed.clear()
            await self._changed.wait()
        chunk = self._chunks.popleft()
        if 0 <= limit < len(chunk):
            self._chunks.appendleft(chunk[limit:])
            chunk = chunk[:limit]
        self._buffered -= len(chunk)
        if self._buffered <= BUFFER_LIMIT:
            self._connection.resume_reading(self)
        return chunk

    async def read_all(self, limit: int = 256 << 20) -> bytes:
        """Everything up to the end; InvalidStream beyond `limit` bytes."""
        whole = bytearray()
        while chunk := await self.read():
            whole += chunk
            if len(whole) > limit:
                self.abort()
                raise InvalidStream(f"the daemon sent more than {limit} bytes")
        return bytes(whole)

    async def write(self, data: bytes | memoryview) -> None:
        """Send `data`; returns when the connection has room for more."""
        view = memoryview(data)
        for start in range(0, len(view), STREAM_CHUNK):
            if self._error:
                raise self._error
            if self._gone or self._finishing:
                raise InvalidStream("it has ended")
            self._connection.send_stream_data(self._serial, self._procedure, bytes(view[start : start + STREAM_CHUNK]))
            await self._connection.drain()

    async def finish(self) -> None:
        """End the stream in order; returns when the daemon has confirmed it. Data not read yet is dropped."""
        if not (self._finishing or self._gone or self._error or self._connection.closed):
            self._finishing = True
            self._drop()
            self._connection.send_stream_end(self._serial, self._procedure)
            try:
                async with asyncio.timeout(FINISH_TIMEOUT):
                    while not (self._gone or self._error):
                        self._changed.clear()
                        await self._changed.wait()
            except TimeoutError:
                self._error = InvalidStream("the daemon did not confirm its end")
        if self._error and self._finishing:
            raise self._error

    def abort(self) -> None:
        """End the stream at once; the daemon drops what is under way."""
        if not (self._finishing or self._gone or self._error or self._connection.closed):
            self._connection.send_stream_abort(self._serial, self._procedure)
        self._finishing = True
        self._drop()

    def check(self) -> None:
        """Raise what broke the stream, if anything did."""
        if self._error:
            raise self._error

    def _drop(self) -> None:
        self._chunks.clear()
        self._buffered = 0
        self._connection.resume_reading(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.finish()
        else:
            self.abort()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    # What the connection tells.

    def arrived(self, data: bytes) -> None:
        """The daemon sent `data`."""
        if self._finishing:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        self.received += len(data)
        if self._buffered > BUFFER_LIMIT:
            self._connection.pause_reading(self)
        self._changed.set()

    def skipped(self, length: int) -> None:
        """The daemon left out `length` zeros."""
        if length > HOLE_LIMIT:
            self.failed(InvalidStream(f"the daemon sent a hole of {length} bytes"))
        else:
            self.arrived(bytes(length))

    def exhausted(self) -> None:
        """The daemon has no more data."""
        self._exhausted = True
        self._changed.set()

    def ended(self) -> None:
        """The daemon confirmed the end, or ended the stream itself."""
        self._gone = True
        self._changed.set()

    def failed(self, error: CorralError) -> None:
        """The daemon aborted the stream, or the connection is gone."""
        self._error = error
        self._changed.set()
