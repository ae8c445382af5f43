"""A bzImage whose kernel is unpacked already, so that the guest need not do it.

Under software emulation the guest's own decompression is the longest part of a boot: seconds for Debian's xz.
Layout of a bzImage: the kernel's Documentation/arch/x86/boot.rst, fields setup_sects, payload_offset, payload_length.

The ELF kernel alone would start, too (PVH), but QEMU writes such a kernel's segments into memory again at every reset,
also at the one by which a guest wakes from S3: it wakes up with a kernel that has never run, and falls.
"""

from __future__ import annotations

import bz2
import ctypes
import lzma
import struct
import zlib
from collections.abc import Callable

from corral.errors import OperationFailed

_SECTOR = 512
#: Where the protected-mode part of a bzImage is loaded.
_LOADED = 0x100000
_MAX_KERNEL = 256 * 1024 * 1024
_LZ4_BLOCK = 8 * 1024 * 1024


def decompress(data: bytes, size: int | None = None) -> bytes:
    """Data of any compression that kernels and modules use, told by its first bytes; unknown ones are given back as is.

    `size` is the size to expect, needed for zstd. Raises OperationFailed when it cannot be unpacked.
    """
    for magic, unpack in _FORMATS:
        if data.startswith(magic):
            try:
                return unpack(data, size or _MAX_KERNEL)
            except (OSError, ValueError, EOFError, lzma.LZMAError, zlib.error, struct.error) as error:
                raise OperationFailed(f"cannot unpack {unpack.__name__.strip('_')} data: {error}") from error
    return data


def unpacked(image: bytes) -> bytes | None:
    """The bzImage with its kernel where the kernel wants to run; None when that cannot be made of it."""
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        return None
    setup = ((image[0x1F1] or 4) + 1) * _SECTOR
    kernel = _payload(image, setup)
    if kernel is None or kernel[:6] != b"\x7fELF\x02\x01":
        return None
    (entry,) = struct.unpack_from("<Q", kernel, 0x18)
    memory = bytearray(_entry(entry))
    for physical, data in _segments(kernel):
        if not _LOADED + len(memory) <= physical <= _MAX_KERNEL:
            return None
        memory += bytes(physical - _LOADED - len(memory)) + data
    header = bytearray(image[:setup])
    struct.pack_into("<I", header, 0x1F4, -(-len(memory) // 16))  # syssize, in paragraphs
    return bytes(header + memory)


def _payload(image: bytes, setup: int) -> bytes | None:
    """The ELF kernel that a bzImage carries compressed."""
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup + offset : setup + offset + length]
    if len(payload) < 8:
        return None
    (size,) = struct.unpack_from("<I", payload, length - 4)
    if size > _MAX_KERNEL:
        return None
    return decompress(payload if payload[:2] in (b"\x1f\x8b", b"BZ") else payload[:-4], size)


def _segments(kernel: bytes) -> list[tuple[int, bytes]]:
    """(physical address, bytes) of what an ELF kernel wants in memory, in order (elf(5), PT_LOAD)."""
    (table,) = struct.unpack_from("<Q", kernel, 0x20)
    size, count = struct.unpack_from("<HH", kernel, 0x36)
    found = []
    for index in range(count):
        kind, _flags, offset, _virtual, physical, length = struct.unpack_from("<IIQQQQ", kernel, table + index * size)
        if kind == 1 and length:
            found.append((physical, kernel[offset : offset + length]))
    return sorted(found)


def _entry(kernel: int) -> bytes:
    """What the real-mode part of a bzImage jumps to, in 32-bit mode: into 64-bit mode, and on to the kernel.

    The boot protocol's 64-bit entry: memory mapped one to one, code segment 0x10, data segment 0x18, RSI the boot
    parameters (boot.rst, "64-bit boot protocol"). Code, segments and page tables for 4 GiB lie one after the other.
    """
    segments, tables = _LOADED + 0x100, _LOADED + 0x1000
    wide = _LOADED + 0x80
    code = b"".join(
        (
            b"\xfa\xfc",  # cli; cld
            b"\x0f\x01\x15" + struct.pack("<I", segments + 0x20),  # lgdt
            b"\x0f\x20\xe0\x83\xc8\x20\x0f\x22\xe0",  # cr4 |= PAE
            b"\xb8" + struct.pack("<I", tables) + b"\x0f\x22\xd8",  # cr3 = tables
            b"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x01\x00\x00\x0f\x30",  # EFER |= LME
            b"\x0f\x20\xc0\x0d\x01\x00\x00\x80\x0f\x22\xc0",  # cr0 |= PG | PE
            b"\xea" + struct.pack("<IH", wide, 0x10),  # ljmp 0x10:wide
        )
    ).ljust(0x80, b"\x90")
    code += b"\x89\xf6\xb8" + struct.pack("<I", kernel) + b"\xff\xe0"  # esi to 64 bits; jmp kernel
    descriptors = struct.pack("<4QHI", 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x1F, segments)
    directory = [tables + 0x2000 + page * 0x1000 | 3 for page in range(4)]
    pages = [
        struct.pack("<Q", tables + 0x1000 | 3).ljust(0x1000, b"\0"),
        struct.pack("<4Q", *directory).ljust(0x1000, b"\0"),
        *(struct.pack("<Q", (number << 21) | 0x83) for number in range(2048)),  # 2 MiB each
    ]
    return (code.ljust(0x100, b"\0") + descriptors).ljust(0x1000, b"\0") + b"".join(pages)


def _gzip(data: bytes, size: int) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data, size)


def _xz(data: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor().decompress(data, size)


def _bzip2(data: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, size)


def _library(name: str) -> ctypes.CDLL:
    """A C library that apt itself depends on, so that every Debian has it."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise OSError(f"{name} is missing") from error


def _zstd(data: bytes, size: int) -> bytes:
    library = _library("libzstd.so.1")
    library.ZSTD_decompress.restype = library.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
    library.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.ZSTD_decompress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    frame = library.ZSTD_findFrameCompressedSize(data, len(data))
    if library.ZSTD_isError(ctypes.c_size_t(frame)):
        raise ValueError("not a zstd frame")
    out = ctypes.create_string_buffer(size)
    got = library.ZSTD_decompress(out, size, data, frame)
    if library.ZSTD_isError(ctypes.c_size_t(got)):
        raise ValueError("damaged zstd frame")
    return out.raw[:got]


def _lz4(data: bytes, size: int) -> bytes:
    """The kernel's lz4: the legacy frame, blocks of 8 MiB, each preceded by its compressed length."""
    library = _library("liblz4.so.1")
    library.LZ4_decompress_safe.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    block = ctypes.create_string_buffer(_LZ4_BLOCK)
    parts: list[bytes] = []
    at = 4
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        got = library.LZ4_decompress_safe(data[at : at + length], block, length, _LZ4_BLOCK)
        if got < 0:
            raise ValueError("damaged lz4 block")
        parts.append(block.raw[:got])
        at += length
        if sum(map(len, parts)) >= size:
            break
    return b"".join(parts)


_FORMATS: tuple[tuple[bytes, Callable[[bytes, int], bytes]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\x00", _xz),
    (b"BZh", _bzip2),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x02\x21\x4c\x18", _lz4),
)
