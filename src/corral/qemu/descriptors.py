"""Files that QEMU gets opened: it runs as an account that may not open them itself, and need not.

A file is a part of its own, ahead of what reads it: a descriptor set in QEMU's words (`-add-fd`, `add-fd`), which QEMU
opens again as `/dev/fdset/N`. A start hands the descriptors down; a hotplug sends them over the monitor's socket. QEMU
locks an image through such a descriptor as through its own, because each is opened here for one node alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import stat
import subprocess
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from corral.errors import ConfigUnsupported, HostError, OperationTimeout
from corral.host.account import Account
from corral.host.images import inspect
from corral.qemu.runtime import Part

#: Sets of images have the number of their node; firmware and what is no image are numbered beyond them.
FIRMWARE_SETS = (1 << 20, (1 << 20) + 1)
SCREEN_SET = (1 << 20) + 2
_NAMED_SETS = 1 << 24

#: Seconds that opening all files of one change may take.
OPEN_TIMEOUT = 30.0

_IMAGES = {"read": os.O_RDONLY, "write": os.O_RDWR}
_OTHERS = {
    "source": os.O_RDONLY,
    "device": os.O_RDWR,
    "append": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "truncate": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}
_MODES = _IMAGES | _OTHERS
_REFERENCE = re.compile(r"/dev/fdset/(\d+)")


def image(number: int, path: str, *, writable: bool, direct: bool = False) -> Part:
    """An image file or block device; `direct` when QEMU reads it past the host's cache."""
    props = {"path": path, "mode": "write" if writable else "read"} | ({"direct": True} if direct else {})
    return Part("fdset", str(number), props)


def other(name: str, path: str, mode: Literal["source", "device", "append", "truncate"]) -> Part:
    """What is no image: a device file that is read (`source`) or read and written, a file that is written (and made).

    `name` is that of the part it is for.
    """
    return Part("fdset", _number(name), {"path": path, "mode": mode})


def scratch(name: str, path: str, format: str, *, direct: bool) -> Part:
    """A new qcow2 file without a name beside the image at `path`, and as large as that; `direct` as with images."""
    props = {"path": path, "mode": "scratch", "format": format} | ({"direct": True} if direct else {})
    return Part("fdset", _number(name), props)


def _number(name: str) -> str:
    """A set for what is no image of the document, from the name of what it is for."""
    return str(_NAMED_SETS + zlib.crc32(name.encode()) % _NAMED_SETS)


def reference(part: Part) -> str:
    """The file name by which QEMU opens the set."""
    return f"/dev/fdset/{part.id}"


def sets_in(text: str) -> list[int]:
    """The sets that a file name, or a description of one in JSON, names."""
    return [int(number) for number in _REFERENCE.findall(text)]


@contextlib.asynccontextmanager
async def opened(parts: Iterable[Part], *, timeout: float = OPEN_TIMEOUT) -> AsyncIterator[Mapping[str, int]]:
    """Open the files of those parts that are sets, in a thread: set → descriptor; ours are closed at the end.

    Raises HostError naming the file that cannot be opened; OperationTimeout for a dead file system.
    """
    wanted = [part for part in parts if part.kind == "fdset"]
    if not wanted:
        yield {}
        return
    async with _held(_open_all, (wanted,), timeout, ", ".join(str(part.props["path"]) for part in wanted)) as found:
        yield found


@contextlib.asynccontextmanager
async def _held(
    make: Callable[..., dict[str, int]], arguments: tuple[Any, ...], timeout: float, what: str
) -> AsyncIterator[Mapping[str, int]]:
    """Descriptors that `make` opens in a thread, closed at the end, also when nobody waits for them any more."""
    opening = asyncio.ensure_future(asyncio.to_thread(make, *arguments))
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.shield(opening)
    except BaseException as error:
        opening.add_done_callback(_close_late)
        if isinstance(error, TimeoutError):
            raise OperationTimeout(f"opening {what} took more than {timeout:g} s") from error
        raise
    try:
        yield found
    finally:
        _close_all(found)


