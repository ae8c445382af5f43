"""Image files before QEMU opens them: format, size, backing chain, and whether a running process holds them.

The format of a disk that a guest can write is never guessed: a guest that writes a qcow2 header into its raw disk would
otherwise choose which host file it reads next. Locks: QEMU's "image locking", one byte of the file for each permission,
from 100 on for what is used and from 200 on for what others may not have. Headers are read by `host.images`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

from corral.errors import ConfigUnsupported, HostError
from corral.host.images import Image, detect, inspect, opener

__all__ = ["MAX_DEPTH", "Image", "chain", "detect", "in_use", "inspect"]

#: More images than this on one another are a mistake (libvirt's own limit).
MAX_DEPTH = 200


# Permission bytes: consistent read, write.
_USED, _REFUSED = 100, 200
_READ, _WRITE = 0, 1
_FLOCK = struct.Struct("hhqqi4x")


def chain(path: Path, format: str = "raw") -> list[Image]:
    """The image and its backing images, top first; blocks on the file system.

    Raises ConfigUnsupported for a loop, for a chain deeper than 200, and for a backing image that is not raw and whose
    format is not written down; HostError for a missing image (named).
    """
    images = [_whole(inspect(path, format))]
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
        images.append(_whole(_inspect_backing(below, above)))
    return images


def in_use(path: Path, *, writable: bool) -> bool:
    """Whether another process (QEMU, qemu-img) has it open in a way that excludes ours; False if it cannot be told."""
    with contextlib.suppress(OSError), open(path, "rb", buffering=0, opener=opener) as file:
        if _locked(file.fileno(), _USED + _WRITE):
            return True
        return _locked(file.fileno(), _REFUSED + (_WRITE if writable else _READ))
    return False


def _locked(descriptor: int, byte: int) -> bool:
    """Whether somebody else holds a lock on that byte (open file description locks, fcntl(2))."""
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query))[0] != fcntl.F_UNLCK)


def _whole(image: Image) -> Image:
    """The image, if its bytes are in its own file: QEMU would open another by name, past all that we look after."""
    if image.data_file is not None:
        raise ConfigUnsupported(
            f"image '{image.path}' has its data in another file, '{image.data_file[:200]}', which is not supported",
            hint=f"qemu-img convert -O qcow2 '{image.path}' NEW makes one of both",
        )
    return image


def _inspect_backing(below: Path, above: Image) -> Image:
    """What lies below an image; errors say below which."""
    try:
        return inspect(below, above.backing_format or "raw")
    except HostError as error:
        reason = str(error).rpartition(": ")[2]
        raise HostError(
            f"Cannot access backing file '{below}' of storage file '{above.path}': {reason}",
            hint=f"put it back, or name another: qemu-img rebase -u -b FILE -F FORMAT '{above.path}'",
        ) from error
    except ConfigUnsupported as error:
        raise ConfigUnsupported(f"backing file '{below}' of storage file '{above.path}': {error.detail}") from error


def _backing_file(image: Path, named: str) -> Path:
    """The file that an image names: `file:` is a plain path, other protocols and JSON are not ours."""
    path = named.removeprefix("file:")
    if path == named and (named.startswith("json:") or ":" in named.partition("/")[0]):
        raise ConfigUnsupported(f"backing image '{named[:200]}' of '{image}' is not a local file")
    return image.parent / path
