"""After a daemon's death: the documents brought to what QEMU has, and half-done plugs and unplugs ended.

QEMU is asked which devices it has. A plug that was noted and whose device is there is finished as if it had been
acknowledged; of one whose device is not there the rest is taken out. A device of the document that QEMU has no more
was let go of while nobody listened. An exchange of media is taken for what is in the drive.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from corral.errors import CorralError
from corral.hypervisor.devices import links
from corral.hypervisor.disks import images, media
from corral.hypervisor.hotplug import hotplug, kept_files, plug, unplug
from corral.hypervisor.hotplug.device_changes import Change, Note, machinery, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.qemu.machine import Machine

log = logging.getLogger(__name__)


async def reconcile(domain: Domain, run: Run, machine: Machine) -> None:
    """Bring the documents of a machine that was found again to what QEMU has; the daemon has just begun."""
    try:
        there = await unplug.peripherals(machine)
        text = await domain.hypervisor.store.plug(run.id)
        note = Note.from_json(text) if text is not None else None
        if note is not None:
            await _end(domain, run, machine, note, there)
            there = await unplug.peripherals(machine)
        asked = note.alias if note is not None and note.kind == "unplug" else None
        for alias in await _missing(domain, run, there, asked):
            log.info("domain %s: device '%s' was let go of while no daemon ran", domain.name, alias)
            await unplug.forget(domain, run, alias)
        await kept_files.take_up(run, machine)
    except CorralError:
        log.exception("domain %s: its devices cannot be compared with its document", domain.name)


async def _missing(domain: Domain, run: Run, there: Iterable[str], asked: str | None) -> list[str]:
    """Aliases of devices that the live document has and QEMU has not; `asked`: the one that was to be unplugged."""
    from corral.model import device_set
    from corral.qemu import plan, plugging

    facts = await machinery(domain, run)
    gone = []
    for device in device_set.all_of(run.live.document):
        if device.alias is None or device.alias.name in there:
            continue
        try:
            plugging.refuse_unplug(run.live.document, device)
            parts = plan.device_parts(run.live.document, device, facts.binary, facts.runtime)
        except CorralError:
            continue  # nothing that a guest could let go of
        if device.alias.name != asked and any("failover_pair_id" in part.props for part in parts):
            continue  # QEMU keeps it back until the guest's driver of the card that stays asks for it
        if any(part.kind == "device" and part.id == device.alias.name for part in parts):
            gone.append(device.alias.name)
    return gone


async def _end(domain: Domain, run: Run, machine: Machine, note: Note, there: frozenset[str]) -> None:
    match note.kind:
        case "plug":
            await _end_plug(domain, run, note, there)
        case "media":
            await _end_media(domain, run, machine, note)
        case "unplug":
            await domain.hypervisor.store.end_plug(run.id)  # if it happened, `_missing` finds that out


async def _end_plug(domain: Domain, run: Run, note: Note, there: frozenset[str]) -> None:
    from corral.model import device_set
    from corral.model.devices.interface import Interface
    from corral.qemu import plugging

    if device_set.by_alias(run.live.document, note.alias) is not None:
        await domain.hypervisor.store.end_plug(run.id)
        return
    devices = [device_set.read_device(live) for live, _ in note.devices]
    if any(kind == "device" and name not in there for kind, name in note.parts):
        log.info("domain %s: the plug of device '%s' was not complete, taking it out", domain.name, note.alias)
        await _take_out(run, note.parts)
        await links.release(domain, run, [each for each in devices if isinstance(each, Interface)])
        await unplug.give_back(domain, run, devices)
        await domain.hypervisor.store.end_plug(run.id)
        return
    plain = [device_set.read_device(base) for _, base in note.devices]
    for device in devices:
        for name, arguments in plugging.after(device):
            await run.require_machine().monitor.execute(name, arguments)
    config = hotplug.attached(*plain) if note.config and domain.config is not None else None
    change = plug.change(devices, plain, config)
    try:
        await write(domain, run, change)
    except CorralError:
        if config is None:
            raise
        log.exception("domain %s: device '%s' does not fit its definition any more", domain.name, note.alias)
        await write(domain, run, plug.change(devices, plain, None))
    log.info("domain %s: device '%s' was plugged in and is now in its document", domain.name, note.alias)
    plug.tell(domain, run, devices)


async def _take_out(run: Run, parts: Sequence[Sequence[str]]) -> None:
    from corral.qemu.runtime import Part

    await unplug.take_out(run, [Part(kind, name, {}) for kind, name in parts])  # type: ignore[arg-type]


async def _end_media(domain: Domain, run: Run, machine: Machine, note: Note) -> None:
    """What is in the drive decides: the new medium, the old one, or none."""
    from corral.model import device_set
    from corral.model.devices.disk import Disk

    drive = device_set.by_alias(run.live.document, note.alias)
    block = await media.block_of(machine, note.alias)
    if not isinstance(drive, Disk) or block is None:
        await domain.hypervisor.store.end_plug(run.id)
        return
    new = Disk.from_xml(note.devices[0][0])
    inside = (block.get("inserted") or {}).get("node-name")
    fresh = [name for kind, name in note.parts if kind == "blockdev"]
    if inside is not None and (not fresh or inside != fresh[-1]):
        await _take_out(run, note.parts)  # the old one, or whatever somebody put in by hand
        await domain.hypervisor.store.end_plug(run.id)
        return
    if inside is None and fresh:
        await _take_out(run, note.parts)
        new.source = None
    old_parts = await media.parts_of(domain, run, drive)
    await media.drop(run, old_parts)
    domain.hypervisor.images.release_paths(domain.uuid, await images.real_paths(drive))
    await write(domain, run, Change(live=media.put(drive, new), base=media.put(drive, media.plain(new))))
