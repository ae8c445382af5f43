"""After a daemon's death: every machine found again, every half-done change finished or undone.

Each live row of the store says how far things had come. A row `starting` was never acknowledged: its process, if there
is one, is found by what its command line must contain and killed. A row `stopping` is carried through. A row `running`
whose process is there is taken up again, in the state that QEMU tells; one whose process is gone ended without us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from corral.constants import DomainPausedReason, DomainShutoffReason, DomainState
from corral.errors import CorralError, HostError, OperationTimeout
from corral.hypervisor import ending, events, reactions
from corral.hypervisor.cpus import vcpus
from corral.hypervisor.devices import lending, links, servers, usb
from corral.hypervisor.disks import images, reservations
from corral.hypervisor.documents import Definition
from corral.hypervisor.guest import guest_agent, sleeping
from corral.hypervisor.hotplug import plug_recovery
from corral.hypervisor.lifecycle import END_CAUSES, Cause, State, found_again
from corral.hypervisor.memory import memory_devices
from corral.hypervisor.run import Run
from corral.qemu.machine import Machine
from corral.qemu.process import Process, find_by_marker, last_words

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.hypervisor.settings import Settings
    from corral.hypervisor.store import LiveRow

log = logging.getLogger(__name__)

#: Seconds that a machine found again gets to answer; it is taken up anyway when it does not.
REATTACH_TIMEOUT = 2.0
#: Seconds that one attempt to reach a lost monitor lasts: the connection waits in QEMU's queue until QEMU looks.
PATIENCE = 600.0
#: Seconds between the end of a monitor's connection and our doubt that its process ends too.
GRACE = 1.0
#: Events that QEMU's run state tells of, too.
_SEEN_IN_STATE = ("STOP", "SHUTDOWN", "GUEST_PANICKED", "SUSPEND", "WAKEUP")
#: What QEMU writes last when it was told to end by a signal, and does not write when it died.
_ASKED_TO_END = "terminating on signal"


async def restore(hypervisor: Hypervisor) -> None:
    """Make the domains that the store knows, and bring each live one to a state that somebody was told of."""
    definitions, live = await hypervisor.store.load()
    for definition in definitions:
        domain = hypervisor.add(definition.uuid, definition.name)
        domain.configure(Definition(definition.xml), autostart=definition.autostart)
        domain.last_boot = definition.last_boot
        reason = definition.shutoff_reason if definition.last_boot == hypervisor.boot else 0
        domain.restore(State(DomainState.SHUTOFF, reason))
    await asyncio.gather(*(_restore(hypervisor, row) for row in live))
    await links.sweep(hypervisor)
    await lending.sweep(hypervisor)
    await asyncio.to_thread(_sweep, hypervisor)
    sleeping.restore(hypervisor)


async def _restore(hypervisor: Hypervisor, row: LiveRow) -> None:
    """One live row: undone, finished, or taken up again. Whatever goes wrong with one does not concern the others."""
    try:
        if row.boot != hypervisor.boot:
            # The host went down with it; whether the guest had ended before that nobody knows.
            await hypervisor.store.remove_live(row.uuid, row.id, DomainShutoffReason.UNKNOWN)
        elif row.phase == "starting":
            await _undo_start(hypervisor, row)
        else:
            await _take_up(hypervisor, row)
    except CorralError:
        log.exception("domain %s: cannot bring it back to order", row.name)


async def _undo_start(hypervisor: Hypervisor, row: LiveRow) -> None:
    """Nobody was told that it runs: it does not."""
    directory = _settings_of(hypervisor, row).domain_run(row.id)
    for pid, start_time in await asyncio.to_thread(find_by_marker, str(row.uuid), cwd=directory):
        try:
            process = Process.adopt(pid, start_time)
        except HostError:
            continue
        log.info("domain %s: its start was not complete, ending process %d", row.name, pid)
        process.kill()
        try:
            await process.wait(ending.KILL_TIMEOUT)
        except TimeoutError as error:
            raise HostError(f"process {pid} of domain '{row.name}' cannot be killed") from error
        finally:
            process.close()
    await reservations.sweep(directory)
    await hypervisor.store.remove_live(row.uuid, row.id, DomainShutoffReason.FAILED)
    domain = _known(hypervisor, row)
    if domain is not None:
        domain.restore(State(DomainState.SHUTOFF, DomainShutoffReason.FAILED))


def _settings_of(hypervisor: Hypervisor, row: LiveRow) -> Settings:
    """Ours, with the directories of the daemon that started the machine: its sockets and its log are there."""
    return replace(hypervisor.settings, run=Path(row.run), log=Path(row.log)) if row.run else hypervisor.settings


def _known(hypervisor: Hypervisor, row: LiveRow) -> Domain | None:
    try:
        return hypervisor.lookup_by_uuid(row.uuid)
    except CorralError:
        return None


async def _take_up(hypervisor: Hypervisor, row: LiveRow) -> None:
    """A row `running` or `stopping`: find its process and go on from there."""
    domain = _known(hypervisor, row) or hypervisor.add(row.uuid, row.name)
    settings = _settings_of(hypervisor, row)
    run = Run(
        id=row.id,
        directory=settings.domain_run(row.id),
        log=settings.domain_log(row.name),
        log_offset=row.log_offset,
        base=Definition(row.base_xml),
        live=Definition(row.xml),
        autodestroy=row.autodestroy,
        fake_reboot=row.fake_reboot,
        start_paused=row.start_paused,
    )
    domain.run, domain.last_boot = run, row.boot
    await links.take_up(domain, run)
    await lending.take_up(domain, run)
    domain.restore(State(row.state, row.reason))
    try:
        run.process = Process.adopt(row.pid, row.start_time)
    except HostError:
        await _ended_meanwhile(domain, run, row)
        return
    if row.phase == "stopping" or row.autodestroy:
        # Its owner went with the old daemon, or its end was under way: what was begun is finished.
        reason = row.stop_reason if row.phase == "stopping" else DomainShutoffReason.DESTROYED
        run.ready = True
        await ending.destroy(domain, 0, cause=END_CAUSES.get(reason, Cause.DESTROYED))
        return
    await _claim(domain, run)
    await _connect(domain, run)
    if run.process.ended:
        await _ended_meanwhile(domain, run, row)
    elif run.machine is not None:
        await _go_on(domain, run, run.machine)


async def _ended_meanwhile(domain: Domain, run: Run, row: LiveRow) -> None:
    """The process is gone: find out why as well as can be, and tell."""
    if row.phase == "stopping":
        cause = END_CAUSES.get(row.stop_reason, Cause.DESTROYED)
    elif row.autodestroy:
        cause = Cause.DESTROYED
    else:
        words = await asyncio.to_thread(last_words, run.log, run.log_offset)
        announced = row.state == DomainState.SHUTDOWN or _ASKED_TO_END in words
        cause = Cause.GONE_AFTER_SHUTDOWN if announced else Cause.GONE
        log.warning("domain %s: QEMU ended while no daemon ran: %s", domain.name, words or "it left no word")
    run.ending = True
    await ending.finish(domain, run, cause)


async def _claim(domain: Domain, run: Run) -> None:
    """What the machine has is not to be given to others."""
    document = run.live.document
    try:
        chains, _ = await images.chains_of(document)
    except CorralError:
        chains = {}  # an image was moved away under the machine; its path is still the machine's
    try:
        domain.hypervisor.images.claim(domain.uuid, domain.name, await images.paths_of(document, chains))
        for graphics in document.devices.graphics:
            for port in (graphics.port, graphics.tls_port, graphics.websocket):
                if port is not None and port > 0:
                    domain.hypervisor.ports.claim(domain, port)
    except CorralError:
        log.exception("domain %s: what it has is claimed twice", domain.name)


async def _open_monitor(domain: Domain, run: Run, process: Process, timeout: float) -> Machine:
    return await Machine.reattach(
        process.pid,
        process.start_time,
        run.monitor_path,
        name=domain.name,
        log=run.log,
        on_event=lambda event: reactions.monitor_event(domain, run, event),
        timeout=timeout,
    )


async def _connect(domain: Domain, run: Run) -> None:
    """Open the monitor again; a machine that lives and does not answer is kept, as one whose monitor is lost."""
    assert run.process is not None
    try:
        machine = await _open_monitor(domain, run, run.process, REATTACH_TIMEOUT)
    except (CorralError, TimeoutError, OSError) as error:
        with contextlib.suppress(TimeoutError):
            await run.process.wait(GRACE)  # a dying QEMU closes its monitor first
            return
        run.ready = True
        reactions.watch_process(domain, run, run.process)
        _lost(domain, run, run.process, error)
        return
    run.process.close()
    run.process, run.machine = machine.process, machine


def _lost(domain: Domain, run: Run, process: Process, error: Exception) -> None:
    """The machine lives and does not answer: everything but its monitor goes on, and we wait for that."""
    log.error("domain %s: its QEMU (process %d) does not answer: %s", domain.name, process.pid, error)
    run.monitor_lost = time.monotonic()
    domain.hypervisor.watch(_wait_for_monitor(domain, run, process))


async def _wait_for_monitor(domain: Domain, run: Run, process: Process) -> None:
    """Until a machine whose monitor is lost answers, or ends."""
    while domain.run is run and not run.ending:
        try:
            machine = await _open_monitor(domain, run, process, PATIENCE)
        except (CorralError, TimeoutError, OSError) as error:
            log.debug("domain %s: %s", domain.name, error)
            await asyncio.sleep(GRACE)
            continue
        try:
            # In the job slot: a change that came while the state is taken over would be told of twice.
            async with domain.jobs.hold("take up again", patience=PATIENCE):
                if domain.run is not run or run.ending:
                    await machine.close()
                    return
                log.warning("domain %s: its QEMU answers again", domain.name)
                # The process object stays the one that we had: if it is our child, it collects the exit status.
                run.machine, run.monitor_lost = machine, None
                await _go_on(domain, run, machine)
        except OperationTimeout as error:
            if run.machine is machine:
                raise
            log.warning("domain %s: cannot be taken up again yet: %s", domain.name, error)
            await machine.close()
            continue
        return


async def _go_on(domain: Domain, run: Run, machine: Machine) -> None:
    """The machine answers: take over its state, and finish what was begun."""
    noted = domain.state()
    guest_agent.take_up(domain, run)
    run_state = await machine.status()
    by_user = noted[0] == DomainState.PAUSED and noted[1] != DomainPausedReason.STARTING_UP
    if run_state == "prelaunch" and not run.start_paused and not by_user:  # also what is reset while it is paused
        # Its start was written down, all was prepared, and the CPUs had yet to run.
        await machine.cont()
        domain.restore(State(DomainState.PAUSED, 0))
        domain.apply(Cause.BOOT)
        run_state = "running"
    run.ready = True
    reactions.watch(domain, run, machine)
    _take_over(domain, run, run_state)
    await _refresh(domain, run, machine)
    if domain.run is run and not run.ending and domain.state() != noted:
        await ending.note_state(domain)


def _take_over(domain: Domain, run: Run, run_state: str) -> None:
    """Make QEMU's run state ours, and act upon what the guest did while nobody listened."""
    noted = State(*domain.state())
    found = found_again(run_state, noted)
    # What led to that state was also reported, perhaps; the rest of what was is still to be heard.
    run.early = [event for event in run.early if event.name not in _SEEN_IN_STATE]
    if found.state == DomainState.SHUTDOWN:
        reactions.powered_off(domain, run)
    elif found.state == DomainState.CRASHED and noted.state != DomainState.CRASHED:
        reactions.panicked(domain, run)
    elif {found.state, noted.state} == {DomainState.RUNNING, DomainState.PMSUSPENDED}:
        reactions.slept_or_woke(domain, run, asleep=found.state == DomainState.PMSUSPENDED)
    else:
        domain.restore(found)
        if run_state == "watchdog":
            reactions.bitten(domain, run, dumped=noted.state == DomainState.PAUSED)
    reactions.hear_early(domain, run)


