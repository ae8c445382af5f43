"""A device served over a stream: the adapter between asyncio and `redirection.Redirection`.

The other end is QEMU's `usb-redir`, whose chardev is a socket (or a SPICE channel, or a stream of our own daemon).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

from corral.errors import OperationFailed
from corral.usb.filter import Filter
from corral.usb.redirection import Redirection
from corral.usb.transfer import Job, Target

_MAX_UNSENT = 4 << 20
_SEND_BUFFER = 1 << 20
_PARTING = 2.0
"""Seconds that the last bytes may take to go out."""


class Service(asyncio.Protocol):
    """One redirection on one transport. `await service.ended()` to know how it went."""

    def __init__(self, device: Target, *, filter: Filter | None = None) -> None:
        self.redirection = Redirection(device, filter=filter)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], object] = _nowhere
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self._working = 0
        self._over: asyncio.Future[None] = self._loop.create_future()
        device.news = self._news

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        # Not asyncio's own class under uvloop.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_MAX_UNSENT)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # A whole command's data leaves in one call.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._write = transport.write
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes from the guest."""
        self._soon = True  # what the device has to say meanwhile goes out at once below
        self.redirection.receive_data(data, self._loop.time())
        self._soon = False
        self._flush()

    def eof_received(self) -> bool:
        """The guest has closed its side."""
        self.data_received(b"")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is gone."""
        self._write = _nowhere
        self._transport = None
        if self.redirection.ended is None:
            self.redirection.receive_data(b"", self._loop.time())
        self._flush()

    def pause_writing(self) -> None:
        """A guest that does not read is not listened to either."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._transport is not None:
            self._transport.resume_reading()

    # -- the device's side ------------------------------------------------------------------------------------------

    def _news(self) -> None:
        """The device has jobs or has left, perhaps in the midst of a call of ours: look at it soon."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._soon = True
        self.redirection.tick(self._loop.time())
        self._soon = False
        self._flush()

    def _flush(self) -> None:
        """Send what there is, begin the device's jobs, keep the timer right, notice the end."""
        redirection = self.redirection
        for job in redirection.take_jobs():
            self._working += 1
            future = self._loop.run_in_executor(None, job.attempt)
            future.add_done_callback(partial(self._done, job))
        if data := redirection.data_to_send():
            self._write(data)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if redirection.ended is not None:
            self._part()
        elif (deadline := redirection.next_deadline()) is not None:
            self._timer = self._loop.call_at(deadline, self._look)

    def _done(self, job: Job, future: asyncio.Future[object]) -> None:
        self._working -= 1
        if future.cancelled():
            return
        self._soon = True
        self.redirection.settle(job, future.result(), self._loop.time())
        self._soon = False
        self._flush()

    def _part(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_PARTING, self._cut)
        elif not self._working and not self._over.done():
            self._over.set_result(None)

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def unplug(self) -> None:
        """Take the device away from the guest and close the stream."""
        self.redirection.unplug()
        self._flush()

    async def ended(self) -> str:
        """Wait for the end; why it came. Raises OperationFailed when it was an error."""
        await asyncio.shield(self._over)
        reason = self.redirection.ended or ""
        if self.redirection.failed:
            raise OperationFailed(f"USB redirection: {reason}")
        return reason


async def serve(device: Target, to: socket.socket | Path | tuple[str, int], *, filter: Filter | None = None) -> Service:
    """Give a device to the guest at the other end of a connected socket, a UNIX socket's path or a host and port."""
    loop = asyncio.get_running_loop()
    service = Service(device, filter=filter)
    if isinstance(to, socket.socket):
        to.setblocking(False)  # noqa: ASYNC240 - a socket, not a path
        if to.family != socket.AF_UNIX:
            to.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: ASYNC240
        await loop.create_connection(lambda: service, sock=to)
    elif isinstance(to, Path):
        await loop.create_unix_connection(lambda: service, str(to))
    else:
        await loop.create_connection(lambda: service, *to)
    return service


async def serve_streams(
    device: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, filter: Filter | None = None
) -> str:
    """Give a device to the guest at the other end of a byte stream, until it ends; why it ended.

    Cancelling it unplugs the device. Raises OperationFailed when the redirection ended with an error.
    """
    service = Service(device, filter=filter)
    service.connection_made(_Writing(writer))

    async def feed() -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 18):
                service.data_received(data)
                await writer.drain()
        service.connection_lost(None)

    feeding = asyncio.create_task(feed())
    try:
        return await service.ended()
    except asyncio.CancelledError:
        service.unplug()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PARTING):
                await writer.drain()
        raise
    finally:
        feeding.cancel()
        writer.close()


class _Writing(asyncio.Transport):
    """A stream writer as the transport that `Service` writes to; reading is not its business."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._writer = writer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._writer.write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._writer.transport.set_write_buffer_limits(high, low)

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


def _nowhere(_data: bytes) -> None:
    """There is no stream."""
