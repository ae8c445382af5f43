"""Image files before QEMU opens them: format, size, backing chain, and whether a running process holds them.

The format of a disk that a guest can write is never guessed: a guest that writes a qcow2 header into its raw disk would
otherwise choose which host file it reads next. Headers: QEMU's docs/interop/qcow2; locks: docs/system/images, bytes
100 and 200 upwards hold one byte a permission.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Image:
    """One file of a chain; sizes in bytes; `backing_path` as the header says it (relative to the image's folder)."""

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
    raise NotImplementedError


def detect(path: Path) -> str:
    """`qcow2` or `raw`, by the header: only for images that no guest has written (downloads, templates)."""
    raise NotImplementedError


async def chain(path: Path, format: str = "raw", *, timeout: float = 30.0) -> list[Image]:
    """The image and its backing images, top first, read in a thread; a backing image without a format is `raw`.

    Raises ConfigUnsupported for a chain that is a loop or deeper than 200, HostError for a missing image (named).
    """
    raise NotImplementedError


def in_use(path: Path, *, writable: bool) -> bool:
    """Whether another process (QEMU, qemu-img) has it open in a way that excludes ours."""
    raise NotImplementedError
