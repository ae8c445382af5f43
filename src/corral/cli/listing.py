"""What `corral ps` lists. It imports no command-line library: see `quick.py`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from corral.cli.output import duration, emit_json, size, state, table
from corral.cli.target import run
from corral.errors import CorralError, NoDomain

if TYPE_CHECKING:
    from corral.client.domain import Domain


def show(*, everything: bool, addresses: bool, quiet: bool, uri: str | None, as_json: bool) -> None:
    """Print the machines that run, or all of them."""
    rows, others = run(_rows(uri, everything, addresses))
    if as_json:
        emit_json(rows)
    elif quiet:
        for row in rows:
            print(row["name"])
    else:
        header = ["NAME", "STATE", "VCPUS", "MEMORY", "CPU TIME", "ID"] + ["ADDRESS"] * addresses
        print(table(header, [_line(row, addresses) for row in rows]))
        if not rows and sys.stderr.isatty():
            hint = f"none runs; corral ps -a shows {others} more" if others else "none yet; corral run tiny makes one"
            print(hint, file=sys.stderr)


async def _rows(uri: str | None, everything: bool, addresses: bool) -> tuple[list[dict[str, Any]], int]:
    """A row a machine, and how many machines were left out."""
    from corral.client.host import connect

    async with connect(uri) as host:
        domains = await host.domains()
        chosen = [domain for domain in domains if everything or domain.id is not None]
        rows = await asyncio.gather(*(_row(domain, addresses) for domain in chosen))
    return [row for row in rows if row], len(domains) - len(chosen)


async def _row(domain: Domain, addresses: bool) -> dict[str, Any] | None:
    try:
        state, info = await asyncio.gather(domain.state(), domain.info())
    except NoDomain:
        return None  # it went away since it was listed
    row: dict[str, Any] = {
        "name": domain.name,
        "uuid": str(domain.uuid),
        "id": domain.id,
        "state": state.name,
        "reason": state.reason,
        "vcpus": info.vcpus,
        "memory_kib": info.memory,
        "max_memory_kib": info.max_memory,
        "cpu_seconds": round(info.cpu_time, 3),
    }
    if addresses:
        row["addresses"] = await _addresses(domain) if domain.id is not None else []
    return row


async def _addresses(domain: Domain) -> list[str]:
    try:
        async with asyncio.timeout(3.0):
            return await domain.addresses()
    except (CorralError, TimeoutError):
        return []


def _line(row: dict[str, Any], addresses: bool) -> list[str]:
    running = row["id"] is not None
    line = [
        row["name"],
        state(row["state"], row["reason"]),
        str(row["vcpus"]),
        size(row["memory_kib"] if running else row["max_memory_kib"]),
        duration(row["cpu_seconds"]) if running else "-",
        str(row["id"]) if running else "-",
    ]
    return [*line, ", ".join(row["addresses"]) or "-"] if addresses else line
