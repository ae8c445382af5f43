"""The host's ends of a domain's network cards: made before QEMU has them, and cleared away when it has let go.

A tap goes by itself when QEMU closes its descriptor, and a passt when QEMU's connection is closed. A macvtap stays: its
name is in the store before it is made, and the next daemon removes those whose run is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.errors import ConfigUnsupported, CorralError, HostError
from corral.hypervisor.outlasting import completed, in_thread
from corral.model.devices.interface import LINKS

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.hypervisor.run import Run
    from corral.model.devices.interface import Bandwidth, Interface

log = logging.getLogger(__name__)

VHOST_NET = "/dev/vhost-net"
#: Seconds between the end of a passt and its next start.
PASST_PAUSE = 1.0
#: Seconds that it waits for the change of the machine that is under way.
PASST_PATIENCE = 600.0
_NOTE = "macvtaps of "

Descriptors = dict[str, int]


def vhost_offered(device: str = VHOST_NET) -> bool:
    """Whether the host's kernel moves packets itself (vhost-net) for whom we are."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def opened(domain: Domain, run: Run, interfaces: Iterable[Interface]) -> AsyncIterator[Mapping[str, int]]:
    """Make the host's ends of cards of a live document: descriptors by the names that the plan gives them.

    The links' names are written into the document. What was made is undone when the block fails, and our descriptors
    are closed at its end. Raises HostError for what the host refuses.
    """
    interfaces = list(interfaces)
    if places := [place for each in interfaces for place in _listening_at(each)]:
        await in_thread(_refuse_taken, places, domain.hypervisor.account)
    cards = [each for each in interfaces if each.passt or each.type in LINKS]
    fds: Descriptors = {}
    made: list[Interface] = []  # a link whose name another has is the other's
    try:
        try:
            for interface in cards:
                await _open(domain, run, interface, fds, made)
            yield fds
        finally:
            for fd in fds.values():  # before what limits a tap is looked for: the tap goes with its last descriptor
                os.close(fd)
    except BaseException:
        await completed(release(domain, run, made))
        raise


def _listening_at(interface: Interface) -> list[tuple[str, int]]:
    """Where QEMU itself will listen for the card."""
    source = interface.source
    if interface.type != "server" or source is None or source.port is None:
        return []
    return [(source.address or "", source.port)]


def _refuse_taken(places: list[tuple[str, int]], account: Account | None) -> None:
    from corral.network import listening

    listening.refuse_taken(places, as_root=account is None and os.geteuid() == 0)


async def _open(domain: Domain, run: Run, interface: Interface, fds: Descriptors, made: list[Interface]) -> None:
    from corral.model.devices.interface import InterfaceTarget
    from corral.qemu.devices.interface import descriptors

    assert interface.alias is not None
    if interface.passt:
        made.append(interface)
        await start_passt(domain, run, interface)
        return
    names = descriptors(interface, vhost=vhost_offered(_vhost_device(interface)))
    given = interface.target.dev if interface.target is not None else None
    if interface.type == "direct":
        name = await _note_macvtap(domain, run, interface, given)
        interface.target = InterfaceTarget(dev=name)
        made.append(interface)
        await in_thread(_open_macvtap, interface, name, names, fds)
    else:
        made.append(interface)
        bridge = interface.source.bridge if interface.source is not None else None
        name = await in_thread(_open_tap, interface, given, bridge, names, fds)
        interface.target = interface.target or InterfaceTarget(dev=name)
        interface.target.dev = name


def _vhost_device(interface: Interface) -> str:
    return (interface.backend.vhost if interface.backend is not None else None) or VHOST_NET


