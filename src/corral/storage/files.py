"""What a directory holds, as volumes: each file's size, format, owner and times. Everything here blocks."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corral.errors import ConfigUnsupported, HostError
from corral.host import images

#: Entries of a directory that are looked at; more cannot be listed over the wire either.
ENTRIES_MAX = 16384

Kind = Literal["file", "block", "dir"]


@dataclass(frozen=True, slots=True)
class File:
    """One volume; sizes in bytes, times in nanoseconds since 1970.

    `capacity` is what a guest sees, `physical` the file's size, `allocation` the blocks it takes. `backing` is the
    image below, absolute, None when there is none or it is not a local file.
    """

    name: str
    path: Path
    kind: Kind
    format: str
    capacity: int
    allocation: int
    physical: int
    mode: int
    owner: int
    group: int
    times: tuple[int, int, int]
    backing: Path | None = None
    backing_format: str | None = None
    compat: str | None = None
    cluster_size: int = 0
    lazy_refcounts: bool = False
    extended_l2: bool = False


@dataclass(frozen=True, slots=True)
class Space:
    """The file system that a directory is on: bytes in all, taken, and free for us."""

    capacity: int = 0
    allocation: int = 0
    available: int = 0


def look(path: Path) -> File | None:
    """The volume at `path`, or None for what is none: sockets, FIFOs, character devices.

    HostError when it is gone or cannot be read.
    """
    try:
        facts = path.stat()  # follows links, as whoever uses the volume will
    except OSError as error:
        raise HostError(f"cannot stat file '{path}': {error.strerror}") from error
    times = (facts.st_atime_ns, facts.st_mtime_ns, facts.st_ctime_ns)
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISDIR(facts.st_mode):
        return File(path.name, path, "dir", "dir", 0, 0, 0, mode, facts.st_uid, facts.st_gid, times)
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISBLK(facts.st_mode):
        return None
    image = images.probe(path)
    backing = _backing(path, image.backing_path)
    return File(
        name=path.name,
        path=path,
        kind="block" if image.is_block else "file",
        format=image.format,
        capacity=image.virtual_size,
        allocation=image.allocated,
        physical=image.allocated if image.is_block else facts.st_size,
        mode=mode,
        owner=facts.st_uid,
        group=facts.st_gid,
        times=times,
        backing=backing,
        backing_format=(image.backing_format or "raw") if backing else None,
        compat={2: "0.10", 3: "1.1"}.get(image.version),
        cluster_size=image.cluster_size,
        lazy_refcounts=image.lazy_refcounts,
        extended_l2=image.extended_l2,
    )


def _backing(path: Path, named: str | None) -> Path | None:
    if named is None:
        return None
    plain = named.removeprefix("file:")
    if plain == named and (named.startswith("json:") or ":" in named.partition("/")[0]):
        return None
    return Path(os.path.normpath(path.parent / plain))


def scan(directory: Path) -> list[File]:
    """Every volume of a directory, by name; files that vanish or may not be read meanwhile are left out.

    HostError when the directory cannot be read; ConfigUnsupported when it holds too much.
    """
    found: list[File] = []
    try:
        with os.scandir(directory) as entries:
            for count, entry in enumerate(entries):
                if count >= ENTRIES_MAX:
                    raise ConfigUnsupported(f"directory '{directory}' has more than {ENTRIES_MAX} entries")
                if not entry.name.isprintable():
                    continue  # an XML document, or a terminal, could not show it
                with contextlib.suppress(HostError, ConfigUnsupported):
                    file = look(directory / entry.name)
                    if file is not None:
                        found.append(file)
    except OSError as error:
        raise HostError(f"cannot open directory '{directory}': {error.strerror}") from error
    return sorted(found, key=lambda file: file.name)


def space(directory: Path) -> Space:
    """How much the file system below a directory holds."""
    try:
        facts = os.statvfs(directory)
    except OSError as error:
        raise HostError(f"cannot statvfs path '{directory}': {error.strerror}") from error
    capacity, available = facts.f_blocks * facts.f_frsize, facts.f_bfree * facts.f_frsize
    return Space(capacity, capacity - available, available)
