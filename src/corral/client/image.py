"""What a file is that somebody wants to run: told by its first bytes, and refused with what to do when it is no disk.

Formats: the magic numbers of QEMU's image formats, ISO 9660 (ECMA-119, 8.1), and the compressors' own documents.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from corral.errors import InvalidArgument

Kind = Literal["qcow2", "raw", "cd"]

ISO_AT, ISO_MAGIC = 0x8001, b"CD001"
LOOK = 512
#: Disk images that Corral does not run as they are: magic, qemu-img's name of the format, what people call it.
FOREIGN = (
    (0, b"KDMV", "vmdk", "a VMware disk (vmdk)"),
    (0, b"# Disk Descript", "vmdk", "the description of a VMware disk (vmdk)"),
    (64, b"\x7f\x10\xda\xbe", "vdi", "a VirtualBox disk (vdi)"),
    (0, b"vhdxfile", "vhdx", "a Hyper-V disk (vhdx)"),
    (0, b"conectix", "vpc", "a Hyper-V disk (vhd)"),
    (0, b"QED\0", "qed", "a QED disk"),
)
#: What disk images are packed with, and what unpacks it.
PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip --keep"),
    (b"\xfd7zXZ\0", "xz", "unxz --keep"),
    (b"BZh", "bzip2", "bunzip2 --keep"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"PK\x03\x04", "zip", "unzip"),
)
QCOW2_MAGIC = b"QFI\xfb"
#: Endings that promise a format, which the first bytes must then keep.
PROMISES = (".qcow2", ".qcow", ".vmdk", ".vdi", ".vhdx", ".vhd")
#: Bytes that no text has.
BINARY = bytes(range(7)) + bytes(range(14, 27)) + b"\x7f"

#: What to do about a disk that is neither.
SIZE_OR_FILE = "write the size of a new one, such as 20G, or the path of an image that is there"


def there(name: str) -> bool:
    """Whether the file may be there: also where it cannot be seen."""
    try:
        Path(name).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return bool(name)


def look(name: str) -> tuple[Path, Kind, bool]:
    """The file's whole path, what it is, and whether it is a block device; blocks on the file system.

    InvalidArgument says what it is instead of a disk or CD, and what to do.
    """
    path = Path(name).expanduser().absolute()
    try:
        # Without waiting: opening a FIFO for reading waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(descriptor)
            if stat.S_ISDIR(facts.st_mode):
                raise InvalidArgument(f"image {name}: Is a directory")
            if not stat.S_ISREG(facts.st_mode) and not stat.S_ISBLK(facts.st_mode):
                raise InvalidArgument(
                    f"image {name} is {_special(facts.st_mode)}", hint="a machine needs a file or a block device"
                )
            start = os.pread(descriptor, LOOK, 0)
            is_cd = os.pread(descriptor, len(ISO_MAGIC), ISO_AT) == ISO_MAGIC
        finally:
            os.close(descriptor)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        hint = "IMAGE is tiny, or the path of a disk image or .iso" if missing else None
        raise InvalidArgument(f"image {name}: {error.strerror}", hint=hint) from error
    return path, _kind(name, start, is_cd), stat.S_ISBLK(facts.st_mode)


def refuse_borrowed(name: str, start: bytes) -> None:
    """Raise for a qcow2 header that names another file in an image that is not called qcow2.

    A guest that has written to a raw disk may have put the header there, to read that file of the host.
    """
    below = int.from_bytes(start[8:16]) != 0
    apart = int.from_bytes(start[4:8]) >= 3 and int.from_bytes(start[72:80]) & 1 << 2 != 0
    if (below or apart) and Path(name).suffix.lower() not in (".qcow2", ".qcow"):
        what = "a backing file" if below else "a data file"
        raise InvalidArgument(
            f"image {name} looks like qcow2 with {what}, but is not called so: a guest may have written that",
            hint="if you made it as qcow2, call it .qcow2; if it is a raw disk, name the format: --image-format raw",
        )


def _special(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a pipe (FIFO)"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a character device"))
    return next((text for test, text in kinds if test(mode)), "no file")


def _kind(name: str, start: bytes, is_cd: bool) -> Kind:
    if not start:
        raise InvalidArgument(f"image {name} is empty", hint="qemu-img create -f qcow2 FILE 20G makes an empty disk")
    if start.startswith(QCOW2_MAGIC):
        refuse_borrowed(name, start)
        return "qcow2"
    for at, magic, kind, what in FOREIGN:
        if start[at:].startswith(magic):
            new = Path(name).with_suffix(".qcow2").name
            if new == Path(name).name:  # a foreign disk that is called as if it were one of ours
                new = f"{Path(name).stem}-converted.qcow2"
            raise InvalidArgument(
                f"image {name} is {what}",
                hint=f"qemu-img convert -f {kind} -O qcow2 '{name}' '{new}' makes a disk of it",
            )
    for magic, kind, command in PACKED:
        if start.startswith(magic):
            raise InvalidArgument(f"image {name} is packed with {kind}", hint=f"unpack it first: {command} '{name}'")
    if is_cd:
        return "cd"
    ending = Path(name).suffix.lower()
    if ending in PROMISES:
        raise InvalidArgument(
            f"image {name} is called {ending} but is none: its first bytes say otherwise",
            hint="was it fetched completely? if it is a raw disk after all, call it .img",
        )
    if ending == ".iso":
        raise InvalidArgument(f"image {name} is called .iso but is no CD image", hint="was it fetched completely?")
    if start.translate(None, BINARY) == start:
        what = "a web page" if b"<html" in start.lower() or b"<!doctype html" in start.lower() else "text"
        raise InvalidArgument(f"image {name} is {what}, not a disk", hint="was it fetched completely?")
    return "raw"
