"""Plugging a device into a running machine, and what is undone when QEMU refuses a part of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from corral.errors import CorralError, HostError
from corral.hypervisor import events, secrets
from corral.hypervisor.devices import host_devices, lending, links, servers
from corral.hypervisor.disks import images, raw_io, reservations
from corral.hypervisor.guest import guest_agent
from corral.hypervisor.hotplug import unplug
from corral.hypervisor.hotplug.device_changes import Change, Edit, Note, machinery, names, write
from corral.hypervisor.memory import memory_devices
from corral.hypervisor.run import Leftover
from corral.qemu.monitor import MonitorCommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine
    from corral.qemu.plugging import Plug
    from corral.qemu.runtime import Command, Image, Part

log = logging.getLogger(__name__)


async def prepare(domain: Domain, run: Run, device: Device) -> tuple[Plug, dict[str, tuple[Image, ...]]]:
    """Everything that can be known before QEMU is told: the parts, the next document, the images of a disk."""
    from corral.qemu import plugging

    plugging.refuse(run.live.document, device)
    raw_io.refuse_plug(domain.hypervisor.account, run, device)
    device = await asyncio.to_thread(host_devices.found, device)
    generics = await asyncio.to_thread(host_devices.generics, [device])
    chains = await _chains(run.live.document, device)
    facts = await machinery(domain, run, chains)
    first = max(run.next_node, plugging.next_node(run.live.document))
    plug = await asyncio.to_thread(
        plugging.prepare,
        run.live.document,
        device,
        facts.binary,
        replace(facts.runtime, generics=generics),
        first_node=first,
        besides=[each for leftover in run.leftovers for each in leftover.devices],
    )
    return plug, chains


async def _chains(live: DomainDocument, device: Device) -> dict[str, tuple[Image, ...]]:
    """The images of the disk that is to be plugged."""
    from corral.model.devices.disk import Disk
    from corral.qemu import default_devices

    if not isinstance(device, Disk):
        return {}
    disk = device.copy()
    default_devices.complete_disk(disk)
    chains, absent = await images.chains_of(only(live, [disk]))
    if absent and device.source is not None:
        if device.device != "cdrom":
            raise HostError(f"Cannot access storage file '{device.source.path}': No such file or directory")
        device.source = None
    return chains


def only(document: DomainDocument, disks: list[Any], hostdevs: Sequence[Any] = ()) -> DomainDocument:
    """The document with these disks and host devices alone, for what looks at all disks of one."""
    from corral.model import device_set

    twin = device_set.shared(document)
    twin.devices.disks, twin.devices.hostdevs = disks, list(hostdevs)
    return twin


async def run_plug(
    domain: Domain,
    run: Run,
    plug: Plug,
    chains: dict[str, tuple[Image, ...]],
    config: Edit | None,
    opened: Mapping[str, int],
) -> None:
    """Plug it in, write it down, tell; on any failure nothing of it is left. `opened`: host's ends of it, open."""
    from corral.model.devices.disk import Disk
    from corral.model.devices.hostdev_scsi import SCSIHostdev
    from corral.model.devices.interface import Interface
    from corral.qemu import plugging

    machine = run.require_machine()
    hypervisor = domain.hypervisor
    lent = [each for each in plug.devices if isinstance(each, SCSIHostdev)]
    paths = await images.paths_of(only(plug.document, [d for d in plug.devices if isinstance(d, Disk)], lent), chains)
    hypervisor.images.refuse_twice(domain.uuid, domain.name, paths)
    hypervisor.images.claim(domain.uuid, domain.name, paths)
    run.next_node = max(run.next_node, plugging.next_node(plug.document))
    try:
        async with links.opened(domain, run, [d for d in plug.devices if isinstance(d, Interface)]) as ends:
            await hypervisor.store.begin_plug(run.id, _note(plug, config is not None).to_json())
            await lending.claim(domain, run, plug.devices)
            lending.allow_locking(machine.process.pid, plug.document)
            await servers.start(domain, run, await asyncio.to_thread(servers.servers_of, domain, plug.devices))
            if reservations.wanted(plug.devices):
                await reservations.ensure(domain, run)
            with memory_devices.noticing(domain, run, plug.devices) as expected:
                async with secrets.lent(domain, run, plug.devices):
                    await _execute(domain, run, machine, plug, {**ends, **opened})
                try:
                    await memory_devices.noticed(run, expected)
                    if memory_devices.modules(plug.devices):
                        await memory_devices.look(machine, plug.document)
                except BaseException:
                    await _undo(domain, run, plug.parts, plug.devices)
                    raise
            try:
                await write(domain, run, change(plug.devices, plug.plain, config))
            except BaseException:
                await _undo(domain, run, plug.parts, plug.devices)
                raise
    except BaseException:
        hypervisor.images.release_paths(domain.uuid, paths)
        if not any(each.devices == tuple(plug.devices) for each in run.leftovers):  # which keep what they have
            await unplug.give_back(domain, run, plug.devices)
        await _strike_out(domain, run)
        raise
    memory_devices.counted(run, plug.devices, 1)
    await links.follow_all(domain, run)
    tell(domain, run, plug.devices)


