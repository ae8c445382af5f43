"""Starting: from a definition to a running machine, and back to nothing when anything fails on the way.

The order is what makes a killed daemon harmless. The live row is in the store, with all it takes to recognise the
process, before the process exists; it says `running` before the CPUs run; the caller is told last. A daemon that finds
a row `starting` kills what it may find; one that finds `running` goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from corral.constants import (
    DomainCreateFlags,
    DomainPausedReason,
    DomainRunningReason,
    DomainShutoffReason,
    DomainState,
)
from corral.errors import CorralError, HostError, InternalError, OperationAborted, OperationFailed
from corral.host import io_engines, priority
from corral.hypervisor import ending, reactions, secrets
from corral.hypervisor.cpus import guest_cpu, pinning, processor_limits, vcpus
from corral.hypervisor.devices import audio_files, host_devices, lending, links, servers, vsock
from corral.hypervisor.disks import absent_disks, images, raw_io, reservations
from corral.hypervisor.displays import display_certificates, displays
from corral.hypervisor.documents import Definition
from corral.hypervisor.figures import statistics
from corral.hypervisor.guest import guest_agent
from corral.hypervisor.host import host_limits
from corral.hypervisor.lifecycle import Cause
from corral.hypervisor.memory import memory_devices
from corral.hypervisor.run import Run
from corral.hypervisor.store import LiveRow

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.hypervisor.domain import Domain
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.binary import Binary
    from corral.qemu.machine import Listener, Machine
    from corral.qemu.plan import Command, Image, Plan, Runtime
    from corral.qemu.process import Process

log = logging.getLogger(__name__)


async def start(domain: Domain, base: Definition, flags: int, *, owner: object | None) -> None:
    """Start `domain` with the document `base`; the job slot is held. Leaves nothing behind when it raises."""
    hypervisor = domain.hypervisor
    document = base.document
    chains, absent = await images.chains_of(document)
    if absent:
        document = absent_disks.without(document, absent)
    hypervisor.images.claim(domain.uuid, domain.name, await images.paths_of(document, chains))
    try:
        run = await _begin(domain, base, flags, owner)
        run.starting = asyncio.current_task()
        try:
            machine = await _make(domain, run, document, chains, flags)
            await _go(domain, run, machine, paused=bool(flags & DomainCreateFlags.START_PAUSED))
            absent_disks.tell(domain, base.document, absent)
        except BaseException as error:
            await _undo(domain, run)
            if isinstance(error, asyncio.CancelledError) and run.ending:
                raise OperationAborted(f"domain '{domain.name}' was destroyed while it was being started") from error
            raise
        finally:
            run.starting = None
    except BaseException:
        hypervisor.images.release(domain.uuid)
        raise


async def _begin(domain: Domain, base: Definition, flags: int, owner: object | None) -> Run:
    """Write down that a process is about to exist, and give the domain its id."""
    hypervisor = domain.hypervisor
    settings = hypervisor.settings
    settings.log.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_file = settings.domain_log(domain.name)
    if not domain.last_boot:  # its first run: what is there is of an earlier machine of that name
        with contextlib.suppress(OSError):
            log_file.replace(log_file.with_name(f"{log_file.name}.old"))
    offset = log_file.stat().st_size if log_file.exists() else 0
    row = LiveRow(
        uuid=domain.uuid,
        name=domain.name,
        id=0,
        phase="starting",
        boot=hypervisor.boot,
        base_xml=base.secure_xml,
        log_offset=offset,
        state=DomainState.PAUSED,
        reason=DomainPausedReason.STARTING_UP,
        start_paused=bool(flags & DomainCreateFlags.START_PAUSED),
        autodestroy=owner is not None,
        run=str(settings.run),
        log=str(settings.log),
    )
    domain_id = await hypervisor.store.add_live(row)
    domain.last_boot = hypervisor.boot
    domain.run = Run(
        id=domain_id,
        directory=settings.domain_run(domain_id),
        log=log_file,
        log_offset=offset,
        base=base,
        live=base,
        owner=owner,
        autodestroy=owner is not None,
        start_paused=row.start_paused,
    )
    domain.apply(Cause.START)
    return domain.run


async def _make(
    domain: Domain, run: Run, document: DomainDocument, chains: dict[str, tuple[Image, ...]], flags: int
) -> Machine:
    """Make the process, paused, and the live document."""
    from corral.model import device_set
    from corral.qemu import descriptors, plan
    from corral.qemu.machine import Listener

    hypervisor = domain.hypervisor
    binary = await hypervisor.offer.binary(document.devices.emulator)
    accel = hypervisor.offer.accelerator(document)
    processor_limits.check(document, accel, hypervisor.offer.kvm, binary.available_features(accel))
    reset = bool(flags & DomainCreateFlags.START_RESET_NVRAM)
    await asyncio.to_thread(_prepare_nvram, document, reset)
    await asyncio.to_thread(audio_files.prepare, document, hypervisor.account)
    await asyncio.to_thread(_make_directory, run.directory, hypervisor.account)
    tls = await asyncio.to_thread(display_certificates.lend, hypervisor.settings, document, run, hypervisor.account)
    document = await asyncio.to_thread(displays.choose_render_nodes, document, hypervisor.account)
    lent = descriptors.readable(images.read_by_name(document), hypervisor.account)
    with Listener(run.monitor_path) as listener:
        async with lent as copies:
            runtime = plan.Runtime(
                accel=accel,
                run_dir=run.directory,
                monitor_fd=listener.fd,
                chains=chains,
                graphics=await displays.take_ports(domain, document),
                listen=hypervisor.settings.displays.listen,
                tls=tls,
                now=time.time(),
                reserve=host_limits.check(document, accel),
                vhost=links.vhost_offered(),
                fds=copies,
                engines=io_engines.engines(),
            )
            document = device_set.shared(document)
            document.devices.vsocks = [each.copy() for each in document.devices.vsocks]  # to be given a number
            with vsock.opened(document.devices.vsocks) as more:
                document, planned = await asyncio.to_thread(_planned, domain, run, document, binary, runtime)
                await lending.claim(domain, run, device_set.all_of(document))
                found = await asyncio.to_thread(servers.servers_of, domain, device_set.all_of(document))
                await servers.start(domain, run, found)
                if reservations.wanted(document.devices.disks):
                    await reservations.ensure(domain, run)
                async with (
                    links.opened(domain, run, document.devices.interfaces) as ends,
                    secrets.lent(domain, run, (*document.devices.disks, *document.devices.hostdevs)),
                ):
                    machine = await _spawn(domain, run, planned, listener, {**ends, **more})
    run.machine = machine
    await _take_over(domain, run, machine, document)
    await vcpus.plug_before_start(document, machine)
    await pinning.apply(document, machine)
    await _prepare_machine(document, machine, planned.setup)
    return machine


def _planned(
    domain: Domain, run: Run, document: DomainDocument, binary: Binary, runtime: Runtime
) -> tuple[DomainDocument, Plan]:
    """The live document, and the plan of its process; in a thread: of a large one it takes tens of milliseconds."""
    from corral.qemu import plan

    offer = domain.hypervisor.offer
    document = plan.settle(document, runtime)
    guest_cpu.prepare(document, binary, runtime.accel, offer.host.cpu.vendor)
    document.id = run.id
    _close_channels(document)
    processor_limits.note(document, runtime.accel, offer.kvm)
    generics = host_devices.settle(document)
    return document, plan.plan(document, binary, replace(runtime, generics=generics))


async def _take_over(domain: Domain, run: Run, machine: Machine, document: DomainDocument) -> None:
    """Complete the live document with what only a process can tell; from now on it is what queries answer from."""
    from corral.qemu import live

    live.set_ptys(document, {each.id: each.pty for each in machine.chardevs.values() if each.pty})
    await guest_cpu.settle(document, machine)
    await memory_devices.settle(machine, document)
    run.live = await asyncio.to_thread(Definition.of, document)
    guest_agent.appear(domain, run)
    run.balloon = statistics.memory(document)[0]
    domain.touch()


async def _spawn(domain: Domain, run: Run, planned: Plan, listener: Listener, ends: Mapping[str, int]) -> Machine:
    """The process of a plan, paused, with its files and the host's ends of its network cards."""
    from corral.qemu import complaints, descriptors, render
    from corral.qemu.machine import Machine

    account = raw_io.account(domain.hypervisor.account, run.base.document)

    def spawned(process: Process) -> None:
        run.process = process
        lending.allow_locking(process.pid, run.base.document)

    try:
        async with descriptors.opened(planned.parts) as files:
            return await Machine.start(
                render.argv(planned, {**files, **ends}),
                name=domain.name,
                listener=listener,
                log=run.log,
                pass_fds=(*planned.fds, *files.values(), *ends.values()),
                account=account,
                cwd=run.directory,  # by which a later daemon knows it, should this one die before it noted the process
                env=_environment(planned.environment),
                on_spawn=spawned,
                on_event=lambda event: reactions.monitor_event(domain, run, event),
            )
    except InternalError as error:
        words = complaints.plain(descriptors.with_paths(error.detail, planned.parts))
        raise InternalError(words, hint=complaints.remedy(words)) from error


