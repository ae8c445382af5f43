"""Network cards of a domain: how fast they may be, what neighbours know of them, what changes live.

A client names a card by its address or by its link on the host. Limits are what the document's `<bandwidth>` says;
libvirt's parameters are the same by other names (VIR_DOMAIN_BANDWIDTH_*).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from corral.errors import ConfigUnsupported, InvalidArgument, OperationUnsupported
from corral.hypervisor.devices import links
from corral.hypervisor.figures.statistics import named_interface as named
from corral.hypervisor.guest import guest_facts
from corral.hypervisor.hotplug.device_changes import Change, Edit, begun, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.interface import Bandwidth, Interface
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.runtime import Command

DIRECTIONS = ("inbound", "outbound")
#: libvirt's parameters, all unsigned: kilobytes a second, and KiB for a burst.
PARAMETERS = (
    *("inbound.average", "inbound.peak", "inbound.burst", "inbound.floor"),
    *("outbound.average", "outbound.peak", "outbound.burst"),
)


async def neighbours(domain: Domain) -> tuple[guest_facts.Interface, ...]:
    """The addresses that the host's own table of neighbours has for a running domain's cards."""
    cards = domain.require_run().live.document.devices.interfaces
    table = await asyncio.to_thread(_neighbours) if any(each.target for each in cards) else []
    found = []
    for card in cards:
        mac = card.mac.address.lower() if card.mac is not None else ""
        known = tuple(guest_facts.Address(family, address, 0) for own, family, address in table if own == mac)
        if known and card.target is not None:
            found.append(guest_facts.Interface(card.target.dev, mac, known))
    return tuple(found)


def _neighbours() -> list[tuple[str, str, str]]:
    from corral.network import link

    return link.neighbours()


def parameters(domain: Domain, name: str, flags: int) -> dict[str, int]:
    """A card's limits by libvirt's names, 0 for none; by virDomainModificationImpact."""
    live, _ = domain.impact(flags)
    document = domain.require_run().live.document if live else domain.config.document if domain.config else None
    assert document is not None
    limits = named(document, name).bandwidth
    found = {}
    for parameter in PARAMETERS:
        direction, _, figure = parameter.partition(".")
        found[parameter] = getattr(getattr(limits, direction, None), figure, None) or 0
    return found


async def set_parameters(domain: Domain, name: str, given: Mapping[str, Any], flags: int) -> None:
    """Limit a card, now, in the definition, or both; an average of 0 takes that direction's limit away."""
    for parameter in given:
        if parameter not in PARAMETERS:
            raise InvalidArgument(f"parameter '{parameter}' not supported")

    async def work() -> None:
        live, config = domain.impact(flags)
        edit = _limited(name, given) if config else None
        if (run := await begun(domain, edit, live=live)) is None:
            return
        card = named(run.live.document, name)
        wanted = card.copy()
        wanted.bandwidth = _bandwidth(card, given)
        await change(domain, run, card, wanted, edit)

    await domain.change("set interface parameters", work)


def _limited(name: str, given: Mapping[str, Any]) -> Edit:
    def edit(document: DomainDocument) -> None:
        from corral.model import device_set

        card = named(document, name)
        changed = card.copy()
        changed.bandwidth = _bandwidth(card, given)
        device_set.replace(document, card, changed)

    return edit


def _bandwidth(card: Interface, given: Mapping[str, Any]) -> Bandwidth | None:
    """A card's limits after a change. Raises for what its kind cannot have, and for a peak without an average."""
    from corral.model.devices.interface import LINKS, Bandwidth, Inbound, Outbound

    if card.type not in LINKS:
        raise ConfigUnsupported(
            f"setting bandwidth on interfaces of type '{card.type}' is not implemented yet",
            hint="only a card with a link on the host can be limited: bridge, ethernet, direct",
        )
    if given.get("inbound.floor"):
        mac = card.mac.address if card.mac is not None else ""
        raise OperationUnsupported(
            f"Invalid use of 'floor' on interface with MAC address {mac} - 'floor' is only supported for interface type"
            " 'network' with forward type 'nat', 'route', 'open' or none"
        )
    found: dict[str, Inbound | None] = {}
    for direction, cls in zip(DIRECTIONS, (Inbound, Outbound), strict=True):
        figures = {each: int(given.get(f"{direction}.{each}", 0)) for each in ("average", "peak", "burst")}
        found[direction] = getattr(card.bandwidth, direction, None)
        if f"{direction}.average" in given:
            found[direction] = (
                cls.model_validate({k: v for k, v in figures.items() if v}) if figures["average"] else None
            )
        elif figures["peak"] or figures["burst"]:
            raise InvalidArgument(f"'{direction}.average' is missing; peak and burst mean nothing without it")
    return Bandwidth.model_validate(found) if any(found.values()) else None


async def change(domain: Domain, run: Run, card: Interface, wanted: Interface, config: Edit | None) -> None:
    """Bring a card of the running machine to another cable, limit or bridge; what was done is undone when one fails."""
    from corral.model import device_set
    from corral.model.devices.interface import Interface

    done: list[Callable[[], None]] = []
    commands, back = _cable(card, wanted)

    def edit(document: DomainDocument) -> None:
        found = device_set.twin(document, card)
        if isinstance(found, Interface):
            changed = found.copy()
            changed.link = wanted.link.copy() if wanted.link is not None else None
            changed.bandwidth = wanted.bandwidth.copy() if wanted.bandwidth is not None else None
            changed.source = wanted.source.copy() if wanted.source is not None else None
            changed.port = wanted.port.copy() if wanted.port is not None else None
            device_set.replace(document, found, changed)

    try:
        for act, undo in _host_steps(card, wanted):
            done.append(undo)
            await asyncio.to_thread(act)
        await carry_out(domain, run, commands, Change(live=edit, base=edit, config=config), back)
    except BaseException:
        for undo in reversed(done):
            await asyncio.to_thread(undo)
        raise


def _cable(card: Interface, wanted: Interface) -> tuple[list[Command], list[Command]]:
    """What plugs the cable in or pulls it, and what does the opposite."""
    states = [each.link is None or each.link.state == "up" for each in (wanted, card)]
    if states[0] == states[1]:
        return [], []
    alias = card.alias.name if card.alias is not None else ""
    there, back = ([("set_link", {"name": alias, "up": state})] for state in states)
    return there, back


def _host_steps(card: Interface, wanted: Interface) -> list[tuple[Callable[[], None], Callable[[], None]]]:
    """What is to be done to the host's link, each with its undoing."""
    steps: list[tuple[Callable[[], None], Callable[[], None]]] = []
    old, new = (each.source.bridge if each.source is not None else None for each in (card, wanted))
    if old != new and old is not None and new is not None and card.target is not None:
        name = card.target.dev
        steps.append((lambda: links.move(name, new), lambda: links.move(name, old)))
    alone = [each.port is not None and each.port.isolated == "yes" for each in (wanted, card)]
    if alone[0] != alone[1] and card.target is not None:
        tap = card.target.dev
        steps.append((lambda: links.isolate(tap, alone[0]), lambda: links.isolate(tap, alone[1])))
    if _said(card.bandwidth) != _said(wanted.bandwidth):
        steps.append((lambda: links.limit(card, wanted.bandwidth), lambda: links.limit(card, card.bandwidth)))
    return steps


def _said(bandwidth: Bandwidth | None) -> object:
    return bandwidth.to_data() if bandwidth is not None else None
