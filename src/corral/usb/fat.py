"""A folder as a FAT32 image, made in a temporary file: what a stick is filled with.

"Microsoft Extensible Firmware Initiative FAT32 File System Specification", version 1.03 (FAT). The volume is made once;
what the guest writes stays in the temporary file.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from corral.errors import HostError, InvalidArgument
from corral.usb.medium import Image

_SECTOR = 512
_RESERVED = 32
_END = 0x0FFFFFFF
_MEDIA = 0xF8
_DIRECTORY, _ARCHIVE, _READ_ONLY, _VOLUME, _LONG = 0x10, 0x20, 0x01, 0x08, 0x0F
_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
_MIN_CLUSTERS = 65525 + 16
"""Fewer make it a FAT16 volume, whatever its boot sector says (3.5)."""
_MAX_FILE = 0xFFFFFFFF
_MAX_DIRECTORY = 65536 * 32
_MAX_FILES = 1 << 16
_MAX_DEPTH = 32
_FORBIDDEN = dict.fromkeys((*range(32), *b'"*/:<>?\\|', 127), "_")
_SHORT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")

DEFAULT_FREE: Final = 64 << 20
"""Bytes of room for what the guest writes."""


@dataclass(slots=True)
class _Node:
    """A file or a folder of the image."""

    name: str
    path: Path
    size: int
    modified: float
    read_only: bool
    children: list[_Node] | None = None
    parent: _Node | None = None
    first: int = 0
    entries: bytes = field(default=b"", repr=False)

    @property
    def bytes(self) -> int:
        return self.size if self.children is None else max(len(self.entries), 1)


def image(folder: Path, *, free: int = DEFAULT_FREE, label: str = "CORRAL", read_only: bool = False) -> Image:
    """A medium with the files under `folder`, and `free` bytes of room (at least; none when read-only).

    Blocks while it copies: call it in a thread. Symbolic links and special files are left out. Raises HostError when a
    file cannot be read, InvalidArgument for what FAT32 cannot hold (files of 4 GiB, too many names in one folder).
    """
    try:
        tree = _scan(folder)
        with tempfile.TemporaryFile(prefix="corral-usb-") as file:
            _Volume(tree, 0 if read_only else free, label).write(file)
            file.flush()
            return Image(file, read_only=read_only)
    except OSError as error:
        raise HostError(f"cannot make a stick of {error.filename or folder}: {error.strerror}") from error


def _scan(folder: Path) -> _Node:
    """The folder's tree, names in order. Bounded in number and depth."""
    budget = [_MAX_FILES]
    root = folder.stat()
    if not stat.S_ISDIR(root.st_mode):
        raise InvalidArgument(f"{folder} is not a folder")

    def scan(path: Path, depth: int) -> list[_Node]:
        if depth > _MAX_DEPTH:
            raise InvalidArgument(f"{path} is more than {_MAX_DEPTH} folders deep")
        nodes: list[_Node] = []
        names: set[str] = set()
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            facts = entry.stat(follow_symlinks=False)
            budget[0] -= 1
            if budget[0] < 0:
                raise InvalidArgument(f"{folder} has more than {_MAX_FILES} files")
            is_folder = stat.S_ISDIR(facts.st_mode)
            if not is_folder and not stat.S_ISREG(facts.st_mode):
                continue
            if not is_folder and facts.st_size > _MAX_FILE:
                raise InvalidArgument(f"{entry.path} is larger than a file on FAT32 can be, 4 GiB")
            name = entry.name.translate(_FORBIDDEN)
            if name.lower() in names:
                raise InvalidArgument(f"{entry.path}: FAT32 cannot tell its name from another one's in the folder")
            names.add(name.lower())
            children = scan(Path(entry.path), depth + 1) if is_folder else None
            size = 0 if is_folder else facts.st_size
            locked = not facts.st_mode & stat.S_IWUSR
            nodes.append(_Node(name, Path(entry.path), size, facts.st_mtime, locked, children))
        return nodes

    top = _Node("", folder, 0, root.st_mtime, False, scan(folder, 0))
    for node in _walk(top):
        for child in node.children or ():
            child.parent = node
    return top


