"""`corral pin` and `corral numa`: which CPUs of the host a machine runs on, and which nodes its memory is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.disk import Now, act
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.target import find
from corral.cli.target import run as finish

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.tuning import NUMAMode
    from corral.model.domain import Domain as DomainDocument

_EMULATOR, _IOTHREAD = "emulator", "iothread"


def pin(
    name: Name,
    what: Annotated[
        str | None,
        typer.Argument(metavar="WHAT", help="A vCPU's number, emulator, or iothread:N.", show_default=False),
    ] = None,
    cpus: Annotated[str | None, typer.Argument(metavar="CPUS", help="CPUs of the host: 0-3,7.")] = None,
    now: Now = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Choose the host's CPUs that a machine's vCPUs, QEMU's own work or its I/O threads run on; or show them.

    corral pin web 0 2-3
    """
    if what is None:
        _show_pins(connect, name, output)
        return
    kind, _, digits = what.rpartition(":")
    number = int(digits) if digits.isdecimal() else None
    if cpus is None or (what != _EMULATOR and (kind not in ("", _IOTHREAD) or number is None)):
        raise typer.BadParameter("say what and where: corral pin NAME 0 2-3, or emulator 0, or iothread:1 0")

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.model import cpuset

        chosen, config = cpuset.parse(cpus), False if now else None
        if number is None:
            await domain.tuning.pin_emulator(chosen, config=config)
        elif kind == _IOTHREAD:
            await domain.tuning.pin_iothread(number, chosen, config=config)
        else:
            await domain.tuning.pin_vcpu(number, chosen, config=config)
        return f"{what if number is None or kind else f'vCPU {number}'} of {domain.name} runs on {cpuset.write(chosen)}"

    act(connect, name, change)


def _show_pins(uri: str | None, name: str, output: Output) -> None:
    from corral.model import cpuset

    async def body() -> dict[str, list[int]]:
        from corral.client.host import connect as open_host

        async with open_host(uri) as host:
            tuning = (await find(host, name)).tuning
            pins = {str(number): cpus for number, cpus in enumerate(await tuning.vcpu_pins())}
            pins[_EMULATOR] = await tuning.emulator_pin()
            pins |= {f"{_IOTHREAD}:{each.number}": each.cpus for each in await tuning.iothreads()}
            return {what: sorted(cpus) for what, cpus in pins.items()}

    rows = finish(body())
    if output is Output.json:
        emit_json(rows)
    else:
        print(table(["WHAT", "CPUS"], [[what, cpuset.write(cpus)] for what, cpus in rows.items()]))


def numa(
    name: Name,
    nodes: Annotated[str | None, typer.Option(metavar="NODES", help="Nodes of the host: 0-1.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="strict: from nowhere else; preferred: first; interleave: evenly.")
    ] = None,
    connect: Connect = None,
) -> None:
    """Choose the host's NUMA nodes that a machine's memory comes from, from its next start on; or show them."""
    modes: dict[str, NUMAMode] = {"strict": "strict", "preferred": "preferred", "interleave": "interleave"}
    if mode is not None and mode not in modes:
        raise typer.BadParameter(f"the mode is {', '.join(modes)}, not '{mode}'")

    async def change(domain: Domain, document: DomainDocument) -> str:
        if nodes is not None or mode is not None:
            await domain.tuning.set_numa(mode=None if mode is None else modes[mode], nodes=nodes)
        has, where = await domain.tuning.numa(config=await domain.persistent())
        return f"memory of {domain.name}: {has}, from {f'nodes {where}' if where else 'any node'}"

    act(connect, name, change)
