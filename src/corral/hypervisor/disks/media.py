"""Changing what is in a drive: the tray opened (the guest may hold it), the medium exchanged, the tray closed.

The new image is opened before the tray moves, so that one that cannot be read changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from corral.errors import CorralError, OperationFailed, OperationUnsupported
from corral.hypervisor import secrets
from corral.hypervisor.disks import images
from corral.hypervisor.hotplug import answers, plug, unplug
from corral.hypervisor.hotplug.device_changes import Change, Edit, Note, machinery, names, write
from corral.qemu.monitor import MonitorCommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.disk import Disk
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine
    from corral.qemu.runtime import Part

log = logging.getLogger(__name__)

#: Seconds that a guest gets to unlock a tray and open it.
TRAY_TIMEOUT = 5.0


def waits_for(alias: str) -> str:
    """Under what the waiting for a tray is kept among the guest's answers."""
    return f"tray of {alias}"


def tray_moved(run: Run, alias: str, is_open: bool) -> None:
    """QEMU says that a tray has moved."""
    if is_open:
        answers.answered(run, waits_for(alias), "")


async def run_change(
    domain: Domain, run: Run, drive: Disk, wanted: Disk, *, force: bool, config: Edit | None = None
) -> None:
    """Put what is in `wanted` into `drive` (a disk of the live document), or take out what is there.

    Raises OperationFailed when the guest holds the tray; with `force` it is not asked.
    """
    from corral.qemu import plan, plugging

    alias = drive.alias.name if drive.alias is not None else ""
    new = _with_medium(drive, wanted)
    chains, absent = await images.chains_of(plug.only(run.live.document, [new]))
    if absent:
        new.source = None
    first = max(run.next_node, plugging.next_node(run.live.document))
    facts = await machinery(domain, run, chains)

    def settled() -> tuple[Disk, list[Part], list[Part]]:
        if new.source is not None:
            new.source.index = first
        document = plan.settle(_exchanged(run.live.document, drive, new), facts.runtime)
        settled_disk = next(disk for disk in document.devices.disks if disk.target.dev == drive.target.dev)
        old_parts = plan.media_parts(run.live.document, drive, facts.binary, facts.runtime)
        return settled_disk, old_parts, plan.media_parts(document, settled_disk, facts.binary, facts.runtime)

    new, old_parts, new_parts = await asyncio.to_thread(settled)
    run.next_node = max(run.next_node, plugging.next_node(plug.only(run.live.document, [new])))
    paths = await images.paths_of(plug.only(run.live.document, [new]), chains)
    domain.hypervisor.images.claim(domain.uuid, domain.name, paths)
    note = Note(
        kind="media",
        alias=alias,
        parts=names(new_parts),
        devices=[(new.to_xml(secure=True), new.to_xml(secure=True))],
        config=config is not None,
    )
    try:
        await domain.hypervisor.store.begin_plug(run.id, note.to_json())
        async with secrets.lent(domain, run, [new]):
            await _exchange(run, run.require_machine(), alias, old_parts, new_parts, force=force)
        try:
            await _limited(run.require_machine(), new)
            await write(domain, run, Change(live=put(drive, new), base=put(drive, plain(new)), config=config))
        except BaseException:
            await _put_back(domain, run, drive, old_parts, new_parts)
            raise
    except BaseException:
        domain.hypervisor.images.release_paths(domain.uuid, paths)
        if domain.run is run:
            with contextlib.suppress(CorralError):  # the store may be what failed; a later change strikes it out
                await domain.hypervisor.store.end_plug(run.id)
        raise
    domain.hypervisor.images.release_paths(domain.uuid, await images.real_paths(drive))


def _with_medium(drive: Disk, wanted: Disk) -> Disk:
    """The drive with the other's medium."""
    new = drive.copy()
    new.type, new.backing_store = wanted.type, None
    new.source = wanted.source.copy() if wanted.source is not None and wanted.source.where is not None else None
    if new.driver is not None:
        new.driver.type = (wanted.driver.type if wanted.driver is not None else None) or "raw"
    return new


def plain(disk: Disk) -> Disk:
    """The disk as a document that does not run has it."""
    from corral.qemu import live

    twin = disk.copy()
    live.forget_run(twin)
    twin.target.tray, twin.backing_store = None, None
    if twin.driver is not None:
        twin.driver.type = twin.driver.type or "raw"
    return twin


def _exchanged(document: DomainDocument, old: Disk, new: Disk) -> DomainDocument:
    from corral.model import device_set

    twin = device_set.shared(document)
    device_set.replace(twin, old, new)
    return twin


def put(drive: Disk, new: Disk) -> Edit:
    """The edit that gives the drive its new medium and leaves the tray as it is by then."""

    def edit(document: DomainDocument) -> None:
        from corral.model import device_set

        for disk in document.devices.disks:
            if disk.target.dev == drive.target.dev:
                changed = disk.copy()
                changed.type, changed.source, changed.backing_store = new.type, new.source, new.backing_store
                changed.driver = new.driver
                device_set.replace(document, disk, changed)
                return

    return edit