class _Volume:
    """Where everything goes: boot sectors, two FATs, then the clusters of folders and files, one after another."""

    def __init__(self, root: _Node, free: int, label: str) -> None:
        self._root = root
        self._label = label.upper().encode("ascii", "replace")[:11].ljust(11)
        # The lengths of the folders are known before the places in them.
        for node in _walk(root):
            if node.children is not None:
                node.entries = self._directory(node)
                if len(node.entries) > _MAX_DIRECTORY:
                    raise InvalidArgument(f"{node.path} has more names than a folder on FAT32 can hold")
        total = sum(node.bytes for node in _walk(root)) + free
        # Clusters of 4 KiB when there are enough of them, larger ones when the table would grow past 16 MiB.
        wanted = (1, 2, 4, 8) if total < 16 << 30 else (64,)
        self._sectors = max(n for n in wanted if n == wanted[0] or total // (n * _SECTOR) >= _MIN_CLUSTERS)
        self._cluster = self._sectors * _SECTOR
        used = sum(self._count(node) for node in _walk(root))
        self._clusters = max(used + -(-free // self._cluster), _MIN_CLUSTERS)
        if self._clusters > 0x0FFFFFF0:
            raise InvalidArgument(f"{root.path} is too large for FAT32")
        self._fat_sectors = -(-(self._clusters + 2) * 4 // _SECTOR)
        self._used = used

    def _count(self, node: _Node) -> int:
        return -(-node.bytes // self._cluster)

    def _place(self) -> bytes:
        """Give every file and folder its clusters; the table that says so."""
        table = [0x0FFFFF00 | _MEDIA, _END]
        for node in _walk(self._root):
            count = self._count(node)
            if count:
                node.first = len(table)
                table += range(node.first + 1, node.first + count)
                table.append(_END)
        return struct.pack(f"<{len(table)}I", *table)

    def write(self, file: BinaryIO) -> None:
        """Write the volume; the rest of the file stays a hole."""
        table = self._place()
        data_start = (_RESERVED + 2 * self._fat_sectors) * _SECTOR
        file.truncate(data_start + self._clusters * self._cluster)
        boot = self._boot_sector(data_start)
        for sector in (0, 6):
            file.seek(sector * _SECTOR)
            file.write(boot + self._information())
        for copy in range(2):
            file.seek((_RESERVED + copy * self._fat_sectors) * _SECTOR)
            file.write(table)
        for node in _walk(self._root):
            if not node.first:
                continue
            file.seek(data_start + (node.first - 2) * self._cluster)
            if node.children is not None:
                file.write(self._directory(node))
            else:
                _copy(node, file)

    def _boot_sector(self, data_start: int) -> bytes:
        """The BIOS parameter block (3.1, 3.3)."""
        sectors = data_start // _SECTOR + self._clusters * self._sectors
        block = struct.pack(
            "<3s8sHBHBHHBHHHII",
            *(b"\xeb\x58\x90", b"CORRAL  ", _SECTOR, self._sectors, _RESERVED, 2, 0, 0, _MEDIA, 0, 63, 255, 0, sectors),
        )
        extended = struct.pack("<IHHIHH12x", self._fat_sectors, 0, 0, 2, 1, 6)
        identity = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x434F5252, self._label, b"FAT32   ")
        return (block + extended + identity).ljust(510, b"\0") + b"\x55\xaa"

    def _information(self) -> bytes:
        """FSInfo (5): how many clusters are free, and where to look for them."""
        head = struct.pack("<4s480x4sII12x", b"RRaA", b"rrAa", self._clusters - self._used, self._used + 2)
        return head + b"\x00\x00\x55\xaa"

    def _directory(self, node: _Node) -> bytes:
        """A folder's entries (6), each with its long name (7)."""
        assert node.children is not None
        entries: list[bytes] = []
        if node is self._root:
            entries.append(_ENTRY.pack(self._label, _VOLUME, *[0] * 10))
        else:
            # The root counts as cluster 0 (6.5).
            parent = node.parent.first if node.parent is not None and node.parent is not self._root else 0
            entries.append(_entry(b".          ", _DIRECTORY, node.first, 0, node.modified))
            entries.append(_entry(b"..         ", _DIRECTORY, parent, 0, node.modified))
        taken: set[bytes] = set()
        for child in node.children:
            short = _short_name(child.name, taken)
            entries += _long_entries(child.name, short)
            kind = (_ARCHIVE if child.children is None else _DIRECTORY) | (_READ_ONLY if child.read_only else 0)
            entries.append(_entry(short, kind, child.first, child.size, child.modified))
        return b"".join(entries)


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.children or ():
        yield from _walk(child)


def _copy(node: _Node, file: BinaryIO) -> None:
    """A file's bytes as long as it was when the volume was laid out; zeros where it has shrunk since."""
    with node.path.open("rb") as source:
        left = node.size
        while left and (data := source.read(min(left, 1 << 20))):
            file.write(data)
            left -= len(data)


def _entry(name: bytes, attributes: int, first: int, size: int, modified: float) -> bytes:
    day, moment = _stamp(modified)
    high, low = first >> 16, first & 0xFFFF
    return _ENTRY.pack(name, attributes, 0, 0, moment, day, day, high, moment, day, low, size)


def _stamp(seconds: float) -> tuple[int, int]:
    """Date and time of day as FAT has them, from 1980 to 2107 in steps of two seconds."""
    when = time.localtime(min(max(seconds, 315619200), 4354819199))
    return (when.tm_year - 1980) << 9 | when.tm_mon << 5 | when.tm_mday, (
        when.tm_hour << 11 | when.tm_min << 5 | when.tm_sec // 2
    )


def _short_name(name: str, taken: set[bytes]) -> bytes:
    """A name of 8 and 3 characters that no other in the folder has; with a number unless the name is one (7.4)."""
    stem, dot, ending = name.rpartition(".")
    if not stem:
        stem, ending = name, ""
    base, extension = _letters(stem), _letters(ending)[:3]
    plain = base.ljust(8)[:8] + extension.ljust(3)
    if (
        name.upper() == name
        and len(base) <= 8
        and (base + (b"." if dot and stem else b"") + extension) == name.encode("ascii", "replace")
        and plain not in taken
    ):
        taken.add(plain)
        return plain
    for number in range(1, 1000000):
        tail = b"~%d" % number
        short = (base[: 8 - len(tail)] + tail).ljust(8) + extension.ljust(3)
        if short not in taken:
            taken.add(short)
            return short
    raise InvalidArgument(f"too many names like {name!r} in one folder")


def _letters(text: str) -> bytes:
    upper = text.upper().replace(" ", "").replace(".", "").encode("ascii", "replace")
    return bytes(letter if letter in _SHORT else 0x5F for letter in upper)


def _long_entries(name: str, short: bytes) -> list[bytes]:
    """The entries of a long name, last part first (7)."""
    units = name.encode("utf-16-le", "replace")
    if len(units) > 255 * 2:
        raise InvalidArgument(f"{name!r} is longer than a name on FAT32 can be, 255 characters")
    check = 0
    for letter in short:
        check = ((check & 1) << 7) + (check >> 1) + letter & 0xFF
    units += b"\0\0" if len(units) % 26 else b""
    parts = -(-len(units) // 26)
    entries = []
    for part in range(parts, 0, -1):
        piece = units[(part - 1) * 26 : part * 26].ljust(26, b"\xff")
        order = part | (0x40 if part == parts else 0)
        entries.append(struct.pack("<B10sBBB12sH4s", order, piece[:10], _LONG, 0, check, piece[10:22], 0, piece[22:]))
    return entries
