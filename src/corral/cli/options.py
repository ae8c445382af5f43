"""Options and arguments that many commands share, and the completion of machines' names."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """How a command prints what it found."""

    table = "table"
    json = "json"


def complete_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the host's machines; none when it does not answer quickly. Starts no daemon."""
    import asyncio
    from contextlib import suppress

    from corral.client.host import names
    from corral.errors import CorralError

    with suppress(CorralError, TimeoutError, OSError):
        found = asyncio.run(asyncio.wait_for(names((ctx.params or {}).get("connect")), 2.0))
        return [name for name in found if name.startswith(incomplete)]
    return []


Connect = Annotated[
    str | None,
    typer.Option(
        "--connect",
        "-c",
        metavar="URI",
        help="The daemon to talk to: corral:///session, corral:///system, qemu:///system, qemu+ssh://host/system, …",
        show_default=False,
    ),
]
Format = Annotated[Output, typer.Option("--format", help="A table for people or JSON for programs.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A machine's name, UUID or id.", autocompletion=complete_names)
]
Names = Annotated[
    list[str], typer.Argument(metavar="NAME…", help="Machines' names, UUIDs or ids.", autocompletion=complete_names)
]
SomeNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME…]", help="Machines' names, UUIDs or ids.", autocompletion=complete_names),
]
