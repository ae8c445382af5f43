"""`corral doctor`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import typer

from corral.cli.options import Connect, Format, Output
from corral.cli.output import emit_json, size
from corral.cli.progress import Progress
from corral.cli.target import run
from corral.errors import CorralError, NoConnect, NoSupport

if TYPE_CHECKING:
    from corral.client.host import Host

MARKS = {True: ("✓", "32", "ok"), False: ("✗", "31", "no"), None: ("·", "33", "-")}


def doctor(connect: Connect = None, output: Format = Output.table) -> None:
    """Say what works on this host, and what to do about the rest. Exit status 1 when something is amiss."""
    with Progress("looking at the host"):
        rows = run(_rows(connect))
    if output is Output.json:
        emit_json(rows)
    else:
        width = max(len(_title(row)) for row in rows)
        for row in rows:
            _print(row, width)
    if rows[0]["ok"] is False:
        raise typer.Exit(1)


async def _rows(uri: str | None) -> list[dict[str, Any]]:
    """A row a fact: name, ok (None: neither), text, hint, number if it has one. The first is the daemon itself."""
    from corral.client.host import connect

    try:
        async with connect(uri) as host:
            version = await host.version()
            first = _row("daemon", True, f"{host.uri}, API level {version.api}, QEMU {version.qemu}")
            try:
                return [first, *await host.report()]
            except NoSupport:
                return [first, *await _libvirt(host)]
    except CorralError as error:
        # "no daemon" is one fault of many: one may be there and refuse us, or break the connection off
        name = "daemon" if isinstance(error, NoConnect) else "connection"
        return [_row(name, False, error.detail or str(error), error.hint or "")]


async def _libvirt(host: Host) -> list[dict[str, Any]]:
    """What a libvirtd can be asked: it has no report of its own."""
    node, types = await asyncio.gather(host.node_info(), host.domain_types())
    kvm = "kvm" in types
    return [
        _row("CPUs", True, f"{node.cpus} ({node.model})"),
        _row("memory", True, size(node.memory)),
        _row("KVM", kvm, "offered" if kvm else "not offered", "" if kvm else "machines run in software emulation"),
        _row("report", None, "only Corral's own daemon reports more"),
    ]


def _row(name: str, ok: bool | None, text: str, hint: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "text": text, "hint": hint, "number": None}


def _title(row: dict[str, Any]) -> str:
    return f"{row['number']:2} {row['name']}" if row.get("number") else str(row["name"])


def _print(row: dict[str, Any], width: int) -> None:
    mark, color, word = MARKS[row["ok"]]
    terminal = sys.stdout.isatty()
    mark = f"\033[{color}m{mark}\033[0m" if terminal else word.ljust(2)
    print(f"{mark} {_title(row).ljust(width)}  {row['text']}")
    if row.get("hint"):
        print(f"{' ' * (1 if terminal else 2)} {' ' * width}  → {row['hint']}")