async def _prepare_machine(document: DomainDocument, machine: Machine, setup: Sequence[Command]) -> None:
    """What is asked of a machine before its CPUs run."""
    if document.on_reboot == "destroy":
        # A guest that boots again ends instead; QEMU then reports a shutdown with the cause guest-reset.
        setup = [*setup, ("set-action", {"reboot": "shutdown"})]
    for command, arguments in setup:
        await machine.monitor.execute(command, arguments)


async def _go(domain: Domain, run: Run, machine: Machine, *, paused: bool) -> None:
    """The machine exists and is paused: write that down, let it run, tell."""
    priority.equal(machine.process.pid)
    state = DomainState.PAUSED if paused else DomainState.RUNNING
    await domain.hypervisor.store.update_live(
        run.id,
        phase="running",
        xml=run.live.secure_xml,
        pid=machine.process.pid,
        start_time=machine.process.start_time,
        state=state,
        reason=DomainPausedReason.USER if paused else DomainRunningReason.BOOTED,
    )
    if not paused:
        await machine.cont()
    if machine.end.done():
        end = machine.end.result()
        raise InternalError(f"QEMU ended while it was started: {end.words or f'status {end.status}'}")
    domain.apply(Cause.BOOT_PAUSED if paused else Cause.BOOT)
    run.ready = True
    reactions.watch(domain, run, machine)
    reactions.hear_early(domain, run)


