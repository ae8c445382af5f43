"""What a storage stick keeps its blocks in: the only file I/O of the room's devices."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from corral.errors import HostError, InvalidArgument
from corral.usb.scsi import BLOCK


class Medium(Protocol):
    """Blocks: `size` bytes, a multiple of 512. All but the `…_now` may block, and raise OSError."""

    size: int
    read_only: bool

    def read(self, offset: int, length: int) -> bytes | bytearray:
        """Bytes of the medium."""

    def read_now(self, offset: int, length: int) -> bytes | bytearray | None:
        """The same if it takes no waiting, else None."""

    def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        """Bytes for the medium."""

    def flush(self) -> None:
        """Have everything written on stable storage."""

    def close(self) -> None:
        """Let go."""


class Image:
    """A raw image in a file (or a block device), read-only on demand. Raises HostError when it cannot be opened.

    Bytes after the last whole block are not part of the medium.
    """

    def __init__(self, source: Path | BinaryIO, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self._lock = threading.Lock()
        if isinstance(source, Path):
            try:
                self._fd = os.open(source, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            except OSError as error:
                raise HostError(f"cannot open the image {source}: {error.strerror}") from error
        else:
            self._fd = os.dup(source.fileno())
        self.size = os.lseek(self._fd, 0, os.SEEK_END) // BLOCK * BLOCK
        if not self.size:
            self.close()
            raise InvalidArgument(f"the image {source} is empty")

    def read(self, offset: int, length: int) -> bytes | bytearray:
        """Bytes of the file; zeros where it has become shorter."""
        buffer = bytearray(length)
        view = memoryview(buffer)
        at = 0
        while at < length and (got := os.preadv(self._fd, [view[at:]], offset + at)):
            at += got
        return buffer

    def read_now(self, offset: int, length: int) -> bytes | bytearray | None:
        """Bytes of the file that the kernel has in memory (preadv2(2), RWF_NOWAIT)."""
        buffer = bytearray(length)
        with suppress(OSError):
            if os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT) == length:
                return buffer
        return None

    def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        """Write all, whatever the kernel takes at a time."""
        rest = [memoryview(chunk) for chunk in chunks if chunk]
        while rest:
            done = os.pwritev(self._fd, rest[:512], offset)
            offset += done
            while rest and done >= len(rest[0]):
                done -= len(rest.pop(0))
            if done:
                rest[0] = rest[0][done:]

    def flush(self) -> None:
        """fdatasync(2)."""
        if not self.read_only:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file, once."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
