"""`corral console`: this terminal becomes the machine's."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.options import Connect, Name
from corral.cli.target import find, run
from corral.errors import CorralError, InvalidArgument, OperationFailed, OperationInvalid

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.stream import Stream

READ_SIZE = 4096
SILENCE = 1.0  # seconds without output after which the end of piped input is the end


def console(
    name: Name,
    device: Annotated[str | None, typer.Option(metavar="ALIAS", help="Another console than the first.")] = None,
    escape: Annotated[str, typer.Option(metavar="KEY", help="The key that leaves, such as ^] or ^A.")] = "^]",
    force: Annotated[bool, typer.Option("--force", "-f", help="Take it from whoever has it open.")] = False,
    connect: Connect = None,
) -> None:
    """Attach to a machine's console. Ctrl-] leaves; the machine runs on."""
    run(_console(connect, name, device, control_key(escape), force))


def control_key(text: str) -> int:
    """The byte of a key written `^X`; InvalidArgument for anything else."""
    if len(text) == 2 and text[0] == "^" and 0x40 <= ord(text[1].upper()) <= 0x5F:
        return ord(text[1].upper()) ^ 0x40
    raise InvalidArgument(f"escape key '{text}'", hint="write it as ^ and a letter or one of @ [ \\ ] ^ _")


async def _console(uri: str | None, name: str, device: str | None, escape: int, force: bool) -> None:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        stream = await _open(domain, device, force)
        async with stream:
            await attach(stream, domain.name, escape)


async def _open(domain: Domain, device: str | None, force: bool) -> Stream:
    try:
        return await domain.console(device, force=force)
    except OperationInvalid as error:
        if not (await domain.state()).active:
            hint = f"corral start {domain.name}"
            raise OperationInvalid(f"{domain.name} is not running", hint=hint) from error
        raise
    except OperationFailed as error:
        if "console session" in str(error):
            raise OperationFailed(error.detail, hint="--force takes it over") from error
        raise


async def attach(stream: Stream, name: str, escape: int = 0x1D) -> None:
    """Join this process's standard input and output to `stream` until the escape key or either side's end."""
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"Connected to {name}. {_written(escape)} leaves.", file=sys.stderr, flush=True)
    with raw(sys.stdin.fileno()) if terminal else _untouched():
        typing = asyncio.create_task(_typed(stream, escape if terminal else None))
        showing = asyncio.create_task(_shown(stream))
        try:
            await asyncio.wait({typing, showing}, return_when=asyncio.FIRST_COMPLETED)
            if typing.done() and not terminal and not typing.exception():
                await _silent(stream, showing)
        finally:
            for task in (typing, showing):
                task.cancel()
            results = await asyncio.gather(typing, showing, return_exceptions=True)
    if terminal:
        print(
            f"\nLeft {name}." if typing.done() and results[0] is None else f"\n{name} closed the console.",
            file=sys.stderr,
        )
    for result in results:
        if isinstance(result, CorralError):
            raise result


async def _silent(stream: Stream, showing: asyncio.Task[None]) -> None:
    """Wait until the machine has said nothing for a while: it answers piped input in its own time."""
    received = -1
    while received != stream.received and not showing.done():
        received = stream.received
        await asyncio.wait({showing}, timeout=SILENCE)


def _written(key: int) -> str:
    return f"Ctrl-{chr(key ^ 0x40)}"


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """The terminal in raw mode; it is restored whatever happens."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _untouched() -> Iterator[None]:
    yield


async def _typed(stream: Stream, escape: int | None) -> None:
    """Standard input to the machine, until its end or the escape key."""
    while data := await _read_input():
        if escape is not None and (place := data.find(escape)) >= 0:
            if place:
                await stream.write(data[:place])
            return
        await stream.write(data)


async def _read_input() -> bytes:
    """What standard input has next, b"" at its end. The descriptor stays blocking: the shell shares it."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file, which epoll refuses: it is always ready
        return await asyncio.to_thread(os.read, descriptor, READ_SIZE)
    try:
        await ready.wait()
        return os.read(descriptor, READ_SIZE)
    except OSError:
        return b""  # the terminal was hung up
    finally:
        loop.remove_reader(descriptor)


async def _shown(stream: Stream) -> None:
    """The machine's output to standard output, until it ends."""
    descriptor = sys.stdout.fileno()
    async for data in stream:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:  # someone made our terminal non-blocking
                await asyncio.sleep(0.01)