async def _undo(domain: Domain, run: Run) -> None:
    """Take back everything that a start has made; never raises."""
    if run.machine is not None:
        try:
            await run.machine.kill()
        except CorralError:
            log.exception("domain %s: cannot end QEMU after a start that failed", domain.name)
    elif run.process is not None and not run.process.ended:
        run.process.kill()
        with contextlib.suppress(TimeoutError):
            await run.process.wait(10)
    try:
        await domain.hypervisor.store.remove_live(domain.uuid, run.id, DomainShutoffReason.FAILED)
    except CorralError:
        log.exception("domain %s: cannot note that its start failed; the next daemon will", domain.name)
    ending.let_go(domain, run)
    await ending.clear_away(domain, run)
    domain.apply(Cause.START_FAILED)
    domain.run = None
    domain.hypervisor.forget_if_gone(domain)
    domain.touch()
    run.ended.set()


def _make_directory(directory: Path, account: Account | None) -> None:
    """The directory that QEMU runs in is its own; what it may not open lies elsewhere."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        if account is not None:
            os.chown(directory, account.uid, account.gid)
    except OSError as error:
        raise HostError(f"cannot make the domain's directory {directory}: {error}") from error


#: What concerns the daemon and not the programs that it starts (sd_listen_fds(3), sd_notify(3)).
_OWN_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """QEMU's environment: ours, in a language that its words can be matched in."""
    ours = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
    return {**ours, "LC_ALL": "C", **more}


def _close_channels(document: DomainDocument) -> None:
    """Nobody in the guest has opened a channel yet."""
    for channel in document.devices.channels:
        if channel.target.name is not None:
            channel.target.state = "disconnected"


def _prepare_nvram(document: DomainDocument, reset: bool) -> None:
    """The domain's own firmware variables, made from the template where there are none yet (or on `reset`)."""
    nvram = document.os.nvram
    if nvram is None or nvram.path is None:
        return
    path = Path(nvram.path)
    if path.exists() and not reset:
        return
    if nvram.template is None:
        loader = document.os.loader.path if document.os.loader is not None else None
        raise OperationFailed(
            f"unable to find any master var store for loader: {loader}", hint="name one: <nvram template='…'>"
        )
    if not Path(nvram.template).exists():
        raise HostError(f"Failed to open file '{nvram.template}': No such file or directory")
    part = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(nvram.template, part)
        part.chmod(0o600)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise HostError(f"cannot make the firmware variables {path}: {error.strerror}") from error
