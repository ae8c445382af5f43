"""QEMU's own program for image files, as a bounded process: only what the formats of QEMU's need it for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from corral.errors import HostError, InternalError, OperationTimeout

#: Seconds for what does not move data, and bytes a second that moving them must reach.
PATIENCE = 60.0
SLOWEST = 4 << 20
#: Bytes of its complaints that are kept.
WORDS_MAX = 4096

#: libvirt's formats that qemu-img makes.
FORMATS = ("qcow2", "qcow", "qed", "vmdk", "vdi", "vpc")


@dataclass(frozen=True, slots=True)
class Options:
    """What a new image shall be; `preallocation` is qemu-img's word or None."""

    format: str
    compat: str | None = None
    cluster_size: int | None = None
    lazy_refcounts: bool = False
    extended_l2: bool = False
    preallocation: str | None = None
    backing: Path | None = None
    backing_format: str | None = None

    def words(self) -> list[str]:
        """The options as arguments."""
        pairs = [
            ("compat", self.compat),
            ("cluster_size", str(self.cluster_size) if self.cluster_size else None),
            ("lazy_refcounts", "on" if self.lazy_refcounts else None),
            ("extended_l2", "on" if self.extended_l2 else None),
            ("preallocation", self.preallocation),
        ]
        text = ",".join(f"{name}={value}" for name, value in pairs if value is not None)
        return ["-o", text] if text else []


async def create(path: Path, capacity: int | None, options: Options) -> None:
    """Make an image in the file at `path`, which is there already; without capacity it has its backing image's."""
    words = ["create", "-q", "-f", options.format, *options.words()]
    if options.backing is not None:
        words += ["-b", str(options.backing), "-F", options.backing_format or "raw"]
    await run([*words, "--", str(path), *([str(capacity)] if capacity is not None else [])], capacity)


async def convert(source: Path, format: str, target: Path, options: Options, size: int) -> None:
    """Copy an image of a format into the file at `target`; `size` bytes at most are moved."""
    words = ["convert", "-q", "-f", format, "-O", options.format, *options.words()]
    if options.backing is not None:
        words += ["-B", str(options.backing), "-F", options.backing_format or "raw"]
    await run([*words, "--", str(source), str(target)], size)


async def resize(path: Path, format: str, capacity: int, *, shrink: bool, allocate: bool) -> None:
    """Change an image's capacity."""
    words = ["resize", "-q", "-f", format]
    words += ["--shrink"] if shrink else []
    words += ["--preallocation=falloc"] if allocate else []
    await run([*words, "--", str(path), str(capacity)], capacity if allocate else 0)


async def run(words: list[str], size: int | None) -> None:
    """Run qemu-img; InternalError with its own words when it fails, OperationTimeout when it does not end."""
    program = shutil.which("qemu-img")
    if program is None:
        raise InternalError("unable to find qemu-img", hint="install qemu-utils")
    limit = PATIENCE + (size or 0) / SLOWEST
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise HostError(f"cannot run {program}: {error.strerror}") from error
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(limit):
            while piece := await process.stderr.read(65536):
                said = (said + piece)[:WORDS_MAX]
            status = await process.wait()
    except TimeoutError as error:
        raise OperationTimeout(f"qemu-img {words[0]} took more than {limit:.0f} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if status:
        text = said.decode("utf-8", "replace").strip() or f"exit status {status}"
        raise InternalError(f"qemu-img {words[0]} failed: {text}")
