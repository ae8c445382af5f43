"""`corral nic`: a machine's network cards and their cables, also while it runs."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.disk import Now, act
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.target import find, run

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.devices.interface import Interface
    from corral.model.domain import Domain as DomainDocument

Card = typer.Option("--nic", metavar="MAC", help="Which card: its MAC address or alias.", show_default=False)


#: The range of MAC addresses that QEMU and KVM use.
QEMU_PREFIX = (0x52, 0x54, 0x00)


class Cable(StrEnum):
    """Whether a card's cable is plugged in."""

    up = "up"
    down = "down"


def ls(name: Name, connect: Connect = None, output: Format = Output.table) -> None:
    """List a machine's network cards."""

    async def body() -> list[dict[str, Any]]:
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            document = await (await find(host, name)).document()
            return [_row(each) for each in document.devices.interfaces]

    rows = run(body())
    if output is Output.json:
        emit_json(rows)
    else:
        header = ["MAC", "TYPE", "MODEL", "LINK", "ALIAS"]
        print(table(header, [[row[column.lower()] or "-" for column in header] for row in rows]))


def _row(interface: Interface) -> dict[str, Any]:
    return {
        "mac": interface.mac.address if interface.mac is not None else None,
        "type": interface.type,
        "model": interface.model.type if interface.model is not None else None,
        "link": interface.link.state if interface.link is not None else "up",
        "alias": interface.alias.name if interface.alias is not None else None,
    }


def add(
    name: Name,
    model: Annotated[str, typer.Option(help="The card: virtio, e1000e …")] = "virtio",
    mac: Annotated[str | None, typer.Option(help="Its address.", show_default=False)] = None,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Give a machine a network card on a user network: at once if it runs, and for its next starts."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.model.devices.interface import Interface, InterfaceModel, Mac

        address = mac or ":".join(f"{byte:02x}" for byte in (*QEMU_PREFIX, *secrets.token_bytes(3)))
        card = Interface(type="user", mac=Mac(address=address), model=InterfaceModel(type=model))
        await domain.attach(card, config=False if now else None)
        return f"{domain.name} has a card {address}"

    act(connect, name, change)


def rm(name: Name, card: Annotated[str | None, Card] = None, now: Now = False, connect: Connect = None) -> None:
    """Take a network card away; returns when the guest has let go of it."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import devices

        found = devices.card(document, card)
        await domain.detach(found, config=False if now else None)
        return f"{domain.name} has no card {found.mac.address if found.mac else ''} any more"

    act(connect, name, change)


def link(
    name: Name,
    state: Annotated[Cable, typer.Argument(help="Plugged in, or pulled.")],
    card: Annotated[str | None, Card] = None,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Plug in or pull the cable of a machine's network card.

    corral nic link web down
    """

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import devices
        from corral.model.devices.interface import Link

        found = devices.card(document, card).copy()
        found.link = Link(state=state.value)
        await domain.update(found, config=False if now else None)
        return f"the cable of {found.mac.address if found.mac else name} is {state.value}"

    act(connect, name, change)
