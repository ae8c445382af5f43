"""`corral cp`: files to and from a machine's guest, through its agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from corral.cli.options import Connect
from corral.cli.output import size
from corral.cli.progress import Progress
from corral.cli.target import find, refuse_unless_running, run
from corral.client import guest_trees
from corral.errors import AgentCommandFailed, HostError, InvalidArgument

if TYPE_CHECKING:
    from corral.client.domain import Domain

PIECE = 1 << 20
NO_PROGRAM = 127  # a guest without chmod is no Unix


def cp(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file or directory: PATH here, or NAME:PATH in one.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The same; a directory keeps the file's name.")],
    connect: Connect = None,
) -> None:
    """Copy a file or a directory into a machine or out of it, through its guest agent.

    `-` is standard input or output; a directory comes out there as a tar archive.

    corral cp web:/etc/os-release .

    corral cp ./app.conf web:/etc/

    corral cp web:/var/log ./logs
    """
    there, here = _parted(source), _parted(target)
    if bool(there) == bool(here):
        what = "both are in machines" if there else "neither is in a machine"
        raise InvalidArgument(
            f"{what}: {source}, {target}", hint="write one of them as NAME:PATH, as in web:/etc/hosts"
        )
    if there:
        run(_fetch(connect, *there, target))
    elif here and Path(source).is_dir():
        run(_bring_tree(connect, Path(source).resolve(), *here))
    elif here:
        run(_bring(connect, source, *here))


def _parted(text: str) -> tuple[str, str] | None:
    """Machine and path of `NAME:PATH`; a path with a slash before its first colon is one of ours."""
    name, colon, path = text.partition(":")
    if not colon or not name or "/" in name:
        return None
    if not path:
        raise InvalidArgument(f"'{text}' names no file", hint=f"write {name}:/PATH")
    return name, path


async def _fetch(uri: str | None, name: str, path: str, target: str) -> None:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        await refuse_unless_running(domain)
        if await guest_trees.is_directory(domain, path):
            await _fetch_tree(domain, path, target)
            return
        with (
            Progress(f"copying {path} from {domain.name}") as progress,
            output(target, PurePosixPath(path).name) as out,
        ):
            done = 0
            async for data in domain.read_file(path):
                out.write(data)
                done += len(data)
                _tell(progress, f"copying {path} from {domain.name}", done)


async def _fetch_tree(domain: Domain, path: str, target: str) -> None:
    doing = f"copying {path} from {domain.name}"
    with Progress(doing) as progress:
        if target == "-":
            await guest_trees.fetch(domain, path, sys.stdout.buffer, lambda done: _tell(progress, doing, done))
            sys.stdout.buffer.flush()
            return
        root = _place(target, PurePosixPath(path).name)
        with tempfile.TemporaryFile() as archive:
            await guest_trees.fetch(domain, path, archive, lambda done: _tell(progress, doing, done))
            archive.seek(0)
            left_out = await asyncio.to_thread(guest_trees.unpack, archive, root)
    if left_out:
        print(f"corral: devices and the like were left out: {', '.join(left_out[:5])}", file=sys.stderr)


def _place(target: str, name: str) -> Path:
    """Where a copy of that name goes: into `target` where it is a directory of ours, else it becomes that."""
    return Path(target) / name if Path(target).is_dir() else Path(target)


async def _bring_tree(uri: str | None, source: Path, name: str, path: str) -> None:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        await refuse_unless_running(domain)
        doing = f"copying {source} to {domain.name}"
        if path.endswith("/") or await guest_trees.is_directory(domain, path):
            path = f"{path.rstrip('/')}/{source.name}"
        with Progress(doing) as progress:
            await guest_trees.bring(domain, source, path, lambda done: _tell(progress, doing, done))


async def _bring(uri: str | None, source: str, name: str, path: str) -> None:
    from corral.client.host import connect

    with _input(source) as file:
        async with connect(uri) as host:
            domain = await find(host, name)
            await refuse_unless_running(domain)
            if path.endswith("/"):
                path += _own_name(source, path)
            with Progress(f"copying {source} to {domain.name}") as progress:
                pieces = _pieces(file, progress, f"copying {source} to {domain.name}")
                try:
                    await domain.write_file(path, pieces)
                except AgentCommandFailed as error:
                    if "Is a directory" not in str(error):
                        raise
                    path = f"{path}/{_own_name(source, path)}"
                    await domain.write_file(path, pieces)
            mode = os.fstat(file.fileno()).st_mode
            await _set_mode(domain, path, mode & 0o777 if stat.S_ISREG(mode) else 0o644)


async def _set_mode(domain: Domain, path: str, mode: int) -> None:
    """The mode that the file has here: agents let everybody write to what they make."""
    result = await domain.exec(["chmod", f"{mode:o}", path])
    if result.status not in (0, NO_PROGRAM):
        raise AgentCommandFailed(f"{domain.name}: {result.stderr.decode(errors='replace').strip()}")


def _tell(progress: Progress, doing: str, done: int) -> None:
    if sys.stderr.isatty():  # elsewhere it would be a line a piece
        progress(f"{doing}: {size(done >> 10)}")


def _own_name(source: str, path: str) -> str:
    if source == "-":
        raise InvalidArgument(f"{path} is a directory", hint="say how the file is to be called there")
    return Path(source).name


def _pieces(file: BinaryIO, progress: Progress, doing: str) -> Iterator[bytes]:
    done = 0
    while data := file.read(PIECE):
        yield data
        done += len(data)
        _tell(progress, doing, done)


@contextlib.contextmanager
def _input(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidArgument(f"{source}: {error.strerror}") from error


@contextlib.contextmanager
def output(target: str, name: str) -> Iterator[BinaryIO]:
    """Where the copy goes; a file appears when it is whole."""
    place = _place(target, name)
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        if place.exists() and not place.is_file():
            with place.open("wb") as device:
                yield device
            return
        descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            umask = os.umask(0)
            os.umask(umask)
            draft.chmod(place.stat().st_mode & 0o777 if place.exists() else 0o666 & ~umask)
            draft.replace(place)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostError(f"{place}: {error.strerror}") from error
