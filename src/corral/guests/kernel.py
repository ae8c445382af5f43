"""The kernel proper out of a bzImage: an ELF file that QEMU starts directly (PVH), without the guest unpacking itself.

Under software emulation the guest's own decompression is the longest part of a boot: seconds for Debian's xz.
Layout of a bzImage: the kernel's Documentation/arch/x86/boot.rst, fields setup_sects, payload_offset, payload_length.
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


def vmlinux(image: bytes) -> bytes | None:
    """The ELF kernel inside a bzImage, or None when it cannot be started directly (no PVH entry) or is no bzImage."""
    if image[:4] == b"\x7fELF":
        return image
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        return None
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * _SECTOR + offset
    payload = image[start : start + length]
    if len(payload) < 8:
        return None
    (size,) = struct.unpack_from("<I", payload, length - 4)
    if size > _MAX_KERNEL:
        return None
    kernel = decompress(payload if payload[:2] in (b"\x1f\x8b", b"BZ") else payload[:-4], size)
    return kernel if kernel[:4] == b"\x7fELF" and _has_pvh_entry(kernel) else None


def _has_pvh_entry(kernel: bytes) -> bool:
    """Whether an ELF note XEN_ELFNOTE_PHYS32_ENTRY (name "Xen", type 18) is there: QEMU's way in."""
    phoff, phentsize, phnum = struct.unpack_from("<Q14xHH", kernel, 0x20)[0], *struct.unpack_from("<HH", kernel, 0x36)
    for index in range(phnum):
        at = phoff + index * phentsize
        kind, _flags, offset, _virtual, _physical, filesz = struct.unpack_from("<IIQQQQ", kernel, at)
        if kind == 4 and struct.pack("<I4s", 18, b"Xen") in kernel[offset : offset + filesz]:
            return True
    return False


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