async def _exchange(
    run: Run, machine: Machine, alias: str, old: Sequence[Part], new: Sequence[Part], *, force: bool
) -> None:
    from corral.qemu import render

    taken: list[Part] = []
    try:
        await plug.open_files(machine, [part for part in new if part.kind == "fdset"], taken)
        nodes = [part for part in new if part.kind != "fdset"]
        await plug.send_all(machine, render.attach(nodes), nodes, taken)
        await _take_medium(run, machine, alias, force=force)
        if new:
            await _insert(machine, alias, old, new)
    except BaseException:
        await drop(run, taken)
        raise
    await _close_tray(machine, alias)
    await drop(run, old)


async def _put_back(domain: Domain, run: Run, drive: Disk, old: Sequence[Part], new: Sequence[Part]) -> None:
    """The exchange cannot be written down: the old medium again, whether or not the guest agrees; never raises."""
    alias = drive.alias.name if drive.alias is not None else ""
    try:
        async with secrets.lent(domain, run, [drive]):
            await _exchange(run, run.require_machine(), alias, new, old, force=True)
    except CorralError:
        log.exception("domain %s: the former medium of '%s' is not in it again", domain.name, alias)


async def _insert(machine: Machine, alias: str, old: Sequence[Part], new: Sequence[Part]) -> None:
    """Put the new medium in; if QEMU will not have it, the old one again."""
    try:
        await machine.monitor.execute("blockdev-insert-medium", {"id": alias, "node-name": new[-1].id})
    except CorralError:
        if old:
            await machine.monitor.execute("blockdev-insert-medium", {"id": alias, "node-name": old[-1].id})
            await _close_tray(machine, alias)
        raise


async def _close_tray(machine: Machine, alias: str) -> None:
    """Close the tray; the medium is exchanged by now, so a failure is only told in the log."""
    try:
        await machine.monitor.execute("blockdev-close-tray", {"id": alias})
    except CorralError:
        log.exception("the tray of %s is still open", alias)


async def _limited(machine: Machine, drive: Disk) -> None:
    """Set the drive's limits, which one that was empty has not had yet."""
    from corral.qemu.devices import throttle

    for name, arguments in throttle.setup(drive):
        await machine.monitor.execute(name, arguments)


async def _take_medium(run: Run, machine: Machine, alias: str, *, force: bool) -> None:
    """Open the tray and take out what is in it; a guest that resets the drive meanwhile closes it: then once more."""
    for last in (False, True):
        await _open_tray(run, machine, alias, force=force)
        try:
            await machine.monitor.execute("blockdev-remove-medium", {"id": alias})
        except MonitorCommandFailed as error:
            if last or "not open" not in error.description:
                raise
        else:
            return


async def _open_tray(run: Run, machine: Machine, alias: str, *, force: bool) -> None:
    """Open the tray, by asking the guest where it holds it; nothing happens when it is open."""
    drive = await block_of(machine, alias)
    if drive is None or "tray_open" not in drive:
        raise OperationUnsupported(f"drive '{_target(run, alias)}' has no tray")
    if drive["tray_open"]:
        return
    opened = answers.expect(run, waits_for(alias))
    try:
        await machine.monitor.execute("blockdev-open-tray", {"id": alias, "force": force})
        await asyncio.wait((opened, machine.end), timeout=TRAY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            raise OperationFailed(
                f"timed out waiting to open tray of '{_target(run, alias)}'",
                hint="the guest holds it; use force (--force) to open it anyway",
            )
    finally:
        answers.forget(run, waits_for(alias))


async def parts_of(domain: Domain, run: Run, drive: Disk) -> list[Part]:
    """The block nodes of what is in a drive of the live document."""
    from corral.qemu import plan

    facts = await machinery(domain, run)
    return plan.media_parts(run.live.document, drive, facts.binary, facts.runtime)


def _target(run: Run, alias: str) -> str:
    """The name that the document has for a drive."""
    for disk in run.live.document.devices.disks:
        if disk.alias is not None and disk.alias.name == alias:
            return disk.target.dev
    return alias


async def block_of(machine: Machine, alias: str) -> dict[str, Any] | None:
    """What QEMU says of the drive with that alias (BlockInfo)."""
    for each in await machine.monitor.execute("query-block"):
        path = str(each.get("qdev", "")).split("/")
        if alias in path:
            found: dict[str, Any] = each
            return found
    return None


async def drop(run: Run, parts: Sequence[Part]) -> None:
    """Close images that no drive has any more; a failure is only told in the log."""
    try:
        await unplug.take_out(run, parts)
    except CorralError:
        log.exception("an image of a former medium is still open")
