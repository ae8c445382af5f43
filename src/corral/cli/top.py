"""`corral top`: a live screen on a terminal, JSON for programs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.options import Connect, Format, Output
from corral.cli.output import emit_json, size, state, table
from corral.cli.target import run

if TYPE_CHECKING:
    from corral.client.statistics import Load


class Order(StrEnum):
    """What `top` sorts by, the greatest first; names in alphabetical order."""

    use = "use"
    steal = "steal"
    memory = "memory"
    disk = "disk"
    network = "network"
    name = "name"


def top(
    delay: Annotated[float, typer.Option("--delay", "-d", metavar="SECONDS", help="Between readings.", min=0.1)] = 2.0,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", min=0, help="End after so many readings; 0 goes on.", show_default="1, screen: 0"
        ),
    ] = None,
    sort: Annotated[Order, typer.Option("--sort", "-s", help="What comes first.")] = Order.use,
    vcpus: Annotated[bool, typer.Option("--vcpus", help="A line for each vCPU, too.")] = False,
    guests: Annotated[
        bool,
        typer.Option(
            "--guests",
            help="Ask guests' agents for their own count of stolen time; `untold`: emulation tells a guest of none.",
        ),
    ] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Show live what machines use.

    On a terminal it is a screen; keys sort it (u s m d n a), v shows vCPUs, q ends. Otherwise, and with --format json,
    it is one reading over --delay seconds, or with --count several: then JSON is one object a line.
    """
    if output is Output.table and sys.stdout.isatty() and count is None:
        from corral.cli.top_screen import Screen

        Screen(connect, delay=delay, order=sort, vcpus=vcpus, guests=guests).show()
        return
    run(_readings(connect, delay, 1 if count is None else count, sort, vcpus, guests, output))


async def _readings(
    uri: str | None, delay: float, count: int, order: Order, vcpus: bool, guests: bool, output: Output
) -> None:
    from corral.client.host import connect
    from corral.client.statistics import Meter

    async with connect(uri) as host:
        meter = Meter(host, guests=guests)
        await meter.loads()
        shown = 0
        while shown != count or count == 0:
            await asyncio.sleep(delay)
            loads = ordered(await meter.loads(), order)
            shown += 1
            if output is Output.table:
                print(table(HEADER, [cells for load in loads for cells in rows(load, vcpus=vcpus)]), flush=True)
            elif count == 1:
                emit_json([load.plain() for load in loads])
            else:
                line = {"time": round(time.time(), 3), "domains": [load.plain() for load in loads]}
                print(json.dumps(line), flush=True)


def ordered(loads: list[Load], order: Order) -> list[Load]:
    """Sorted, the greatest first; equals by name."""
    return sorted(loads, key=lambda load: (_key(load, order), load.name))


def _key(load: Load, order: Order) -> Any:
    values = {
        Order.use: load.use,
        Order.steal: load.steal,
        Order.memory: load.memory,
        Order.disk: load.disk_read + load.disk_written,
        Order.network: load.received + load.sent,
        Order.name: 0,
    }
    return -values[order]


HEADER = ("NAME", "STATE", "VCPUS", "USE", "STEAL", "GUEST", "MEMORY", "USED", "READ/s", "WRITE/s", "RX/s", "TX/s")

UNTOLD = "untold"


def rows(load: Load, *, vcpus: bool) -> list[tuple[str, ...]]:
    """A machine's line, and one for each of its vCPUs; `GUEST` is the stolen time that the guest itself counts.

    A guest in software emulation is told of none, so what it counts (0) says nothing.
    """
    used = size(load.memory - load.unused) if load.unused is not None and load.unused <= load.memory else "-"
    count = str(load.vcpus) if load.vcpus == load.max_vcpus else f"{load.vcpus}/{load.max_vcpus}"
    lines: list[tuple[str, ...]] = [
        (
            load.name,
            state(load.state),
            count,
            percent(load.use),
            percent(load.steal),
            UNTOLD if load.guest_steal_untold else percent(load.guest_steal),
            size(load.memory),
            used,
            rate(load.disk_read),
            rate(load.disk_written),
            rate(load.received),
            rate(load.sent),
        )
    ]
    for each in load.each_vcpu if vcpus else ():
        word = "" if each.halted is None else "idle" if each.halted else "runs"
        figures = (percent(each.use), percent(each.steal), percent(each.guest_steal))
        lines.append((f"  vcpu {each.number}", word, "", *figures, "", "", "", "", "", ""))
    return lines


def percent(value: float | None) -> str:
    """`12.5%`, or `-` for what is not known."""
    return "-" if value is None else f"{value:.1f}%"


def rate(value: float) -> str:
    """Bytes a second for a person: `0`, `12.3K`, `1.5M`."""
    for unit in ("", "K", "M", "G"):
        if value < 1000 or unit == "G":
            return f"{value:.0f}{unit}" if not unit or value >= 100 else f"{value:.1f}{unit}"
        value /= 1000
    return ""
