"""The table that `corral disk ls`, `corral nic ls` and the like print: a machine's devices of one kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from corral.cli.options import Output
from corral.cli.output import emit_json, table
from corral.cli.target import find, run

if TYPE_CHECKING:
    from corral.model.domain import Domain as DomainDocument

Rows = Callable[["DomainDocument"], list[dict[str, Any]]]


def show(name: str, connect: str | None, output: Output, rows: Rows, columns: Sequence[str]) -> None:
    """Print what `rows` makes of the machine's document: the columns that a person reads, or all as JSON."""

    async def body() -> list[dict[str, Any]]:
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            return rows(await (await find(host, name)).document())

    found = run(body())
    if output is Output.json:
        emit_json(found)
    else:
        print(table(list(columns), [[row[column.lower()] or "-" for column in columns] for row in found]))