@contextlib.asynccontextmanager
async def readable(
    paths: Iterable[str | None], account: Account | None, *, timeout: float = OPEN_TIMEOUT
) -> AsyncIterator[Mapping[str, int]]:
    """Copies in memory of those files that QEMU opens by name and that its account may not open: path → descriptor.

    For kernels and the like, which QEMU does not take as a descriptor set. The copies are sealed: nobody changes them.
    Raises HostError naming a file that is not there or cannot be read.
    """
    wanted = [path for path in paths if path is not None]
    if not wanted or account is None:
        yield {}
        return
    async with _held(_copy_all, (wanted, account), timeout, ", ".join(wanted)) as found:
        yield found


def _copy_all(paths: Iterable[str], account: Account) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        for path in paths:
            if path not in found and not account.may(Path(path), os.R_OK):
                found[path] = _copy(path)
    except BaseException:
        _close_all(found)
        raise
    return found


def _copy(path: str) -> int:
    """A sealed copy of a regular file in memory."""
    copy = os.memfd_create(Path(path).name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(path, "rb", buffering=0, opener=_opener) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigUnsupported(f"'{path}' is not a file")
            while os.sendfile(copy, file.fileno(), None, 1 << 30):
                pass
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except BaseException as error:
        os.close(copy)
        if isinstance(error, OSError):
            raise HostError(f"cannot read '{path}' for QEMU: {error.strerror}") from error
        raise
    return copy


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _open_all(parts: Iterable[Part]) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        for part in parts:
            found[part.id] = open_file(part)
    except BaseException:
        _close_all(found)
        raise
    return found


def _close_all(found: Mapping[str, int]) -> None:
    for descriptor in found.values():
        os.close(descriptor)


def _close_late(opening: asyncio.Future[dict[str, int]]) -> None:
    """Nobody waits for the descriptors any more."""
    if not opening.cancelled() and opening.exception() is None:
        _close_all(opening.result())


def open_file(part: Part) -> int:
    """Open one set's file as its part says; the caller closes it. Blocks on the file system."""
    path, mode = part.props["path"], part.props["mode"]
    if mode == "scratch":
        return _open_scratch(Path(path), part.props["format"], _direct(part))
    flags = _MODES[mode] | _direct(part)
    try:
        # Without waiting: a FIFO or a tape in an image's place would hold us for ever.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except OSError as error:
        raise _refused(path, mode, error, direct=bool(flags & os.O_DIRECT)) from error
    try:
        kind = os.fstat(descriptor).st_mode
        if mode in _IMAGES and not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise ConfigUnsupported(f"'{path}' is neither a file nor a block device")
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _direct(part: Part) -> int:
    return os.O_DIRECT if part.props.get("direct") else 0


def _open_scratch(image: Path, format: str, flags: int) -> int:
    """A qcow2 file that is gone when the last descriptor is closed, whoever dies before."""
    size = inspect(image, format).virtual_size
    try:
        descriptor = os.open(image.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except OSError as error:
        raise HostError(
            f"Cannot make a file for what is written to transient disk '{image}': {error.strerror}",
            hint=f"the file system of {image.parent} has to offer O_TMPFILE, and room",
        ) from error
    try:
        # Small writes into an empty image over another: subclusters of 4 KiB spare copying the rest of a cluster.
        options = "lazy_refcounts=on,extended_l2=on,cluster_size=128k"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, f"/proc/self/fd/{descriptor}", str(size)]
        done = subprocess.run(command, pass_fds=(descriptor,), capture_output=True, timeout=OPEN_TIMEOUT, check=False)
        if done.returncode:
            raise HostError(f"qemu-img cannot make a qcow2 file: {done.stderr.decode(errors='replace').strip()[:500]}")
    except (OSError, subprocess.TimeoutExpired) as error:
        os.close(descriptor)
        raise HostError(f"qemu-img cannot make a qcow2 file: {error}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refused(path: str, mode: str, error: OSError, *, direct: bool) -> HostError:
    hint = None
    if error.errno == errno.EINVAL and direct:
        hint = "its file system does not offer direct I/O; choose another cache mode than 'none' or 'directsync'"
    elif error.errno in (errno.EROFS, errno.EACCES) and mode == "write":
        hint = "a disk that is only read is marked <readonly/>"
    return HostError(f"Cannot access storage file '{path}': {error.strerror}", hint=hint)


def with_paths(text: str, parts: Iterable[Part]) -> str:
    """QEMU's words with the files' own names in place of the sets."""
    names = {part.id: str(part.props["path"]) for part in parts if part.kind == "fdset"}
    return _REFERENCE.sub(lambda match: names.get(match[1], match[0]), text)
