"""Directories brought into a guest and fetched from it, as tar archives that pass through its agent.

What a guest sends is not trusted: an archive may not name anything outside the directory that it becomes, links are
made after all else, so that nothing is written through one, and devices are left out.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from corral.client.execution import STDERR
from corral.errors import AgentCommandFailed, HostError

if TYPE_CHECKING:
    from corral.client.domain import Domain

PIECE = 1 << 20
_UNPACK = '{ [ -d "$0" ] || mkdir "$0"; } && exec tar -xf - -C "$0"'


async def is_directory(domain: Domain, path: str) -> bool:
    """Whether the guest has a directory there; a guest that cannot tell has none that could be copied."""
    try:
        return (await domain.exec(["test", "-d", path])).status == 0
    except AgentCommandFailed:
        return False


async def bring(domain: Domain, source: Path, path: str, progress: Callable[[int], None]) -> None:
    """Make the guest's directory `path` of ours, `source`; `progress` is told the bytes that are done.

    Everything belongs to the guest's root. AgentCommandFailed with the guest's reason, HostError with ours.
    """
    with tempfile.TemporaryFile() as archive:
        await asyncio.to_thread(_pack, source, archive)
        archive.seek(0)
        result = await domain.exec(["sh", "-c", _UNPACK, path], stdin=_pieces(archive, progress))
    if result.status:
        raise AgentCommandFailed(f"{domain.name}: {result.stderr.decode(errors='replace').strip() or path}")


async def fetch(domain: Domain, path: str, archive: BinaryIO, progress: Callable[[int], None]) -> None:
    """Write the guest's directory `path` to `archive`, as a tar archive; AgentCommandFailed with the guest's reason."""
    words, done = bytearray(), 0
    async with domain.execution(["tar", "-cf", "-", "-C", path, "."]) as running:
        async for number, data in running:
            if number == STDERR:
                words += data[: 4096 - len(words)]
                continue
            await asyncio.to_thread(archive.write, data)
            done += len(data)
            progress(done)
    if running.truncated:
        raise AgentCommandFailed(f"{domain.name}: the agent holds no more than 16 MiB of {path}")
    if running.status:
        raise AgentCommandFailed(f"{domain.name}: {words.decode(errors='replace').strip() or path}")


def unpack(archive: BinaryIO, root: Path) -> list[str]:
    """Make the new directory `root` of a guest's archive, all of it or nothing; the names of what was left out.

    HostError when there is something already or it cannot be written, AgentCommandFailed for what no guest's tar sends.
    """
    if os.path.lexists(root):
        raise HostError(f"{root} is there already", hint="name another, or remove it first")
    try:
        draft = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
        try:
            with tarfile.open(fileobj=archive, mode="r:") as tar:
                left_out = _unpack(tar, draft)
            draft.rename(root)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except tarfile.TarError as error:
        raise AgentCommandFailed(f"what the guest sent is no tar archive: {error}") from error
    except OSError as error:
        raise HostError(f"{root}: {error.strerror or error}") from error
    return left_out


def _pack(source: Path, archive: BinaryIO) -> None:
    def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry if entry.isfile() or entry.isdir() or entry.issym() or entry.islnk() else None

    try:
        with tarfile.open(fileobj=archive, mode="w:", format=tarfile.GNU_FORMAT) as tar:
            tar.add(source, arcname=".", filter=owned_by_root)
    except OSError as error:
        raise HostError(f"{error.filename or source}: {error.strerror}") from error


def _unpack(tar: tarfile.TarFile, root: Path) -> list[str]:
    left_out: list[str] = []
    links: list[tuple[Path, str]] = []
    modes: list[tuple[Path, int]] = [(root, 0o755)]
    for entry in tar:
        place = root / _inside(entry.name)
        if entry.isdir():
            place.mkdir(parents=True, exist_ok=True)
            modes.append((place, entry.mode & 0o777))
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.issym():
            links.append((place, entry.linkname))
        elif entry.islnk():
            place.hardlink_to(root / _inside(entry.linkname))
        elif entry.isfile() and (content := tar.extractfile(entry)) is not None:
            with place.open("xb") as file:
                shutil.copyfileobj(content, file, PIECE)
            place.chmod(entry.mode & 0o777)
        else:
            left_out.append(entry.name)
    for place, target in links:
        place.symlink_to(target)
    for place, mode in reversed(modes):  # the innermost first: a directory may lose our right to write
        place.chmod(mode)
    return left_out


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise AgentCommandFailed(f"the guest's archive names '{name}', which is outside its directory")
    return path


def _pieces(file: BinaryIO, progress: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    while data := file.read(PIECE):
        yield data
        done += len(data)
        progress(done)
