"""An initramfs as the kernel takes it: cpio's "newc" format.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from typing import BinaryIO

_ALIGN = 4


class Archive:
    """Writes entries one after another to `out`; parent folders are made by themselves, owners are all root."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._folders: set[str] = set()
        self._inode = 0

    def file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """A regular file at `path`, without leading slash."""
        self._parents(path)
        self._entry(path, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link at `path`."""
        self._parents(path)
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def folder(self, path: str) -> None:
        """A folder and all above it; a second time does nothing."""
        if path and path not in self._folders:
            self._parents(path)
            self._folders.add(path)
            self._entry(path, stat.S_IFDIR | 0o755, b"")

    def character_device(self, path: str, major: int, minor: int) -> None:
        """A device node: no privilege is needed to write one into an archive."""
        self._parents(path)
        self._entry(path, stat.S_IFCHR | 0o600, b"", major, minor)

    def finish(self) -> None:
        """Write the trailer; the archive is whole."""
        self._inode = -1
        self._entry("TRAILER!!!", 0, b"")

    def _parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent:
            self.folder(parent)

    def _entry(self, path: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self._out.write(head + bytes(-len(head) % _ALIGN) + data + bytes(-len(data) % _ALIGN))
