"""Image files before QEMU opens them: format, size, backing chain, and whether a running process holds them.

The format of a disk that a guest can write is never guessed: a guest that writes a qcow2 header into its raw disk would
otherwise choose which host file it reads next. Headers: QEMU's docs/interop/qcow2. Locks: QEMU's "image locking", one
byte of the file for each permission, from 100 on for what is used and from 200 on for what others may not have.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from corral.errors import ConfigUnsupported, HostError, OperationTimeout

#: More images than this on one another are a mistake (libvirt's own limit).
MAX_DEPTH = 200

_QCOW2_MAGIC = b"QFI\xfb"
_V2_HEADER = 72
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_EXTERNAL_DATA = 1 << 2
_HEADER_LIMIT = 64 * 1024
_NAME_LIMIT = 1023

# Permission bytes: consistent read, write.
_USED, _REFUSED = 100, 200
_READ, _WRITE = 0, 1
_FLOCK = struct.Struct("hhqqi4x")


@dataclass(frozen=True, slots=True)
class Image:
    """One file of a chain; sizes in bytes; `backing_path` as the header says it (relative to the image's folder).

    For formats other than raw and qcow2 `virtual_size` is the file's size, and no backing image is known.
    """

    path: Path
    format: str
    virtual_size: int
    allocated: int
    backing_path: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    encrypted: bool = False
    is_block: bool = False


def inspect(path: Path, format: str = "raw") -> Image:
    """Read what the file's header says, believing `format`; blocks on the file system.

    Raises HostError when it cannot be read, ConfigUnsupported when it is not of that format.
    """
    try:
        with open(path, "rb", buffering=0, opener=_opener) as file:
            facts = os.fstat(file.fileno())
            is_block = stat.S_ISBLK(facts.st_mode)
            if not is_block and not stat.S_ISREG(facts.st_mode):
                raise ConfigUnsupported(f"'{path}' is neither a file nor a block device")
            size = os.lseek(file.fileno(), 0, os.SEEK_END)
            image = Image(path, format, size, facts.st_blocks * 512 if not is_block else size, is_block=is_block)
            return _qcow2(image, os.pread(file.fileno(), _HEADER_LIMIT, 0)) if format == "qcow2" else image
    except OSError as error:
        raise HostError(f"cannot open file '{path}': {error.strerror}") from error


def detect(path: Path) -> str:
    """`qcow2` or `raw`, by the header: only for images that no guest has written (downloads, templates)."""
    try:
        with open(path, "rb", opener=_opener) as file:
            return "qcow2" if file.read(4) == _QCOW2_MAGIC else "raw"
    except OSError as error:
        raise HostError(f"cannot open file '{path}': {error.strerror}") from error


async def chain(path: Path, format: str = "raw", *, timeout: float = 30.0) -> list[Image]:
    """The image and its backing images, top first, read in a thread.

    Raises ConfigUnsupported for a loop, for a chain deeper than 200, and for a backing image that is not raw and whose
    format is not written down; HostError for a missing image (named); OperationTimeout for a dead file system.
    """
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.to_thread(_chain, path, format)
    except TimeoutError as error:
        raise OperationTimeout(f"reading the header of '{path}' took more than {timeout:g} s") from error


def in_use(path: Path, *, writable: bool) -> bool:
    """Whether another process (QEMU, qemu-img) has it open in a way that excludes ours; False if it cannot be told."""
    with contextlib.suppress(OSError), open(path, "rb", buffering=0, opener=_opener) as file:
        if _locked(file.fileno(), _USED + _WRITE):
            return True
        return _locked(file.fileno(), _REFUSED + (_WRITE if writable else _READ))
    return False


def _opener(path: str, flags: int) -> int:
    """Open without waiting: a FIFO or a tape in an image's place would hold us for ever."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _locked(descriptor: int, byte: int) -> bool:
    """Whether somebody else holds a lock on that byte (open file description locks, fcntl(2))."""
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query))[0] != fcntl.F_UNLCK)


def _chain(path: Path, format: str) -> list[Image]:
    images = [inspect(path, format)]
    seen = {path.resolve()}
    while (named := images[-1].backing_path) is not None:
        if len(images) >= MAX_DEPTH:
            raise ConfigUnsupported(f"backing chain of '{path}' is deeper than {MAX_DEPTH} images")
        above = images[-1]
        below = _backing_file(above.path, named)
        if below.resolve() in seen:
            raise ConfigUnsupported(f"backing chain of '{path}' is a loop: '{below}' comes twice")
        seen.add(below.resolve())
        if above.backing_format is None and below.is_file() and detect(below) != "raw":
            raise ConfigUnsupported(
                f"format of backing image '{below}' of image '{above.path}' was not specified in the image metadata",
                hint=f"qemu-img rebase -u -b '{named}' -F FORMAT '{above.path}' writes it down",
            )
        images.append(inspect(below, above.backing_format or "raw"))
    return images


def _backing_file(image: Path, named: str) -> Path:
    """The file that an image names: `file:` is a plain path, other protocols and JSON are not ours."""
    path = named.removeprefix("file:")
    if path == named and (named.startswith("json:") or ":" in named.partition("/")[0]):
        raise ConfigUnsupported(f"backing image '{named[:200]}' of '{image}' is not a local file")
    return image.parent / path


def _qcow2(image: Image, header: bytes) -> Image:
    """What a qcow2 header says; every length is checked against what was read."""
    if len(header) < _V2_HEADER or header[:4] != _QCOW2_MAGIC:
        raise ConfigUnsupported(f"image '{image.path}' is not in qcow2 format")
    version, name_at, name_length, cluster_bits, size, crypt = struct.unpack_from(">IQIIQI", header, 4)
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise ConfigUnsupported(f"image '{image.path}' has a damaged or unknown qcow2 header (version {version})")
    incompatible, length = 0, _V2_HEADER
    if version == 3 and len(header) >= 104:
        (incompatible,) = struct.unpack_from(">Q", header, 72)
        (length,) = struct.unpack_from(">I", header, 100)
    backing_path = None
    if name_at:
        if name_length > _NAME_LIMIT or name_at + name_length > len(header):
            raise ConfigUnsupported(f"image '{image.path}' has a damaged qcow2 header: backing file name")
        backing_path = _text(header[name_at : name_at + name_length]) or None
    extensions = _extensions(header, length, name_at or len(header))
    data_file = extensions.get(_DATA_FILE) if incompatible & _EXTERNAL_DATA else None
    return Image(
        path=image.path,
        format="qcow2",
        virtual_size=size,
        allocated=image.allocated,
        backing_path=backing_path,
        backing_format=extensions.get(_BACKING_FORMAT) if backing_path else None,
        data_file=data_file,
        encrypted=crypt != 0,
        is_block=image.is_block,
    )


def _extensions(header: bytes, at: int, end: int) -> dict[int, str]:
    """Header extensions that are text: type → content; an end marker or the end of the area stops it."""
    found: dict[int, str] = {}
    while at + 8 <= min(end, len(header)):
        kind, length = struct.unpack_from(">II", header, at)
        if kind == 0 or at + 8 + length > len(header):
            break
        if kind in (_BACKING_FORMAT, _DATA_FILE):
            found[kind] = _text(header[at + 8 : at + 8 + length])
        at += 8 + (length + 7) // 8 * 8
    return found


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.partition(b"\0")[0])
