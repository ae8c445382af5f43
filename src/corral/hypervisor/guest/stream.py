"""Bytes between a client and something of a domain's: a pseudo terminal or a UNIX socket of QEMU's."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import socket
import tty
from collections.abc import Callable
from pathlib import Path

from corral.errors import HostError, InvalidStream


class ByteStream(abc.ABC):
    """A two-way stream of bytes; `b""` from `read` is the end."""

    @abc.abstractmethod
    async def read(self, limit: int = 65536) -> bytes:
        """The next bytes, at most `limit`; `b""` when the other side is gone or the stream was taken over or closed."""

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """Write all of `data`, waiting while the other side is slow; HostError when it is gone."""

    async def section(self, limit: int = 65536) -> bytes | int:
        """The next bytes, or the length of a hole where there are none, for clients that know of holes."""
        return await self.read(limit)

    async def skip(self, length: int) -> None:
        """Leave a hole of `length` bytes; InvalidStream where there is no place for one."""
        raise InvalidStream("this stream cannot hold holes")

    async def finish(self) -> None:  # noqa: B027 - most streams have nothing to make last
        """All has been written: make it last, before the other side is told that it was taken."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go; a waiting `read` ends with `b""`."""


class DescriptorStream(ByteStream):
    """A stream over one non-blocking descriptor, which it owns; `on_close` is called once."""

    def __init__(self, descriptor: int, on_close: Callable[[], None] = lambda: None) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        self.closed = False

    async def read(self, limit: int = 65536) -> bytes:
        """The next bytes."""
        while not self.closed:
            try:
                return os.read(self._descriptor, limit)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except OSError:  # EIO: the terminal's other side is closed
                return b""
        return b""

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            if self.closed:
                raise HostError("the stream is closed")
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise HostError(f"cannot write to the domain: {error.strerror}") from error

    async def _ready(self, watch: Callable[..., None], unwatch: Callable[[int], object]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(future)
        watch(self._descriptor, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            self._waiting.discard(future)
            if not self.closed:
                unwatch(self._descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        if self.closed:
            return
        self.closed = True
        for unwatch in (self._loop.remove_reader, self._loop.remove_writer):
            with contextlib.suppress(OSError, ValueError):
                unwatch(self._descriptor)
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        os.close(self._descriptor)
        self._on_close()


def open_terminal(path: str, on_close: Callable[[], None]) -> DescriptorStream:
    """A pseudo terminal's client side, raw, so that every byte passes as it is."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot open {path}: {error.strerror}") from error
    try:
        tty.setraw(descriptor)
    except Exception as error:
        os.close(descriptor)
        raise HostError(f"{path} is not a terminal: {error}") from error
    return DescriptorStream(descriptor, on_close)


async def open_socket(path: str, on_close: Callable[[], None]) -> DescriptorStream:
    """A connection to a UNIX socket on which QEMU listens."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(client, str(Path(path)))
    except (OSError, TimeoutError) as error:
        client.close()
        raise HostError(f"cannot connect to {path}: {getattr(error, 'strerror', None) or 'no answer'}") from error
    return DescriptorStream(client.detach(), on_close)
