"""`corral info`, `corral sleep`, `corral wake`: what a guest says of itself, and its own sleep."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from corral.cli.errors import hinted
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json
from corral.cli.target import find, refuse_unless_running, run


def info(name: Name, connect: Connect = None, output: Format = Output.table) -> None:
    """Show what a machine's guest says of itself, through its agent: system, disks, network, who is logged in."""
    facts = run(_info(connect, name))
    if output is Output.json:
        emit_json(facts)
        return
    width = max((len(key) for key in facts), default=0)
    for key, value in facts.items():
        typer.echo(f"{key:<{width}}  {_line(value)}")


async def _info(uri: str | None, name: str) -> dict[str, Any]:
    from corral.client import guest_facts
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        await refuse_unless_running(domain)
        facts = await domain.guest_info()
        shown = [each.uri() or f"{each.type} through the daemon" for each in await domain.displays()]
        return {"addresses": await domain.addresses(), "displays": shown, **facts, **await guest_facts.gathered(domain)}


def _line(value: Any) -> str:
    """A fact on one line; what has a source names it."""
    match value:
        case {"routes": routes, "source": source}:
            ways = [(each["destination"], *(("via", each["gateway"]) if each["gateway"] else ())) for each in routes]
            return f"{', '.join(map(' '.join, ways))} (by {source})"
        case {"one": one, "five": five, "fifteen": fifteen, "source": source}:
            return f"{one} {five} {fifteen} (by {source})"
        case list():
            return ", ".join(value)
    return str(value)


def sleep(
    name: Name,
    to: Annotated[
        Literal["mem", "disk", "hybrid"], typer.Option("--to", help="Where the guest keeps its memory meanwhile.")
    ] = "mem",
    wake_after: Annotated[
        int, typer.Option("--wake-after", metavar="SECONDS", min=0, help="Wake it then; 0: corral wake does.")
    ] = 0,
    connect: Connect = None,
) -> None:
    """Have a machine's guest fall asleep, through its agent; returns when it sleeps.

    A guest asleep in memory is woken by corral wake, one asleep on its disk by corral start.
    """
    run(_sleep(connect, name, to, wake_after))


async def _sleep(uri: str | None, name: str, target: str, seconds: int) -> None:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        await refuse_unless_running(domain)
        why = (
            f"corral exec {domain.name} -- dmesg tells why; with virtio-mem (run --max-memory) Linux 6.1 does not sleep"
        )
        with hinted("has failed to suspend", why):
            await domain.sleep(target, seconds=seconds)
        print(domain.name)


def wake(name: Name, connect: Connect = None) -> None:
    """Wake a machine's guest that sleeps in memory."""
    run(_wake(connect, name))


async def _wake(uri: str | None, name: str) -> None:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        if (await domain.state()).name != "pmsuspended":
            await refuse_unless_running(domain)
        with hinted("guest is not in suspended state", f"{domain.name} does not sleep: corral ps shows what it does"):
            await domain.wake()
        print(domain.name)
