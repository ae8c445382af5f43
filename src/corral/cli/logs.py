"""`corral logs`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.options import Connect, Name
from corral.cli.target import find, run
from corral.errors import NoSupport

if TYPE_CHECKING:
    from corral.client.domain import Domain

INTERVAL = 0.5  # seconds between looks: the protocol has no message that says the log grew


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Only the last lines; 0 is all.")] = 0,
    connect: Connect = None,
) -> None:
    """Show what a machine's QEMU has written; `corral console` shows what the guest writes."""
    run(_logs(connect, name, lines, follow))


async def _logs(uri: str | None, name: str, lines: int, follow: bool) -> None:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        try:
            text = await domain.logs(lines)
        except NoSupport as error:
            hint = f"libvirtd keeps it in /var/log/libvirt/qemu/{domain.name}.log"
            raise NoSupport("only Corral's own daemon hands out logs", hint=hint) from error
        _write(text)
        if follow:
            await _follow(domain, await domain.logs())


async def _follow(domain: Domain, seen: str) -> None:
    while True:
        await asyncio.sleep(INTERVAL)
        text = await domain.logs()
        _write(text[len(seen) :] if text.startswith(seen) else _after(seen, text))
        seen = text


def _after(seen: str, text: str) -> str:
    """What is new in `text` when its beginning was cut off since `seen`, or the file was begun anew."""
    tail = seen[-512:]
    place = text.rfind(tail) if tail else -1
    return text[place + len(tail) :] if place >= 0 else text


def _write(text: str) -> None:
    sys.stdout.write(text if not text or text.endswith("\n") else text + "\n")
    sys.stdout.flush()