def _open_tap(interface: Interface, name: str | None, bridge: str | None, names: list[str], fds: Descriptors) -> str:
    from corral.network import bridge_helper, link, tap

    if bridge is not None:
        link.require_bridge(bridge)
    device = (interface.backend.tap if interface.backend is not None else None) or tap.TUN
    mine = interface.target is not None and interface.target.managed == "no"
    sndbuf = interface.tune.sndbuf if interface.tune is not None else None
    helped = False
    try:
        made = tap.open_tap(
            name, queues=interface.queues, headers=interface.virtio, device=device, there=mine, sndbuf=sndbuf
        )
    except PermissionError as error:
        if bridge is None or interface.queues > 1 or interface.bandwidth is not None or name is not None:
            raise HostError(f"Unable to open {device}: {error.strerror}", hint=_NEEDS_ROOT) from error
        made, helped = bridge_helper.open_tap(bridge, headers=interface.virtio), True
    fds.update(zip(names, made.fds, strict=False))
    _open_vhost(interface, names, fds)
    if not mine and not helped:
        assert interface.mac is not None
        mtu = interface.mtu.size if interface.mtu is not None else None
        isolated = interface.port is not None and interface.port.isolated == "yes"
        link.connect_tap(made.name, mac=interface.mac.address, mtu=mtu, bridge=bridge, isolated=isolated)
    _limit(interface, made.name, interface.bandwidth)
    return made.name


_NEEDS_ROOT = "taps are made by root's daemon; type='user' needs no rights, and qemu-bridge-helper gives simple bridges"


def _open_macvtap(interface: Interface, name: str, names: list[str], fds: Descriptors) -> None:
    from corral.network import link, tap

    source, mtu = interface.source, interface.mtu
    assert source is not None and source.dev is not None and interface.mac is not None
    link.make_macvtap(
        name,
        parent=source.dev,
        mode=source.mode or "vepa",
        mac=interface.mac.address,
        mtu=mtu.size if mtu is not None else None,
    )
    fds.update(zip(names, link.open_macvtap(name, interface.queues), strict=False))
    for each in names[: interface.queues]:
        tap.set_headers(fds[each], headers=interface.virtio, queues=interface.queues)
    _open_vhost(interface, names, fds)
    _limit(interface, name, interface.bandwidth)


def limit(interface: Interface, bandwidth: Bandwidth | None) -> None:
    """Give the link of a running card other limits."""
    if interface.target is None:
        raise HostError("the card has no link on the host that could be limited")
    _limit(interface, interface.target.dev, bandwidth, changed=True)


def _limit(interface: Interface, name: str, bandwidth: Bandwidth | None, *, changed: bool = False) -> None:
    if bandwidth is None and not changed:
        return
    from corral.network.bandwidth import set_limits

    inbound, outbound = (bandwidth.inbound, bandwidth.outbound) if bandwidth is not None else (None, None)
    # What leaves the host through a tap the guest receives; through a macvtap leaves what the guest sends.
    leaving, coming = (outbound, inbound) if interface.type == "direct" else (inbound, outbound)
    set_limits(name, leaving, coming)


def move(name: str, bridge: str) -> None:
    """Put a tap on another bridge."""
    from corral.network import link

    link.require_bridge(bridge)
    link.set_bridge(name, bridge)


def isolate(name: str, isolated: bool) -> None:
    """Keep a tap's port from the other isolated ones of its bridge, or no longer."""
    from corral.network import link

    link.set_isolated(name, isolated)