async def _refresh(domain: Domain, run: Run, machine: Machine) -> None:
    """What changed in the guest while nobody listened: its devices, its memory, and which channels are open."""
    from corral.qemu import guest_memory

    await vcpus.reconcile(domain, run, machine)
    await plug_recovery.reconcile(domain, run, machine)
    # QEMU's figures are of the modules that it has now: only now are they those of the document.
    run.balloon = guest_memory.given_kib(run.live.document)
    balloon = run.live.document.devices.memballoon
    if balloon is not None and balloon.model != "none":
        try:
            run.balloon = int((await machine.monitor.execute("query-balloon"))["actual"]) // 1024
        except CorralError as error:
            log.debug("domain %s: %s", domain.name, error)
    await memory_devices.refresh(domain, run, machine)
    await reservations.adopt(domain, run)
    await links.follow_all(domain, run)
    usb.reconcile(domain, run)
    for channel in run.live.document.devices.channels:
        alias = channel.alias.name if channel.alias else ""
        chardev = machine.chardevs.get(f"char{alias}")
        if chardev is not None and chardev.open != (channel.target.state == "connected"):
            reactions.port_changed(domain, run, alias, chardev.open)


async def recover(domain: Domain, run: Run) -> None:
    """The monitor's connection ended: if the process does not end too, connect again."""
    machine = run.machine
    if machine is None:
        return
    with contextlib.suppress(CorralError):
        await machine.ended(GRACE)
        return
    if domain.run is run and not run.ending:
        domain.hypervisor.events.emit(events.ControlError(domain.identity()))
        _lost(domain, run, machine.process, OSError("its monitor's connection ended"))


def _sweep(hypervisor: Hypervisor) -> None:
    """Remove what runs of earlier daemons left in the run directory."""
    ours = {domain.run.directory.name for domain in hypervisor.domains() if domain.run is not None}
    for entry in hypervisor.settings.run.glob("d[0-9]*"):
        if entry.is_dir() and entry.name not in ours and entry.name[1:].isdigit():
            servers.sweep(entry)
            shutil.rmtree(entry, ignore_errors=True)
