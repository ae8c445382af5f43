"""Files made, filled, copied, wiped and removed, without QEMU's tools. Everything here blocks.

Long work looks at `stop` between pieces, so that whoever gave up waiting does not leave a thread behind for hours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corral.constants import ErrorDomain
from corral.errors import HostError, NumberTooLarge, OperationAborted, StorageVolumeExists

PIECE = 1 << 20
#: The largest size that off_t can say.
SIZE_MAX = 2**63 - 1

_FICLONE = 0x40049409  # linux/fs.h
_GETFLAGS, _SETFLAGS, _NOCOW = 0x80086601, 0x40086602, 0x00800000


@dataclass(frozen=True, slots=True)
class Owner:
    """Mode and owner that a new file gets; None leaves what the system gives."""

    mode: int = 0o600
    uid: int | None = None
    gid: int | None = None


def make_file(path: Path, owner: Owner) -> tuple[int, int]:
    """Make an empty file that must not be there yet; its device and inode.

    Raises StorageVolumeExists or HostError; nothing is left behind then.
    """
    try:
        # 0600 until it is whose it shall be; O_EXCL neither follows a link nor touches what is there.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise StorageVolumeExists(f"storage volume '{path.name}' exists already") from error
    except OSError as error:
        raise HostError(f"Failed to create file '{path}': {error.strerror}") from error
    try:
        facts = os.fstat(descriptor)
        _own(descriptor, owner)
        return facts.st_dev, facts.st_ino
    except OSError as error:
        path.unlink(missing_ok=True)
        raise HostError(f"cannot set mode or owner of '{path}': {error.strerror}") from error
    finally:
        os.close(descriptor)


def make_directory(path: Path, owner: Owner) -> None:
    """Make a directory that must not be there yet."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        raise StorageVolumeExists(f"storage volume '{path.name}' exists already") from error
    except OSError as error:
        raise HostError(f"cannot create path '{path}': {error.strerror}") from error
    own_directory(path, owner)


def own_directory(path: Path, owner: Owner) -> None:
    """Give a directory its mode and owner."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _own(descriptor, owner)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"cannot set mode or owner of '{path}': {error.strerror}") from error


def _own(descriptor: int, owner: Owner) -> None:
    if owner.uid is not None or owner.gid is not None:
        os.fchown(descriptor, -1 if owner.uid is None else owner.uid, -1 if owner.gid is None else owner.gid)
    os.fchmod(descriptor, owner.mode)


def no_copy_on_write(path: Path) -> None:
    """Ask btrfs not to copy on write; anywhere else, and where it refuses, nothing happens: it only saves time."""
    with contextlib.suppress(OSError), opened(path, os.O_RDONLY) as descriptor:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GETFLAGS, flags)
        value = int.from_bytes(flags[:4], "little") | _NOCOW
        fcntl.ioctl(descriptor, _SETFLAGS, value.to_bytes(8, "little"))


def size_raw(path: Path, capacity: int, allocation: int) -> None:
    """Set a file's size, with blocks for its first `allocation` bytes."""
    with opened(path, os.O_RDWR) as descriptor:
        try:
            os.ftruncate(descriptor, capacity)
        except OSError as error:
            raise HostError(f"cannot extend file '{path}': {error.strerror}") from error
        if allocation:
            try:
                os.posix_fallocate(descriptor, 0, min(allocation, capacity))
            except OSError as error:
                text = f"cannot allocate {allocation} bytes in file '{path}': {error.strerror}"
                raise HostError(text) from error
        os.fsync(descriptor)


def copy_raw(source: Path, target: Path, stop: threading.Event) -> None:
    """Copy a file's bytes, leaving its holes holes."""
    with opened(source, os.O_RDONLY) as reading, opened(target, os.O_RDWR) as writing:
        size = os.lseek(reading, 0, os.SEEK_END)
        try:
            if size > os.lseek(writing, 0, os.SEEK_END):
                os.ftruncate(writing, size)
            for start, end in extents(reading, size):
                _copy_extent(reading, writing, start, end, stop)
            os.fsync(writing)
        except OSError as error:
            raise HostError(f"cannot copy '{source}' to '{target}': {error.strerror}") from error


def _copy_extent(reading: int, writing: int, start: int, end: int, stop: threading.Event) -> None:
    while start < end:
        _check(stop)
        piece = os.pread(reading, min(PIECE, end - start), start)
        if not piece:
            return
        write_all(writing, piece, start)
        start += len(piece)


def clone(source: Path, target: Path) -> None:
    """Have the file system share the source's blocks; HostError where it cannot."""
    with opened(source, os.O_RDONLY) as reading, opened(target, os.O_RDWR) as writing:
        try:
            fcntl.ioctl(writing, _FICLONE, reading)
            os.fsync(writing)
        except OSError as error:
            raise HostError(f"failed to clone files from '{source}': {error.strerror}") from error


def wipe(path: Path, stop: threading.Event) -> None:
    """Overwrite all blocks of a file or block device with zeros; its size stays, and so do its holes."""
    zeros = bytes(PIECE)
    with opened(path, os.O_RDWR) as descriptor:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        try:
            for start, end in extents(descriptor, size):
                at = start
                while at < end:
                    _check(stop)
                    at += os.pwrite(descriptor, zeros[: end - at], at)
            os.fsync(descriptor)
        except OSError as error:
            raise HostError(f"Failed to wipe file '{path}': {error.strerror}") from error


def remove(path: Path, *, directory: bool) -> None:
    """Remove a volume; a directory must be empty, a file may be gone already."""
    try:
        if directory:
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        what = "remove directory" if directory else "unlink file"
        raise HostError(f"cannot {what} '{path}': {error.strerror}") from error


def remove_unfinished(path: Path, device: int, inode: int) -> bool:
    """Remove a file that somebody left half made, if it is still the same one; whether it was."""
    with contextlib.suppress(OSError):
        facts = path.lstat()
        if (facts.st_dev, facts.st_ino) == (device, inode):
            path.unlink()
            return True
    return False


def extents(descriptor: int, size: int, at: int = 0) -> Iterator[tuple[int, int]]:
    """The parts of a file from `at` to `size` that are not holes: (start, end); all where nobody can tell."""
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno != errno.EINVAL:
                raise
            start, end = at, size
        if start >= size:
            return
        yield start, min(end, size)
        at = end


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """The file's descriptor; a FIFO in its place is not waited for."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(f"cannot open file '{path}': {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def zero(descriptor: int, start: int, end: int) -> None:
    """Make a part of a file zeros, of which what is no blocks stays none; the file grows to hold it."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    zeros = bytes(PIECE)
    for first, last in extents(descriptor, min(size, end), start):
        at = first
        while at < last:
            at += os.pwrite(descriptor, zeros[: last - at], at)
    if end > size:
        os.ftruncate(descriptor, end)


def write_all(descriptor: int, data: bytes, at: int) -> None:
    """Write all of `data` at a place."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise OperationAborted("nobody waits for it any more")


def check_size(size: int) -> int:
    """`size`, or NumberTooLarge when no file can be that large."""
    if size > SIZE_MAX:
        raise NumberTooLarge(f"value too large: {size}", domain=ErrorDomain.STORAGE)
    return size