def tell(domain: Domain, run: Run, devices: Sequence[Device]) -> None:
    """The devices are there."""
    guest_agent.appear(domain, run)
    for device in devices:
        if device.alias is not None:
            domain.hypervisor.events.emit(events.DeviceAdded(domain.identity(), device.alias.name))


def _note(plug: Plug, config: bool) -> Note:
    alias = plug.devices[-1].alias
    return Note(
        kind="plug",
        alias=alias.name if alias is not None else "",
        parts=names(plug.parts),
        devices=[
            (device.to_xml(secure=True), plain.to_xml(secure=True))
            for device, plain in zip(plug.devices, plug.plain, strict=True)
        ],
        config=config,
    )


def change(devices: Sequence[Device], plain: Sequence[Device], config: Edit | None) -> Change:
    """What a plug makes of the documents: `devices` as they run, `plain` as a document that does not run has them."""
    from corral.qemu import plugging

    def live(document: DomainDocument) -> None:
        for device in devices:
            plugging.insert(document, device)

    def base(document: DomainDocument) -> None:
        for device in plain:
            plugging.insert(document, device)

    return Change(live=live, base=base, config=config)


async def _execute(domain: Domain, run: Run, machine: Machine, plug: Plug, ends: Mapping[str, int]) -> None:
    """Make the parts, host's side first; when QEMU refuses one, those that it took are undone and the refusal told.

    Files and the host's ends of network cards go one by one, each with its descriptor; then all back ends in one go;
    then, since the guest sees them at once and may be slow to let go again, the devices, with what is told to QEMU when
    they are there.
    """
    from corral.qemu import live, render

    taken: list[Part] = []
    try:
        await open_files(machine, [part for part in plug.parts if part.kind == "fdset"], taken)
        await _hand_in(machine, [part for part in plug.parts if part.kind == "fd"], ends, taken)
        backends = [part for part in plug.parts if part.kind not in ("fdset", "fd", "device")]
        answers = await send_all(machine, render.attach(backends), backends, taken)
        devices = [part for part in plug.parts if part.kind == "device"]
        await send_all(machine, [*render.attach(devices), *plug.setup], devices, taken)
    except BaseException:
        await _undo(domain, run, taken, plug.devices)
        raise
    ptys = {
        part.id: str(answer["pty"])
        for part, answer in zip(backends, answers, strict=True)
        if isinstance(answer, dict) and answer.get("pty")
    }
    if ptys:
        live.set_ptys(plug.document, ptys)


async def open_files(machine: Machine, files: Sequence[Part], taken: list[Part]) -> None:
    """Hand QEMU the files that it may not open itself."""
    if not files:
        return
    from corral.qemu import descriptors, render

    async with descriptors.opened(files) as opened:
        for part, (name, arguments) in zip(files, render.attach(files), strict=True):
            await machine.monitor.execute(name, arguments, descriptor=opened[part.id])
            taken.append(part)


async def _hand_in(machine: Machine, parts: Sequence[Part], ends: Mapping[str, int], taken: list[Part]) -> None:
    """Hand QEMU the descriptors of the host's ends."""
    from corral.qemu import render

    for part, (name, arguments) in zip(parts, render.attach(parts), strict=True):
        await machine.monitor.execute(name, arguments, descriptor=ends[part.id])
        taken.append(part)


async def send_all(
    machine: Machine, commands: Sequence[Command], parts: Sequence[Part], taken: list[Part]
) -> list[Any]:
    """Send commands, those of `parts` first, without waiting in between; note in `taken` which parts QEMU has now.

    A refusal names files as the document does: `taken` has their descriptors' sets.
    """
    from corral.qemu import descriptors

    answers = await asyncio.gather(
        *(machine.monitor.execute(name, arguments) for name, arguments in commands), return_exceptions=True
    )
    taken += [part for part, answer in zip(parts, answers, strict=False) if not _refused(answer)]
    for answer in answers:
        if isinstance(answer, MonitorCommandFailed):
            answer.detail = descriptors.with_paths(answer.detail, taken)
        if isinstance(answer, BaseException):
            raise answer
    return answers[: len(parts)]


def _refused(answer: object) -> bool:
    """Whether QEMU said no; a command whose answer did not come may have happened."""
    return isinstance(answer, MonitorCommandFailed)


async def _undo(domain: Domain, run: Run, parts: Sequence[Part], devices: Sequence[Device]) -> None:
    """Take out what QEMU has taken of a plug that failed; never raises.

    A guest that already saw the device may keep it for a while: it is out, and the rest with it, when it lets go, and
    until then its place is not given to another.
    """
    if domain.run is not run or run.machine is None:
        return
    try:
        await unplug.take_out(run, parts)
    except CorralError as error:
        log.warning("domain %s: part of a plug that failed is still there: %s", domain.name, error)
        run.leftovers.append(Leftover(tuple(parts), tuple(devices)))


async def _strike_out(domain: Domain, run: Run) -> None:
    try:
        await domain.hypervisor.store.end_plug(run.id)
    except CorralError:
        log.exception("domain %s: cannot note that a plug is undone", domain.name)
