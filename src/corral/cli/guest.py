"""`corral exec`: commands in the guest, through its agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from corral.cli.errors import complain
from corral.cli.help import Command
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json
from corral.cli.progress import Progress
from corral.cli.target import find, refuse_unless_running, run
from corral.errors import AgentUnresponsive, CorralError, InvalidArgument, OperationTimeout

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.execution import Input

PIECE = 1 << 20  # bytes read at a time

T = TypeVar("T")

# Exit statuses that are not the command's own, as podman's and the shell's.
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


class ExecCommand(Command):
    """Everything after the machine's name is the command's, unless a `--` says where it begins."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in TERMINAL_OPTIONS:
            raise InvalidArgument(
                f"{args[0]} asks for a terminal, which an agent does not have",
                hint="corral console NAME gives you a shell on one; corral exec -i passes our standard input on",
            )
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


# What podman and docker call it.
TERMINAL_OPTIONS = {"-it", "-ti", "-t", "--tty", "--interactive"}
SETTINGS = {"exec": {"cls": ExecCommand, "no_args_is_help": True}}


def exec_(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="[--] COMMAND…", help="The program and its arguments.")],
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it our standard input.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="End it then.")] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for a guest that boots.")
    ] = 30.0,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Run a command in a machine, through its guest agent.

    Its output and exit status are passed on. 125: it could not be asked for; 126, 127: the guest could not run it.

    corral exec web -- uname -a

    corral exec web -- sh -c 'echo $HOSTNAME'
    """
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise InvalidArgument("no command was given", hint=f"corral exec {name} -- COMMAND")
    data = _input() if stdin else None
    try:
        if output is Output.json:
            result = run(_in_guest(connect, name, wait, words, lambda vm: vm.exec(words, stdin=data, timeout=timeout)))
            emit_json(
                {
                    "status": result.status,
                    "stdout": result.stdout.decode(errors="replace"),
                    "stderr": result.stderr.decode(errors="replace"),
                    "truncated": result.truncated,
                }
            )
            status = result.status
        else:
            status = run(_in_guest(connect, name, wait, words, lambda vm: _passed_on(vm, words, data, timeout)))
    except CorralError as error:
        complain(error)
        raise typer.Exit(_status(error)) from error
    raise typer.Exit(status)


def _input() -> bytes | Iterator[bytes]:
    """Standard input: whole where the command can carry it, else in pieces."""
    from corral.client.execution import STDIN_LIMIT

    first = sys.stdin.buffer.read(STDIN_LIMIT + 1)
    if len(first) <= STDIN_LIMIT:
        return first
    return chain([first], iter(lambda: sys.stdin.buffer.read(PIECE), b""))


def _status(error: CorralError) -> int:
    text = str(error)
    if "No such file or directory" in text:
        return NOT_FOUND
    return NOT_EXECUTABLE if "Permission denied" in text else FAILED


async def _in_guest(
    uri: str | None, name: str, wait: float, argv: list[str], work: Callable[[Domain], Awaitable[T]]
) -> T:
    """What `work` gives, which runs `argv` once the machine's agent answers."""
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        await _ready(domain, wait)
        try:
            return await work(domain)
        except asyncio.CancelledError:  # by a signal or Ctrl-C
            print(f"corral: {argv[0]} in {name} was told to end", file=sys.stderr)
            raise


async def _passed_on(domain: Domain, argv: list[str], stdin: Input, timeout: float | None) -> int:
    """The command's exit status; its output goes to ours as it comes."""
    try:
        async with asyncio.timeout(timeout), reader_stays():
            return await _pass_on(domain, argv, stdin)
    except TimeoutError as error:
        raise OperationTimeout(
            f"{argv[0]} in {domain.name} has not ended after {timeout:g} s and was told to"
        ) from error


async def _pass_on(domain: Domain, argv: list[str], stdin: Input) -> int:
    async with domain.execution(argv, stdin=stdin) as running:
        async for number, data in running:
            await asyncio.to_thread(_write, number, data)
    if running.truncated:
        print("corral: the agent dropped output beyond what it can hold", file=sys.stderr)
    return running.status or 0


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextlib.asynccontextmanager
async def reader_stays() -> AsyncIterator[None]:
    """Raise BrokenPipeError in the block when whoever reads our standard output leaves, though nothing be written."""
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        loop.remove_reader(1)
        task.cancel()

    loop.add_reader(1, leave)  # nobody writes to us here: an event is the reader's end
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise BrokenPipeError from None
    finally:
        loop.remove_reader(1)


async def _ready(domain: Domain, wait: float) -> None:
    """Return when the machine's agent answers; an error at once where it cannot."""
    await refuse_unless_running(domain)
    try:
        await domain.agent("guest-ping")
    except AgentUnresponsive:
        if not wait:
            raise
        await _booted(domain, wait)


async def _booted(domain: Domain, wait: float) -> None:
    with Progress(f"waiting for the agent in {domain.name}"):
        try:
            await domain.wait_for_agent(wait)
        except AgentUnresponsive as error:
            hint = "does the guest run qemu-guest-agent? corral console shows what it does"
            raise AgentUnresponsive(error.detail, hint=hint) from error
