"""Bytes between a client and something of a domain's: a pseudo terminal or a UNIX socket of QEMU's."""

from __future__ import annotations

import abc


class ByteStream(abc.ABC):
    """A two-way stream of bytes; `b""` from `read` is the end."""

    @abc.abstractmethod
    async def read(self, limit: int = 65536) -> bytes:
        """The next bytes, at most `limit`; `b""` when the other side is gone or the stream was taken over or closed."""

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """Write all of `data`, waiting while the other side is slow; HostError when it is gone."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go; a waiting `read` ends with `b""`."""
