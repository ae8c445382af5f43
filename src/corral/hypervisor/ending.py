"""Pausing, resetting and ending: what a call asks of a running machine, and what is done when it has ended."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from corral.constants import (
    DomainDestroyFlags,
    DomainJobOperation,
    DomainPausedReason,
    DomainShutdownFlags,
    DomainState,
    ErrorDomain,
)
from corral.errors import ArgumentUnsupported, CorralError, HostError, OperationInvalid, OperationTimeout
from corral.hypervisor import dumps
from corral.hypervisor.devices import lending, links, servers, tpm_state
from corral.hypervisor.disks import reservations
from corral.hypervisor.jobs import PATIENCE
from corral.hypervisor.lifecycle import TABLE, Cause

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.qemu.agent import Agent

log = logging.getLogger(__name__)

#: Seconds that QEMU gets to end in its own way (flush its images) before it is killed.
TERMINATE_TIMEOUT = 10.0
#: Seconds that a killed process gets to be gone: it may hang in the kernel, on a dead disk.
KILL_TIMEOUT = 15.0


async def suspend(domain: Domain) -> None:
    """Stop the CPUs."""
    run = domain.require_run()
    state, _ = domain.state()
    if state == DomainState.PMSUSPENDED:
        raise OperationInvalid("domain is pmsuspended")
    if state == DomainState.PAUSED:
        return
    run.stop_cause = Cause.SUSPEND
    try:
        await run.require_machine().stop()
    finally:
        run.stop_cause = Cause.STOP
    domain.apply(Cause.SUSPEND)  # changes nothing if QEMU's own event came first
    await note_state(domain)


async def resume(domain: Domain) -> None:
    """Let the CPUs run."""
    run = domain.require_run()
    state, _ = domain.state()
    if state == DomainState.PMSUSPENDED:
        raise OperationInvalid("domain is pmsuspended")
    if state == DomainState.RUNNING:
        raise OperationInvalid("domain is already running")
    await run.require_machine().cont()
    domain.apply(Cause.RESUME)
    await note_state(domain)


async def reset(domain: Domain) -> None:
    """Press the reset button."""
    run = domain.require_run()
    run.fake_reboot = False
    await run.require_machine().system_reset()
    if domain.apply(Cause.RESET_AFTER_PANIC):
        await note_state(domain)


async def shutdown(domain: Domain, flags: int) -> None:
    """Ask the guest to power off: its agent, the power button, or whichever works."""
    run = _running(domain)
    reboots = run.live.document.on_poweroff == "restart"
    if await _ask_agent(domain, run, flags, mode="reboot" if reboots else "powerdown"):
        return
    await _set_fake_reboot(domain, run, reboots)
    await run.require_machine().system_powerdown()


async def reboot(domain: Domain, flags: int) -> None:
    """Ask the guest to boot again; behind the power button that is a power-off that we answer with a boot."""
    run = _running(domain)
    ends = run.live.document.on_reboot == "destroy"
    if await _ask_agent(domain, run, flags, mode="powerdown" if ends else "reboot"):
        return
    await _set_fake_reboot(domain, run, not ends)
    await run.require_machine().system_powerdown()


def _running(domain: Domain) -> Run:
    run = domain.require_run()
    if domain.state()[0] != DomainState.RUNNING:
        raise OperationInvalid("domain is not running")
    return run


async def _ask_agent(domain: Domain, run: Run, flags: int, *, mode: str) -> bool:
    """Ask by the agent if the flags and the domain allow it; False when the power button is to be pressed."""
    wanted = bool(flags & DomainShutdownFlags.GUEST_AGENT)
    if flags and not wanted:
        return False
    agent = run.agent
    if agent is None:
        if wanted and not flags & DomainShutdownFlags.ACPI_POWER_BTN:
            raise ArgumentUnsupported("QEMU guest agent is not configured")
        return False
    try:
        await _set_fake_reboot(domain, run, False)
        await _tell_shutdown(agent, mode)
    except CorralError:
        if wanted and not flags & DomainShutdownFlags.ACPI_POWER_BTN:
            raise
        return False
    return True


async def _tell_shutdown(agent: Agent, mode: str) -> None:
    await agent.tell("guest-shutdown", {"mode": mode})


async def _set_fake_reboot(domain: Domain, run: Run, fake: bool) -> None:
    if run.fake_reboot != fake:
        await domain.hypervisor.store.update_live(run.id, fake_reboot=int(fake))
        run.fake_reboot = fake


async def note_state(domain: Domain) -> None:
    """Keep the state's reason for the next daemon; QEMU itself keeps the state."""
    if domain.run is not None:
        state, reason = domain.state()
        await domain.hypervisor.store.update_live(domain.run.id, state=state, reason=reason)