def _open_vhost(interface: Interface, names: list[str], fds: Descriptors) -> None:
    for name in names[interface.queues :]:
        try:
            fds[name] = os.open(_vhost_device(interface), os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigUnsupported(
                "vhost-net was requested for an interface, but is unavailable",
                hint="load the host's kernel module vhost_net, or use <driver name='qemu'/>",
            ) from error


async def start_passt(domain: Domain, run: Run, interface: Interface) -> None:
    """Start the passt of a card, and begin to watch it."""
    from corral.network import passt
    from corral.qemu.devices.interface import passt_socket

    listen = passt_socket(interface, run.directory)
    await in_thread(partial(passt.start, interface, listen=listen, account=domain.hypervisor.account))
    watch_passt(domain, run, interface)


def watch_passt(domain: Domain, run: Run, interface: Interface) -> None:
    """When the passt of a card ends before its machine it is started again, and QEMU, where it can, connects again."""
    from corral.network import passt
    from corral.qemu.devices.interface import passt_socket
    from corral.qemu.process import Process, start_time

    assert interface.alias is not None
    alias = interface.alias.name
    try:
        # What is in this file QEMU's account may have written: the process is watched, never signalled.
        pid = passt.pid(passt_socket(interface, run.directory))
        process = Process.adopt(pid, start_time(pid))
    except (OSError, ValueError, CorralError) as error:
        log.debug("domain %s: the passt of card '%s' is not there: %s", domain.name, alias, error)
        domain.hypervisor.watch(_restart_passt(domain, run, alias))
        return
    run.passts[alias] = process

    def ended() -> None:
        if run.passts.pop(alias, None) is not None:
            domain.hypervisor.watch(_restart_passt(domain, run, alias))

    process.on_end(ended)


async def _restart_passt(domain: Domain, run: Run, alias: str) -> None:
    """Start a passt again, a moment later: it also ends when its machine ends, or its card is taken out."""
    from corral.model import device_set
    from corral.model.devices.interface import Interface
    from corral.qemu.devices.interface import can_reconnect

    await asyncio.sleep(PASST_PAUSE)
    try:
        async with domain.jobs.hold("start passt again", patience=PASST_PATIENCE):  # the card may be on its way out
            card = device_set.by_alias(run.live.document, alias)
            if domain.run is not run or run.ending or not isinstance(card, Interface) or alias in run.passts:
                return
            binary = await domain.hypervisor.offer.binary(run.live.document.devices.emulator)
            if not can_reconnect(binary):
                why = "has ended; detach and attach the card"
                log.warning("domain %s: the passt of card '%s' %s", domain.name, alias, why)
                return
            log.warning("domain %s: the passt of card '%s' has ended and is started again", domain.name, alias)
            await start_passt(domain, run, card)
            if domain.run is not run:  # it has ended in the meantime: no QEMU comes to this one
                await release(domain, run, [card])
    except CorralError as error:
        log.error("domain %s: card '%s' has no passt: %s", domain.name, alias, error)


async def _note_macvtap(domain: Domain, run: Run, interface: Interface, given: str | None) -> str:
    """Choose a macvtap's name, and have the store know it before it exists."""
    from corral.network import tap

    assert interface.mac is not None
    hypervisor = domain.hypervisor
    async with hypervisor.naming:
        others = {name for other in hypervisor.domains() if other.run is not None for name in other.run.macvtaps}
        name = given if given is not None else tap.free_macvtap(frozenset(others))
        if name in others or Path("/sys/class/net", name).exists():  # noqa: ASYNC240 - a look into the kernel's memory
            raise HostError(f"a network link '{name}' is there already")
        run.macvtaps[name] = interface.mac.address.lower()
    await hypervisor.store.set_meta(f"{_NOTE}{run.id}", json.dumps(run.macvtaps))
    return name


async def follow_all(domain: Domain, run: Run) -> None:
    """Have every macvtap take what its card takes now: while nobody listened, or before it was known, that changed."""
    for card in run.live.document.devices.interfaces:
        if card.trust_guest_rx_filters == "yes" and card.alias is not None:
            await follow(domain, run, card.alias.name)


async def follow(domain: Domain, run: Run, alias: str) -> None:
    """A guest changed what a card of its takes: have its macvtap take the same, where the document trusts it."""
    from corral.model import device_set
    from corral.model.devices.interface import Interface

    card = device_set.by_alias(run.live.document, alias)
    if not isinstance(card, Interface) or card.type != "direct" or card.trust_guest_rx_filters != "yes":
        return
    assert card.target is not None
    name = card.target.dev
    try:
        # QEMU tells of the next change only when it has been asked about this one.
        answer = await run.require_machine().monitor.execute("query-rx-filter", {"name": alias})
        before = run.groups.get(name, frozenset())
        address, run.groups[name] = await asyncio.to_thread(_follow, name, answer[0], before)
    except (CorralError, OSError, LookupError) as error:
        log.warning("domain %s: '%s' does not follow its guest's filters: %s", domain.name, name, error)
        return
    if run.macvtaps.get(name) != address:
        run.macvtaps[name] = address
        await domain.hypervisor.store.set_meta(f"{_NOTE}{run.id}", json.dumps(run.macvtaps))


def _follow(name: str, told: Mapping[str, Any], before: frozenset[str]) -> tuple[str, frozenset[str]]:
    from corral.network import rx_filter

    return rx_filter.follow(name, told, before)


async def release(domain: Domain, run: Run, interfaces: Iterable[Interface] | None = None) -> None:
    """Remove what does not go by itself, of some cards or all of the run's; never raises."""
    names = None if interfaces is None else [each.target.dev for each in interfaces if each.target is not None]
    going = {name: mac for name, mac in run.macvtaps.items() if names is None or name in names}
    gone = None if interfaces is None else [each.alias.name for each in interfaces if each.alias is not None]
    for alias in [each for each in run.passts if gone is None or each in gone]:
        run.passts.pop(alias).close()
    await asyncio.to_thread(_dismiss_passts, run, interfaces)
    if going:
        await _remove(domain.hypervisor, run.id, going, kept={k: v for k, v in run.macvtaps.items() if k not in going})
        for name in going:
            run.macvtaps.pop(name, None)
    await asyncio.to_thread(_forget_limits)


def _dismiss_passts(run: Run, interfaces: Iterable[Interface] | None) -> None:
    """End those to which no QEMU has come, or comes any more."""
    from corral.network import passt
    from corral.qemu.devices.interface import passt_socket

    if interfaces is None:
        passt.dismiss_all(run.directory)
        return
    for card in interfaces:
        if card.passt:
            passt.dismiss(passt_socket(card, run.directory))


def _dismiss_strangers(run: Run) -> None:
    """End the passt of a plug that was not even noted."""
    from corral.network import passt
    from corral.qemu.devices.interface import passt_socket

    cards = run.live.document.devices.interfaces
    passt.dismiss_all(run.directory, [passt_socket(card, run.directory) for card in cards if card.passt])


def _forget_limits() -> None:
    """Remove the helpers of limited links that are gone."""
    from corral.host.interfaces import SERVING

    if any(Path("/sys/class/net").glob(f"{SERVING}*")):
        from corral.network import bandwidth

        try:
            bandwidth.sweep()
        except CorralError:
            log.exception("cannot remove what limited links that are gone")


async def _remove(hypervisor: Hypervisor, run_id: int, going: Mapping[str, str], kept: Mapping[str, str]) -> None:
    try:
        await asyncio.to_thread(_remove_macvtaps, going)
        if kept:
            await hypervisor.store.set_meta(f"{_NOTE}{run_id}", json.dumps(dict(kept)))
        else:
            await hypervisor.store.drop_meta(f"{_NOTE}{run_id}")
    except CorralError:
        log.exception("cannot remove the macvtaps %s; the next daemon will try", ", ".join(going))


def _remove_macvtaps(going: Mapping[str, str]) -> None:
    from corral.network import link

    for name, mac in going.items():
        link.remove_macvtap(name, mac)


async def take_up(domain: Domain, run: Run) -> None:
    """Know again what the host has for a run of an earlier daemon's."""
    note = await domain.hypervisor.store.meta(f"{_NOTE}{run.id}")
    run.macvtaps = json.loads(note) if note is not None else {}
    for interface in run.live.document.devices.interfaces:
        if interface.passt:
            watch_passt(domain, run, interface)


async def sweep(hypervisor: Hypervisor) -> None:
    """Remove macvtaps of runs that are over, and those, and passts, that a plug has left behind."""
    runs = {domain.run.id: domain.run for domain in hypervisor.domains() if domain.run is not None}
    for key, note in (await hypervisor.store.metas(_NOTE)).items():
        macvtaps = json.loads(note)
        run = runs.get(int(key.removeprefix(_NOTE)))
        cards = run.live.document.devices.interfaces if run is not None else []
        used = {card.target.dev for card in cards if card.target is not None}
        going = {name: mac for name, mac in macvtaps.items() if name not in used}
        kept = {name: mac for name, mac in macvtaps.items() if name in used}
        if going:
            await _remove(hypervisor, int(key.removeprefix(_NOTE)), going, kept)
        if run is not None:
            run.macvtaps = kept
    for run in runs.values():
        await asyncio.to_thread(_dismiss_strangers, run)
    await asyncio.to_thread(_forget_limits)
