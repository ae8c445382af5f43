"""A volume's bytes to a client and from one: the file is read and written in the storage's threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from corral.constants import ErrorDomain
from corral.errors import CorralError, HostError, OperationFailed
from corral.hypervisor.guest.stream import ByteStream
from corral.hypervisor.pools import volumes

if TYPE_CHECKING:
    from corral.hypervisor.pools.pool import Volume
    from corral.hypervisor.pools.pools import Pools

T = TypeVar("T")


class VolumeStream(ByteStream):
    """One transfer; the file stays open, and the volume in use, until it is closed and the last thread let go."""

    def __init__(self, pools: Pools, volume: Volume, uses: AsyncExitStack, at: int, end: int | None) -> None:
        self._pools = pools
        self._volume = volume
        self._uses = uses
        self._descriptor = -1
        self._at = at
        self._end = end
        self._busy: asyncio.Future[Any] | None = None
        self._closed = asyncio.Event()

    async def begin(self, flags: int) -> None:
        """Open the file; HostError when it cannot be, and then everything is let go of."""
        path = self._volume.file.path

        def opened() -> int:
            try:
                return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                text = f"Unable to open stream for '{path}': {error.strerror}"
                raise HostError(text, domain=ErrorDomain.STREAMS) from error

        try:
            self._descriptor = await self._pools.threads.run(opened)
        except BaseException:
            await self._uses.aclose()
            raise

    async def _run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread; whoever cancels us does not close the file under it."""
        if self._closed.is_set():
            raise HostError("the stream is closed", domain=ErrorDomain.STREAMS)
        task = asyncio.ensure_future(self._pools.threads.run(work))
        self._busy = task
        try:
            return await asyncio.shield(task)
        except OSError as error:
            path = self._volume.file.path
            raise HostError(f"cannot transfer '{path}': {error.strerror}", domain=ErrorDomain.STREAMS) from error

    def close(self) -> None:
        """Let go."""
        if not self._closed.is_set():
            self._pools.hypervisor.spawn(self.release())

    async def finish(self) -> None:
        """Let go before the other side hears of it: it may remove the volume in the next moment."""
        await self.release()

    async def release(self) -> None:
        """Let go, and wait until it is done."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._busy is not None:
            await asyncio.wait([self._busy])
        os.close(self._descriptor)
        await self._uses.aclose()


class Download(VolumeStream):
    """From the volume to the client."""

    async def read(self, limit: int = 65536) -> bytes:
        """The next bytes; zeros for holes."""
        if self._closed.is_set():
            return b""
        count = limit if self._end is None else min(limit, self._end - self._at)
        data = await self._run(lambda: os.pread(self._descriptor, count, self._at)) if count > 0 else b""
        self._at += len(data)
        if not data:  # not every client confirms the end
            await self.release()
        return data

    async def write(self, data: bytes) -> None:
        """The client has nothing to say here."""
        raise OperationFailed("the stream can only be read", domain=ErrorDomain.STREAMS)


class SparseDownload(Download):
    """The same for a client that knows of holes."""

    async def section(self, limit: int = 65536) -> bytes | int:
        """The next bytes up to a hole, or the hole's length."""
        if self._closed.is_set():
            return b""
        start, end = await self._run(self._next_extent)
        if start > self._at:
            hole, self._at = start - self._at, start
            return hole
        return await self.read(min(limit, end - start))

    def _next_extent(self) -> tuple[int, int]:
        """Where the next data begin and end; at the end of the file when there are none."""
        from corral.storage import writing

        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        stop = size if self._end is None else min(size, self._end)
        for start, end in writing.extents(self._descriptor, stop, self._at):
            return start, end
        return max(stop, self._at), max(stop, self._at)


class Upload(VolumeStream):
    """From the client into the volume."""

    async def read(self, limit: int = 65536) -> bytes:
        """There is nothing for the client until it has finished."""
        await self._closed.wait()
        return b""

    async def write(self, data: bytes) -> None:
        """Write all of it; HostError beyond the length that the client announced."""
        from corral.storage import writing

        room = len(data) if self._end is None else max(0, self._end - self._at)
        at, piece = self._at, data[:room]
        await self._run(lambda: writing.write_all(self._descriptor, piece, at))
        self._at += len(piece)
        if room < len(data):
            raise _full()

    async def skip(self, length: int) -> None:
        """Zeros, without blocks where there are none yet."""
        from corral.storage import writing

        if self._end is not None and self._at + length > self._end:
            raise _full()
        at = self._at
        await self._run(lambda: writing.zero(self._descriptor, at, at + writing.check_size(length)))
        self._at += length

    async def finish(self) -> None:
        """On the disk, and the volume looked at again."""
        await self._run(lambda: os.fsync(self._descriptor))
        await volumes.look(self._pools, self._volume)
        await self._volume.pool.look_at_space()
        self._pools.refreshed(self._volume.pool)
        await self.release()


def _full() -> CorralError:
    return HostError("cannot write to stream: No space left on device", domain=ErrorDomain.STREAMS)


async def download(pools: Pools, volume: Volume, offset: int, length: int, *, sparse: bool) -> Download:
    """Read a volume from `offset`, `length` bytes or to its end."""
    volume.pool.check_active()
    _check(volume)
    uses = AsyncExitStack()
    uses.enter_context(volume.used())
    stream = (SparseDownload if sparse else Download)(pools, volume, uses, offset, offset + length if length else None)
    await stream.begin(os.O_RDONLY)
    return stream


async def upload(pools: Pools, volume: Volume, offset: int, length: int) -> Upload:
    """Write a volume from `offset`, at most `length` bytes if it is not 0."""
    volume.pool.check_active()
    volume.check_idle()
    _check(volume)
    uses = AsyncExitStack()
    await uses.enter_async_context(volumes.held(pools, volume, writes=True, what="volume being uploaded"))
    uses.enter_context(volume.used())
    stream = Upload(pools, volume, uses, offset, offset + length if length else None)
    await stream.begin(os.O_WRONLY)
    return stream


def _check(volume: Volume) -> None:
    if volume.building:
        volume.check_idle()
    if volume.file.kind == "dir":
        text = f"Unable to open stream for '{volume.file.path}': Is a directory"
        raise HostError(text, domain=ErrorDomain.STREAMS)
