"""`corral display`: where a machine's displays are, and their passwords."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.password import asked
from corral.cli.target import find, run

if TYPE_CHECKING:
    from corral.client.displays import Display

Kind = Annotated[
    Literal["spice", "vnc"] | None, typer.Option("--type", help="Which, where there are both.", show_default=False)
]


def ls(
    name: Name,
    password: Annotated[bool, typer.Option("--password", help="Show passwords, too.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """List a running machine's displays: what a viewer on the daemon's host takes."""

    async def body() -> list[dict[str, Any]]:
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            found = await (await find(host, name)).displays(secure=password)
            return [_row(display) for display in found]

    rows = run(body())
    if output is Output.json:
        emit_json(rows)
        return
    columns = ["type", "uri", "websocket", *(("password", "valid_to") if password else ())]
    header = [column.upper().replace("_", " ") for column in columns]
    print(table(header, [["-" if row[column] is None else str(row[column]) for column in columns] for row in rows]))


def _row(display: Display) -> dict[str, Any]:
    return {
        "type": display.type,
        "uri": display.uri(),
        "address": display.address,
        "port": display.port,
        "tls_port": display.tls_port,
        "websocket": display.websocket,
        "socket": display.socket,
        "password": display.password,
        "valid_to": display.valid_to.isoformat() if display.valid_to is not None else None,
    }


def password(
    name: Name,
    kind: Kind = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="WHEN", help="30m, 12h, 7d from now, 2030-01-31T12:00 (UTC), or never.")
    ] = "never",
    connected: Annotated[
        Literal["keep", "disconnect", "fail"] | None,
        typer.Option("--connected", help="What becomes of SPICE viewers who are there.", show_default=False),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Only while it runs: the next start is as before.")] = False,
    connect: Connect = None,
) -> None:
    """Give a machine's displays another password; it is asked for, or read from standard input.

    openssl rand -hex 4 | corral display password web --expires 30m
    """
    from corral.client.displays import moment

    until = moment(expires, datetime.now(UTC))
    new = asked(f"{name}'s displays")

    async def body() -> list[Literal["spice", "vnc"]]:
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            domain = await find(host, name)
            return await domain.set_display_password(
                new, kind=kind, valid_to=until, connected=connected, config=False if now else None
            )

    changed = " and ".join(each.upper() for each in run(body()))
    good = f", until {until:%Y-%m-%d %H:%M:%S} UTC" if until is not None else ""
    print(f"{name} has a new password for {changed}{good}")
