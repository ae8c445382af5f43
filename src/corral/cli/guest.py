"""`corral exec`: commands in the guest, through its agent."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from corral.cli.errors import complain
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json
from corral.cli.progress import Progress
from corral.cli.target import find, run
from corral.errors import AgentUnresponsive, CorralError, InvalidArgument, OperationInvalid

if TYPE_CHECKING:
    from corral.client.agent import ExecResult
    from corral.client.domain import Domain

# Exit statuses that are not the command's own, as podman's and the shell's.
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


class ExecCommand(TyperCommand):
    """Everything after the machine's name is the command's, unless a `--` says where it begins."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


SETTINGS = {"exec": {"cls": ExecCommand, "no_args_is_help": True}}


def exec_(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="[--] COMMAND…", help="The program and its arguments.")],
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it our standard input.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", metavar="SECONDS", min=0.1, help="End it then.")
    ] = None,
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
    data = sys.stdin.buffer.read() if stdin else None
    try:
        result = run(_exec(connect, name, words, data, timeout, wait))
    except CorralError as error:
        complain(error)
        raise typer.Exit(_status(error)) from error
    if output is Output.json:
        emit_json(
            {
                "status": result.status,
                "stdout": result.stdout.decode(errors="replace"),
                "stderr": result.stderr.decode(errors="replace"),
                "truncated": result.truncated,
            }
        )
    else:
        for stream, written in ((sys.stdout.buffer, result.stdout), (sys.stderr.buffer, result.stderr)):
            stream.write(written)
            stream.flush()
        if result.truncated:
            print("corral: the agent dropped output beyond what it can hold", file=sys.stderr)
    raise typer.Exit(result.status)


def _status(error: CorralError) -> int:
    text = str(error)
    if "No such file or directory" in text:
        return NOT_FOUND
    return NOT_EXECUTABLE if "Permission denied" in text else FAILED


async def _exec(
    uri: str | None, name: str, argv: list[str], stdin: bytes | None, timeout: float | None, wait: float
) -> ExecResult:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        try:
            return await domain.exec(argv, stdin=stdin, timeout=timeout)
        except AgentUnresponsive:
            if not wait:
                raise
        except OperationInvalid as error:
            if not (await domain.state()).active:
                hint = f"corral start {domain.name}"
                raise OperationInvalid(f"{domain.name} is not running", hint=hint) from error
            raise
        await _booted(domain, wait)
        return await domain.exec(argv, stdin=stdin, timeout=timeout)


async def _booted(domain: Domain, wait: float) -> None:
    with Progress(f"waiting for the agent in {domain.name}"):
        try:
            await domain.wait_for_agent(wait)
        except AgentUnresponsive as error:
            hint = "does the guest run qemu-guest-agent? corral console shows what it does"
            raise AgentUnresponsive(error.detail, hint=hint) from error
        await asyncio.sleep(0)
