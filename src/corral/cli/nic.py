"""`corral nic`: a machine's network cards and their cables, also while it runs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli import device_table
from corral.cli.disk import Now, act
from corral.cli.errors import hinted
from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.target import find, run
from corral.errors import InvalidArgument

if TYPE_CHECKING:
    from corral.client.cards import Addresses
    from corral.client.domain import Domain
    from corral.model.devices.interface import Interface, PortForward
    from corral.model.domain import Domain as DomainDocument

Card = typer.Option("--nic", metavar="MAC", help="Which card: its MAC address or alias.", show_default=False)


class Cable(StrEnum):
    """Whether a card's cable is plugged in."""

    up = "up"
    down = "down"


def ls(name: Name, connect: Connect = None, output: Format = Output.table) -> None:
    """List a machine's network cards."""
    columns = ["MAC", "TYPE", "SOURCE", "MODEL", "LINK", "HOST", "ALIAS"]
    device_table.show(
        name, connect, output, lambda document: [_row(each) for each in document.devices.interfaces], columns
    )


def _row(interface: Interface) -> dict[str, Any]:
    return {
        "mac": interface.mac.address if interface.mac is not None else None,
        "type": "passt" if interface.passt else interface.type,
        "source": _source(interface),
        "model": interface.model.type if interface.model is not None else None,
        "link": interface.link.state if interface.link is not None else "up",
        "host": interface.target.dev if interface.target is not None else None,
        "alias": interface.alias.name if interface.alias is not None else None,
    }


def _source(interface: Interface) -> str | None:
    """What the card is plugged into."""
    source = interface.source
    if interface.port_forwards:
        return ", ".join(text for each in interface.port_forwards for text in _published(each))
    if source is None:
        return None
    place = f"{source.address or ''}:{source.port}" if source.port is not None else None
    function = str(interface.lent) if interface.lent is not None else None
    return source.bridge or source.dev or source.path or place or function


def _published(forward: PortForward) -> list[str]:
    """As `--publish` takes them."""
    host = f"[{forward.address}]" if ":" in (forward.address or "") else forward.address
    before, behind = f"{host}:" if host else "", "/udp" if forward.proto == "udp" else ""
    return [
        f"{before}{each.start}{f'-{each.end}' if each.end else ''}:{each.to or each.start}{behind}"
        for each in forward.ranges
        if each.exclude != "yes"
    ]


def add(
    name: Name,
    bridge: Annotated[str | None, typer.Option(help="On this bridge of the host's.", show_default=False)] = None,
    macvtap: Annotated[str | None, typer.Option(help="Beside this link of the host's.", show_default=False)] = None,
    mode: Annotated[str, typer.Option(help="How a macvtap meets the others there.")] = "bridge",
    tap: Annotated[str | None, typer.Option(help="On a tap that is there.", show_default=False)] = None,
    passt: Annotated[bool, typer.Option("--passt", help="A user network by passt.")] = False,
    publish: Annotated[
        list[str] | None,
        typer.Option("-p", "--publish", metavar="[ADDRESS:]PORT[:GUEST'S]", help="A port to forward, with passt."),
    ] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Another guest connects here.")] = None,
    socket: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Connect to one that listens.")] = None,
    multicast: Annotated[str | None, typer.Option(metavar="ADDRESS:PORT", help="Guests meet there.")] = None,
    model: Annotated[str, typer.Option(help="The card: virtio, e1000e …")] = "virtio",
    mac: Annotated[str | None, typer.Option(help="Its address.", show_default=False)] = None,
    mtu: Annotated[int | None, typer.Option(help="Its largest packet.", show_default=False, min=68, max=65521)] = None,
    queues: Annotated[int | None, typer.Option(help="Pairs of queues.", show_default=False, min=1, max=256)] = None,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Give a machine a network card, on a user network of its own unless told: at once if it runs, and from then on.

    corral nic add web --bridge br0

    corral nic add web --publish 8080:80
    """

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import cards, devices

        card = cards.card(
            bridge=bridge, macvtap=macvtap, mode=mode, tap=tap, listen=listen, connect=socket, multicast=multicast,
            passt=passt, publish=publish or (), model=model, mac=mac, mtu=mtu, queues=queues,
        )  # fmt: skip
        if mac is not None and any(mac.lower() in devices.card_names(each) for each in document.devices.interfaces):
            raise InvalidArgument(f"{domain.name} has a card {mac} already", hint="leave out --mac to have one chosen")
        with hinted("passt is not installed", "apt install passt where the daemon runs, or leave --publish out"):
            await domain.attach(card, config=False if now else None)
        return f"{domain.name} has a card {card.mac.address if card.mac is not None else ''}"

    act(connect, name, change)


def rm(name: Name, card: Annotated[str | None, Card] = None, now: Now = False, connect: Connect = None) -> None:
    """Take a network card away; returns when the guest has let go of it."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import devices
        from corral.client.taking_away import take_away

        found = await take_away(domain, document, lambda each: devices.card(each, card), now=now)
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


def limit(
    name: Name,
    inbound: Annotated[int | None, typer.Option("--in", metavar="KB/S", help="What the guest receives.")] = None,
    outbound: Annotated[int | None, typer.Option("--out", metavar="KB/S", help="What it sends.")] = None,
    card: Annotated[str | None, Card] = None,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Limit how fast a card is, in kilobytes a second; 0 takes a limit away.

    corral nic limit web --in 1000 --out 500
    """

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client import cards, devices

        found = devices.card(document, card)
        mac = found.mac.address if found.mac is not None else ""
        await cards.limit(domain, mac, inbound=inbound, outbound=outbound, config=False if now else None)
        said = [f"{way} {rate} kB/s" for way, rate in (("in", inbound), ("out", outbound)) if rate]
        return f"{mac}: {', '.join(said) or 'as fast as it goes'}"

    act(connect, name, change)


def addresses(name: Name, connect: Connect = None, output: Format = Output.table) -> None:
    """A running machine's IP addresses, and who knows them: its agent, leases of networks, the host's neighbours."""

    async def body() -> Addresses:
        from corral.client import cards
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            return await cards.addresses(await find(host, name))

    found = run(body())
    if output is Output.json:
        emit_json({"known": [asdict(each) for each in found.known], "silent": found.silent})
        return
    rows = [[each.mac or "-", each.source, f"{each.address}/{each.prefix}", each.name] for each in found.known]
    rows += [["-", source, "-", why] for source, why in found.silent.items()]
    print(table(["MAC", "SOURCE", "ADDRESS", "NAME"], rows))
