"""`corral set`: how many CPUs and how much memory a machine has, now and at its next start."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, size
from corral.cli.progress import Progress
from corral.cli.target import find, run
from corral.errors import InvalidArgument, OperationInvalid

if TYPE_CHECKING:
    from corral.client.domain import Domain

LEAST = 16 << 10  # KiB below which no guest of ours lives: a slip of the pen would end one that runs

Cpus = typer.Option("--cpus", metavar="N", min=1, help="How many CPUs it has.", show_default=False)
MaxCpus = typer.Option("--max-cpus", metavar="N", min=1, help="How many it can be given.", show_default=False)
Memory = typer.Option("--memory", "-m", metavar="SIZE", help="How much memory it has: 512M, 4G.", show_default=False)
MaxMemory = typer.Option("--max-memory", metavar="SIZE", help="How much it can be given.", show_default=False)


def set_(
    name: Name,
    cpus: Annotated[int | None, Cpus] = None,
    memory: Annotated[str | None, Memory] = None,
    max_cpus: Annotated[int | None, MaxCpus] = None,
    max_memory: Annotated[str | None, MaxMemory] = None,
    now: Annotated[bool, typer.Option("--now", help="Only while it runs: the next start is as before.")] = False,
    later: Annotated[bool, typer.Option("--later", help="Only from the next start on.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Change a machine's CPUs and memory: at once if it runs, and for its next starts.

    A running machine gets CPUs up to its --max-cpus and memory up to its --max-memory, which are for its next start.
    """
    if now and later:
        raise typer.BadParameter("--now and --later exclude each other")
    if all(wish is None for wish in (cpus, memory, max_cpus, max_memory)):
        raise typer.BadParameter("say what to change: --cpus, --memory, --max-cpus or --max-memory")
    if now and (max_cpus is not None or max_memory is not None):
        raise typer.BadParameter("what a machine can be given changes with its next start, not --now")
    sizes = [None if text is None else _kib(text) for text in (memory, max_memory)]
    if memory is not None and sizes[0] is not None and sizes[0] < LEAST:
        raise InvalidArgument(f"memory '{memory}' is too little for a guest", hint="write for example 512M or 2G")
    run(_set(connect, name, (cpus, max_cpus), (sizes[0], sizes[1]), now=now, later=later, output=output))


def _kib(text: str) -> int:
    from corral.client.recipe import memory_kib

    return memory_kib(text)


async def _set(
    uri: str | None,
    name: str,
    cpus: tuple[int | None, int | None],
    memory: tuple[int | None, int | None],
    *,
    now: bool,
    later: bool,
    output: Output,
) -> None:
    from corral.client.host import connect

    with Progress("connecting") as progress:
        async with connect(uri) as host:
            domain = await find(host, name)
            active, persistent = await asyncio.gather(domain.active(), domain.persistent())
            live, config = active and not later, persistent and not now
            if not live and not config:
                raise OperationInvalid(
                    f"{name} is {'off' if not active else 'not defined'}: there is nothing to change"
                )
            progress(f"changing {domain.name}")
            await _set_cpus(domain, *cpus, live=live, config=config)
            await _set_memory(domain, *memory, live=live, config=config)
            progress.close()
            await _tell(domain, output)
            if live and output is not Output.json and (cpus[1], memory[1]) != (None, None):
                await _tell_of_its_next_start(domain)


async def _set_cpus(domain: Domain, count: int | None, most: int | None, *, live: bool, config: bool) -> None:
    if most is not None:
        await domain.set_vcpus(most, maximum=True, config=True)
    if count is None:
        return
    try:
        await domain.set_vcpus(count, live=live, config=config)
    except InvalidArgument as error:
        if "greater than max allowable" in str(error):
            hint = f"corral set {domain.name} --max-cpus {count} --later, then start it again"
            raise InvalidArgument(error.detail, hint=hint) from error
        raise


async def _set_memory(domain: Domain, kib: int | None, maximum: int | None, *, live: bool, config: bool) -> None:
    if maximum is not None:
        await domain.set_memory(maximum, maximum=True, config=True)
    if kib is None:
        return
    try:
        await domain.set_memory(kib, live=live, config=config)
    except InvalidArgument as error:
        if "higher than max memory" in str(error):
            most = size((await domain.info()).max_memory)
            hint = f"corral set {domain.name} --max-memory {_typed(kib)} --later, then start it again"
            raise InvalidArgument(f"{domain.name} can have at most {most} of memory", hint=hint) from error
        raise


def _typed(kib: int) -> str:
    """A size of memory as a person would type it, in whole units: `2T`, `1536M`."""
    unit = next((power for power in (3, 2) if kib % 1024**power == 0), 1)
    return f"{-(-kib // 1024**unit)}{'KMGT'[unit]}"


async def _tell(domain: Domain, output: Output) -> None:
    info, most = await asyncio.gather(domain.info(), domain.vcpus(maximum=True))
    if output is Output.json:
        emit_json(
            {
                "name": domain.name,
                "vcpus": info.vcpus,
                "max_vcpus": most,
                "memory_kib": info.memory,
                "max_memory_kib": info.max_memory,
            }
        )
        return
    print(
        f"{domain.name} has {info.vcpus} of at most {most} CPUs, "
        f"and {size(info.memory)} of at most {size(info.max_memory)} memory"
    )


async def _tell_of_its_next_start(domain: Domain) -> None:
    from corral.model.domain import Domain as DomainDocument

    memory = DomainDocument.from_xml(await domain.xml(inactive=True)).memory
    assert memory is not None
    cpus = await domain.vcpus(maximum=True, live=False)
    print(f"from its next start: at most {cpus} CPUs and {size(memory.kib)} of memory")