async def destroy(domain: Domain, flags: int, *, cause: Cause = Cause.DESTROYED) -> None:
    """End the process and wait until it is gone; ends a start that is under way, too."""
    run = domain.require_run()
    if run.starting is not None and not run.ready:
        run.ending = True
        run.starting.cancel()
        await _wait_ended(domain, run)
        return
    if run.ending:  # it is ending by itself, or by another call
        await _wait_ended(domain, run)
        raise OperationInvalid("domain is not running", domain=ErrorDomain.DOMAIN)
    run.ending = True
    store = domain.hypervisor.store
    try:
        # Written before anything happens: a daemon that dies from here on is finished by the next one.
        await _note(store.update_live(run.id, phase="stopping", stop_reason=TABLE[cause][1].state.reason))
        await end_process(run, may_kill=not flags & DomainDestroyFlags.GRACEFUL)
    except BaseException:
        if run.process is None or not run.process.ended:
            run.ending = False
            await _note(store.update_live(run.id, phase="running"))
            raise
    await finish(domain, run, cause)


async def _note(write: Awaitable[None]) -> None:
    """Write to the store; a full disk shall not keep a machine from being ended."""
    try:
        await write
    except CorralError:
        log.exception("cannot write to the store")


async def end_process(run: Run, *, may_kill: bool) -> None:
    """SIGTERM, so that QEMU flushes its images; SIGKILL if that does not help in time."""
    process = run.process
    if process is None:
        return
    process.terminate()
    try:
        await _gone(run, TERMINATE_TIMEOUT)
        return
    except TimeoutError:
        if not may_kill:
            raise HostError(
                f"Failed to terminate process {process.pid} with SIGTERM: Device or resource busy"
            ) from None
    process.kill()
    try:
        await _gone(run, KILL_TIMEOUT)
    except TimeoutError:
        raise HostError(f"Failed to terminate process {process.pid} with SIGKILL: Device or resource busy") from None


async def _gone(run: Run, timeout: float) -> None:
    """Wait for the process; where there is a monitor also for its last event."""
    if run.machine is not None:
        try:
            await run.machine.ended(timeout)
        except OperationTimeout as error:
            raise TimeoutError from error
    elif run.process is not None:
        await run.process.wait(timeout)


async def finish(domain: Domain, run: Run, cause: Cause) -> None:
    """The process is gone: tell, forget it in the store, and remove what it had. Once a run.

    Told first, because it has happened whatever becomes of us: a daemon that dies before the store knows leaves a row
    without a process, and the next one tells again.
    """
    let_go(domain, run)
    domain.run = None
    domain.apply(cause, domain_id=run.id)
    domain.hypervisor.forget_if_gone(domain)
    await _note(domain.hypervisor.store.remove_live(domain.uuid, run.id, TABLE[cause][1].state.reason))
    await clear_away(domain, run)
    if domain.config is None:
        await asyncio.to_thread(tpm_state.forget, domain.hypervisor.settings, domain.uuid, run.live.document)
    run.ended.set()


