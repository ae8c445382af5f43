"""`corral iothread`: I/O threads of a machine, also while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.disk import Now, act
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.target import find
from corral.cli.target import run as finish

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.domain import Domain as DomainDocument

Number = Annotated[int, typer.Argument(metavar="N", min=1, help="The thread's number.")]


def ls(name: Name, connect: Connect = None, output: Format = Output.table) -> None:
    """List a machine's I/O threads, and the CPUs of the host that each may run on."""

    async def body() -> list[dict[str, Any]]:
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            threads = await (await find(host, name)).tuning.iothreads()
            return [{"number": each.number, "cpus": sorted(each.cpus)} for each in threads]

    rows = finish(body())
    if output is Output.json:
        emit_json(rows)
        return
    from corral.model import cpuset

    print(table(["NUMBER", "CPUS"], [[str(row["number"]), cpuset.write(row["cpus"])] for row in rows]))


def add(name: Name, number: Number, now: Now = False, connect: Connect = None) -> None:
    """Give a machine one more I/O thread; a disk's document then names it (<driver iothread='N'/>)."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        await domain.tuning.add_iothread(number, config=False if now else None)
        return f"{domain.name} has I/O thread {number}"

    act(connect, name, change)


def rm(name: Name, number: Number, now: Now = False, connect: Connect = None) -> None:
    """Take an I/O thread away; not one that a disk uses."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        await domain.tuning.remove_iothread(number, config=False if now else None)
        return f"{domain.name} has no I/O thread {number} any more"

    act(connect, name, change)


def tune(
    name: Name,
    number: Number,
    poll_max_ns: Annotated[int | None, typer.Option(min=0, help="Nanoseconds to poll at most; 0: not.")] = None,
    poll_grow: Annotated[int | None, typer.Option(min=0, help="The factor by which polling grows.")] = None,
    poll_shrink: Annotated[int | None, typer.Option(min=0, help="The divisor by which it shrinks.")] = None,
    pool_min: Annotated[int | None, typer.Option(min=0, help="Workers that are kept.")] = None,
    pool_max: Annotated[int | None, typer.Option(min=0, help="Workers at most.")] = None,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Change how an I/O thread polls and how many workers it keeps."""
    wishes = {
        "poll_max_ns": poll_max_ns,
        "poll_grow": poll_grow,
        "poll_shrink": poll_shrink,
        "thread_pool_min": pool_min,
        "thread_pool_max": pool_max,
    }
    wanted = {key: value for key, value in wishes.items() if value is not None}
    if not wanted:
        raise typer.BadParameter("say what to change, such as --poll-max-ns 32768 or --pool-max 16")

    async def change(domain: Domain, document: DomainDocument) -> str:
        await domain.tuning.tune_iothread(number, wanted, config=False if now else None)
        return f"I/O thread {number} of {domain.name} has {' '.join(f'{key}={value}' for key, value in wanted.items())}"

    act(connect, name, change)
