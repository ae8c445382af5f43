"""Pictures of screens: PNG from what a daemon gives."""

from __future__ import annotations

import re
import struct
import zlib

from corral.errors import InternalError

PNG = b"\x89PNG\r\n\x1a\n"
#: Width, height and largest value of a binary PPM (ppm(5)), with the one whitespace that ends its head.
PPM = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+(\d{1,5})\s")


def png(picture: bytes) -> bytes:
    """A picture as PNG: one already, or made of a binary PPM with a byte a colour. InternalError for all else."""
    if picture.startswith(PNG):
        return picture
    head = PPM.match(picture)
    if head is None or int(head[3]) != 255:
        raise InternalError(f"the daemon's picture is neither PNG nor PPM: it begins with {picture[:16]!r}")
    width, height = int(head[1]), int(head[2])
    pixels = memoryview(picture)[head.end() :]
    row = width * 3
    if len(pixels) < row * height:
        raise InternalError(f"the daemon's picture has {len(pixels)} bytes of {row * height}")
    lines = b"".join(b"\0" + pixels[line * row : (line + 1) * row] for line in range(height))  # 0: not filtered
    kind = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # eight bits a colour, three colours
    return PNG + _chunk(b"IHDR", kind) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