def let_go(domain: Domain, run: Run) -> None:
    """Give back what others may want: a start may follow at once."""
    for session in list(run.sessions.values()):
        session.close()
    run.sessions.clear()
    domain.hypervisor.ports.release(domain)
    domain.hypervisor.images.release(domain.uuid)


async def clear_away(domain: Domain, run: Run) -> None:
    """Close and remove what was this run's alone."""
    await links.release(domain, run)
    if run.machine is not None:
        await run.machine.close()
    if run.agent is not None:
        await run.agent.close()
    await reservations.end(run)
    await servers.end(run)
    await lending.release(domain, run)
    await asyncio.to_thread(shutil.rmtree, run.directory, ignore_errors=True)


async def power_off(domain: Domain, run: Run) -> None:
    """The guest has powered off and its process waits: end it."""
    try:
        if domain.run is run and not run.ending:
            await destroy(domain, 0, cause=Cause.GONE_AFTER_SHUTDOWN)
    except CorralError:
        log.exception("domain %s: cannot end QEMU after the guest powered off", domain.name)


async def boot_again(domain: Domain, run: Run, cause: Cause) -> None:
    """The guest has powered off (or crashed) and shall boot again in the same process."""
    try:
        async with domain.jobs.hold("boot again"):
            if domain.run is not run or run.ending:
                return
            run.resume_cause = cause
            try:
                machine = run.require_machine()
                await machine.system_reset()
                await machine.cont()
            finally:
                run.resume_cause, run.booting_again = Cause.RESUME, False
            domain.apply(cause)
            await _set_fake_reboot(domain, run, False)
            await note_state(domain)
    except CorralError:
        if domain.run is run and not run.ending:
            log.exception("domain %s: cannot boot the guest again", domain.name)
            await power_off(domain, run)


async def crash(domain: Domain, run: Run) -> None:
    """The guest's kernel has panicked: do what `on_crash` says."""
    action = run.live.document.on_crash or "destroy"
    if action.startswith("coredump"):
        await _dump(domain, run)
    if action in ("destroy", "coredump-destroy"):
        try:
            if domain.run is run and not run.ending:
                await destroy(domain, 0, cause=Cause.CRASH_DESTROYED)
        except CorralError:
            log.exception("domain %s: cannot end the crashed guest", domain.name)
    elif action in ("restart", "rename-restart", "coredump-restart"):
        await boot_again(domain, run, Cause.REBOOT_AFTER_CRASH)
    else:
        await note_state(domain)


async def dump_and_go_on(domain: Domain, run: Run, *, dumped: bool = False) -> None:
    """The guest's watchdog has stopped it, and its action is a dump: keep its memory, and let it go on.

    One job: a pause that somebody asks for meanwhile comes after it, and stays. `dumped`: a daemon before us had begun
    to, and QEMU, which lets nobody talk to it until it is through, has ended that.
    """
    try:
        async with domain.jobs.hold("dump memory", patience=dumps.TIMEOUT, operation=DomainJobOperation.DUMP):
            if domain.run is not run or run.ending:
                return
            if not dumped:
                await dumps.write(domain, run)
            if not run.ending and domain.state() == (DomainState.PAUSED, DomainPausedReason.WATCHDOG):
                await resume(domain)
    except CorralError:
        log.exception("domain %s: cannot let the guest go on after its watchdog's dump", domain.name)


async def _dump(domain: Domain, run: Run) -> None:
    """Keep the memory of a guest that has crashed; its fate does not wait for a failure."""
    try:
        async with domain.jobs.hold("dump memory", operation=DomainJobOperation.DUMP):
            await dumps.write(domain, run)
    except CorralError as error:
        log.error("domain %s: cannot dump the guest's memory: %s", domain.name, error)


async def _wait_ended(domain: Domain, run: Run) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            await run.ended.wait()
    except TimeoutError:
        raise OperationTimeout(f"domain '{domain.name}' does not end") from None
