"""`corral events`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.options import Connect, Format, Output, complete_names
from corral.cli.target import find, run

if TYPE_CHECKING:
    from corral.client.events import Event


def _kinds(incomplete: str) -> list[str]:
    from corral.client.events import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def events(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Only this machine's.", autocompletion=complete_names),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", "-k", metavar="KIND", help="Only this kind; may be repeated.", autocompletion=_kinds),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many; 0 goes on.")] = 0,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Follow what happens to machines: a line an event, or with --format json an object a line."""
    run(_events(connect, name, kinds or [], count, output))


async def _events(uri: str | None, name: str | None, kinds: list[str], count: int, output: Output) -> None:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name) if name else None
        async with host.events(*kinds, domain=domain) as happening:
            seen = 0
            async for event in happening:
                print(_json(event) if output is Output.json else _line(event), flush=True)
                seen += 1
                if seen == count:
                    return


def _line(event: Event) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event.time))}  {event.domain.name}  {event}"


def _json(event: Event) -> str:
    return json.dumps(
        {
            "time": round(event.time, 3),
            "kind": event.kind,
            "domain": event.domain.name,
            "uuid": str(event.domain.uuid),
            **event.details(),
        },
        default=str,
    )
