"""What QEMU reports, and what becomes of it: states, events, and the actions that a document orders.

Called in the order of the monitor's wire, inside the event loop; nothing here waits. What takes time (ending a process,
booting again) is started as a task of the hypervisor's. Event names and members: QEMU's QAPI (run-state, block-core,
char, ui, machine).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from corral.constants import (
    ConnectDomainEventAgentLifecycleReason,
    ConnectDomainEventAgentLifecycleState,
    DomainEventGraphicsAddressType,
    DomainEventGraphicsPhase,
    DomainEventIOErrorAction,
    DomainEventTrayChangeReason,
    DomainEventWatchdogAction,
    DomainMemoryFailureActionType,
    DomainMemoryFailureFlags,
    DomainMemoryFailureRecipientType,
    DomainState,
)
from corral.errors import CorralError
from corral.hypervisor import ending, events
from corral.hypervisor.cpus import vcpus
from corral.hypervisor.devices import links
from corral.hypervisor.disks import block, media
from corral.hypervisor.guest import guest_agent
from corral.hypervisor.hotplug import answers, kept_files, unplug
from corral.hypervisor.lifecycle import Cause
from corral.hypervisor.memory import memory_devices

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import End, Machine
    from corral.qemu.monitor import MonitorEvent
    from corral.qemu.process import Process

log = logging.getLogger(__name__)

Data = dict[str, Any]


def watch(domain: Domain, run: Run, machine: Machine) -> None:
    """From now on the end of the process, or of its monitor, is reported whenever it comes."""
    machine.end.add_done_callback(lambda end: None if end.cancelled() else _ended(domain, run, end.result()))
    machine.monitor.closed.add_done_callback(lambda _: _monitor_closed(domain, run))


def _ended(domain: Domain, run: Run, end: End) -> None:
    if domain.run is not run or run.ending:
        return  # whoever ends it reports it
    run.ending = True
    announced = domain.state()[0] == DomainState.SHUTDOWN
    if not announced:
        log.warning("domain %s: QEMU ended with status %s: %s", domain.name, end.status, end.words)
    domain.hypervisor.spawn(ending.finish(domain, run, Cause.GONE_AFTER_SHUTDOWN if announced else Cause.GONE))


def watch_process(domain: Domain, run: Run, process: Process) -> None:
    """The same for a machine whose monitor is lost."""

    def ended() -> None:
        if domain.run is run and not run.ending:
            run.ending = True
            domain.hypervisor.spawn(ending.finish(domain, run, Cause.GONE))

    process.on_end(ended)


def hear_early(domain: Domain, run: Run) -> None:
    """Take what QEMU reported before the run was ready."""
    early, run.early = run.early, []
    for event in early:
        monitor_event(domain, run, event)


def powered_off(domain: Domain, run: Run) -> None:
    """The guest had powered off by itself before we came, and perhaps the daemon before us had told so."""
    if domain.state()[0] == DomainState.SHUTDOWN:
        domain.hypervisor.spawn(ending.power_off(domain, run))
    else:
        _shutdown(domain, run, {"guest": True})


def panicked(domain: Domain, run: Run) -> None:
    """The guest had panicked before we came."""
    _panic(domain, run, {})


def slept_or_woke(domain: Domain, run: Run, *, asleep: bool) -> None:
    """The guest has fallen asleep, or woken up, before we came."""
    (_suspend_memory if asleep else _wakeup)(domain, run, {})


def _monitor_closed(domain: Domain, run: Run) -> None:
    """QEMU closes its monitor as it ends; if it does not end, the monitor is lost."""
    if domain.run is run and not run.ending and not domain.hypervisor.closing:
        domain.hypervisor.spawn(domain.hypervisor.recover_monitor(domain, run))


def monitor_event(domain: Domain, run: Run, event: MonitorEvent) -> None:
    """Take one event of QEMU's."""
    if domain.run is not run:
        return
    if not run.ready:
        if event.name not in _PART_OF_A_START:
            run.early.append(event)
        return
    reaction = _REACTIONS.get(event.name)
    if reaction is not None:
        reaction(domain, run, event.data)
    domain.hypervisor.monitor_event(domain, event)


#: A start lets the CPUs run, and that is reported as a start.
_PART_OF_A_START = ("RESUME", "RESET")


def _stop(domain: Domain, run: Run, data: Data) -> None:
    cause, run.stop_cause = run.stop_cause, Cause.STOP
    if cause != Cause.STOP:
        _stopped(domain, run, cause)
    elif domain.state()[0] == DomainState.RUNNING and not run.booting_again:
        domain.hypervisor.spawn(_stopped_by_itself(domain, run))


def _stopped(domain: Domain, run: Run, cause: Cause) -> None:
    if not run.booting_again and domain.apply(cause):
        _note_state(domain, run)
    if cause == Cause.STOP_WATCHDOG:
        bitten(domain, run)


def bitten(domain: Domain, run: Run, *, dumped: bool = False) -> None:
    """The guest's watchdog has stopped it; `dumped`: a daemon before us was about what follows."""
    if any(dog.action == "dump" for dog in run.live.document.devices.watchdogs):
        domain.hypervisor.spawn(ending.dump_and_go_on(domain, run, dumped=dumped))


#: Seconds that QEMU gets to say why it stopped the machine.
STATUS_TIMEOUT = 2.0
_STOP_CAUSES = {"io-error": Cause.STOP_IO_ERROR, "watchdog": Cause.STOP_WATCHDOG}


async def _stopped_by_itself(domain: Domain, run: Run) -> None:
    """Nobody asked for the stop: QEMU knows why. Its event about the reason may come later, errors of disks do.

    While it does not say so the domain is told as running: that it stopped is told soon, with a reason or without.
    """
    try:
        state = await run.require_machine().status(timeout=STATUS_TIMEOUT)
    except CorralError:
        state = ""
    if domain.run is run and state != "running":
        _stopped(domain, run, _STOP_CAUSES.get(state, Cause.STOP))


def _resume(domain: Domain, run: Run, data: Data) -> None:
    if run.kept_files:
        domain.hypervisor.spawn(kept_files.close(run))
    cause, run.resume_cause = run.resume_cause, Cause.RESUME
    if domain.apply(cause):
        _note_state(domain, run)


def _shutdown(domain: Domain, run: Run, data: Data) -> None:
    if run.booting_again:
        return
    by_guest = bool(data.get("guest"))
    asleep = domain.state()[0] == DomainState.PMSUSPENDED  # to disk: its next boot is for somebody to ask for
    if not run.ending and by_guest and not asleep and _boots_again(run, str(data.get("reason", ""))):
        run.booting_again = True
        domain.hypervisor.spawn(ending.boot_again(domain, run, Cause.REBOOTED))
        return
    if not domain.apply(Cause.GUEST_SHUTDOWN if by_guest else Cause.HOST_SHUTDOWN):
        return
    if not run.ending:
        _note_state(domain, run)
        if by_guest:
            domain.hypervisor.spawn(ending.power_off(domain, run))


def _boots_again(run: Run, reason: str) -> bool:
    if reason == "guest-reset":  # on_reboot is destroy: QEMU turned the reset into this
        return False
    return run.fake_reboot or run.live.document.on_poweroff in ("restart", "rename-restart")


def _reset(domain: Domain, run: Run, data: Data) -> None:
    domain.hypervisor.events.emit(events.Reboot(domain.identity()))


def _panic(domain: Domain, run: Run, data: Data) -> None:
    if not run.ending and domain.apply(Cause.PANIC):
        log.warning("domain %s: the guest has panicked: %s", domain.name, data.get("info", "no details"))
        domain.hypervisor.spawn(ending.crash(domain, run))


def _suspend_memory(domain: Domain, run: Run, data: Data) -> None:
    if domain.apply(Cause.PM_SUSPEND):
        domain.hypervisor.events.emit(events.PMSuspend(domain.identity()))
        _note_state(domain, run)


def _suspend_disk(domain: Domain, run: Run, data: Data) -> None:
    if domain.apply(Cause.PM_SUSPEND_DISK):
        domain.hypervisor.events.emit(events.PMSuspendDisk(domain.identity()))
        _note_state(domain, run)


def _wakeup(domain: Domain, run: Run, data: Data) -> None:
    if domain.apply(Cause.PM_WAKEUP):
        domain.hypervisor.events.emit(events.PMWakeup(domain.identity()))
        _note_state(domain, run)


def _rtc_change(domain: Domain, run: Run, data: Data) -> None:
    domain.hypervisor.events.emit(events.RTCChange(domain.identity(), int(data.get("offset", 0))))


_WATCHDOG_ACTIONS = {
    "none": DomainEventWatchdogAction.NONE,
    "pause": DomainEventWatchdogAction.PAUSE,
    "reset": DomainEventWatchdogAction.RESET,
    "poweroff": DomainEventWatchdogAction.POWEROFF,
    "shutdown": DomainEventWatchdogAction.SHUTDOWN,
    "debug": DomainEventWatchdogAction.DEBUG,
    "inject-nmi": DomainEventWatchdogAction.INJECTNMI,
}


def _watchdog(domain: Domain, run: Run, data: Data) -> None:
    action = str(data.get("action", ""))
    number = _WATCHDOG_ACTIONS.get(action, DomainEventWatchdogAction.NONE)
    domain.hypervisor.events.emit(events.Watchdog(domain.identity(), number))


_IO_ERROR_ACTIONS = {
    "ignore": DomainEventIOErrorAction.NONE,
    "stop": DomainEventIOErrorAction.PAUSE,
    "report": DomainEventIOErrorAction.REPORT,
}


def _io_error(domain: Domain, run: Run, data: Data) -> None:
    action = _IO_ERROR_ACTIONS.get(str(data.get("action", "")), DomainEventIOErrorAction.NONE)
    alias, path = _disk(run.live.document, data)
    dom = domain.identity()
    bus = domain.hypervisor.events
    bus.emit(events.IOError(dom, path, alias, action))
    bus.emit(events.IOErrorReason(dom, path, alias, action, "enospc" if data.get("nospace") else ""))


def _disk(document: DomainDocument, data: Data) -> tuple[str, str]:
    """(alias, image path) of the disk that an event names by its device, QOM path or node."""
    places = {str(data.get("device", "")), *str(data.get("qom-path", "")).split("/")}
    node = str(data.get("node-name", "")).split("-")  # all that QEMU 7.2 tells
    for disk in document.devices.disks:
        index = str(disk.source.index) if disk.source is not None else ""
        if disk.alias and (disk.alias.name in places or node[:2] == ["libvirt", index]):
            return disk.alias.name, (disk.source.path if disk.source else None) or ""
    return str(data.get("device", "")), ""


def _write_threshold(domain: Domain, run: Run, data: Data) -> None:
    node, marks = str(data.get("node-name", "")), (data.get("write-threshold", 0), data.get("amount-exceeded", 0))
    block.exceeded(domain, run.live.document, node, int(marks[0]), int(marks[1]))


def _balloon(domain: Domain, run: Run, data: Data) -> None:
    run.balloon = int(data.get("actual", 0)) // 1024 + memory_devices.growing_kib(run.live.document)
    domain.hypervisor.events.emit(events.BalloonChange(domain.identity(), run.balloon))


def _memory_size(domain: Domain, run: Run, data: Data) -> None:
    alias = str(data.get("id") or str(data.get("qom-path", "")).rpartition("/")[2])
    memory_devices.size_changed(domain, run, alias, int(data.get("size", 0)))


def _tray(domain: Domain, run: Run, data: Data) -> None:
    alias = str(data.get("id") or data.get("device", ""))
    is_open = bool(data.get("tray-open"))

    def edit(document: DomainDocument) -> None:
        for disk in document.devices.disks:
            if disk.alias and disk.alias.name == alias:
                disk.target.tray = "open" if is_open else None

    _edit_live(domain, run, edit)
    media.tray_moved(run, alias, is_open)
    reason = DomainEventTrayChangeReason.OPEN if is_open else DomainEventTrayChangeReason.CLOSE
    domain.hypervisor.events.emit(events.TrayChange(domain.identity(), alias, reason))


def _device_deleted(domain: Domain, run: Run, data: Data) -> None:
    number = vcpus.number_of(str(data.get("device", "")))
    if number is not None:
        vcpus.gone(domain, run, number)
    elif data.get("device"):
        unplug.device_deleted(domain, run, str(data["device"]))


def _unplug_refused(domain: Domain, run: Run, data: Data) -> None:
    alias = str(data.get("device") or str(data.get("path", "")).rpartition("/")[2])
    if alias:
        unplug.unplug_refused(domain, run, alias)


def _memory_unplug_refused(domain: Domain, run: Run, data: Data) -> None:
    """The guest has let go of a module, and QEMU could not take it out."""
    answers.answered(run, str(data.get("device", "")), str(data.get("msg") or "QEMU gave no reason"))


def _ost(domain: Domain, run: Run, data: Data) -> None:
    number = answers.status_reported(run, data)
    if kept := answers.module_kept(data):
        domain.hypervisor.events.emit(events.DeviceRemovalFailed(domain.identity(), kept))
    if number is not None:
        vcpus.gone(domain, run, number)


def _port(domain: Domain, run: Run, data: Data) -> None:
    port_changed(domain, run, str(data.get("id", "")), bool(data.get("open")))


def port_changed(domain: Domain, run: Run, alias: str, is_open: bool) -> None:
    """A virtio port's guest end was opened or closed."""
    found: list[str | None] = []

    def edit(document: DomainDocument) -> None:
        for channel in document.devices.channels:
            if channel.alias and channel.alias.name == alias:
                channel.target.state = "connected" if is_open else "disconnected"
                found.append(channel.target.name)

    _edit_live(domain, run, edit)
    if guest_agent.PORT in found and run.agent is not None:
        run.agent.port_open = is_open
        state = ConnectDomainEventAgentLifecycleState
        reason = ConnectDomainEventAgentLifecycleReason.CHANNEL
        domain.hypervisor.events.emit(
            events.AgentLifecycle(domain.identity(), state.CONNECTED if is_open else state.DISCONNECTED, reason)
        )


_FAMILIES = {
    "ipv4": DomainEventGraphicsAddressType.IPV4,
    "ipv6": DomainEventGraphicsAddressType.IPV6,
    "unix": DomainEventGraphicsAddressType.UNIX,
}


def _graphics(phase: int) -> Callable[[Domain, Run, Data], None]:
    def react(domain: Domain, run: Run, data: Data) -> None:
        server, client = data.get("server", {}), data.get("client", {})
        subject = tuple(
            (kind, str(client[member]))
            for kind, member in (("x509dname", "x509_dname"), ("saslUsername", "sasl_username"))
            if client.get(member)
        )
        domain.hypervisor.events.emit(
            events.Graphics(
                domain.identity(), phase, _address(server), _address(client), str(server.get("auth", "")), subject
            )
        )

    return react


def _address(data: Data) -> events.GraphicsAddress:
    family = _FAMILIES.get(str(data.get("family", "")), DomainEventGraphicsAddressType.IPV4)
    return events.GraphicsAddress(family, str(data.get("host", "")), str(data.get("service", data.get("port", ""))))


_RECIPIENTS = {
    "hypervisor": DomainMemoryFailureRecipientType.HYPERVISOR,
    "guest": DomainMemoryFailureRecipientType.GUEST,
}
_FAILURE_ACTIONS = {
    "ignore": DomainMemoryFailureActionType.IGNORE,
    "inject": DomainMemoryFailureActionType.INJECT,
    "fatal": DomainMemoryFailureActionType.FATAL,
    "reset": DomainMemoryFailureActionType.RESET,
}


def _memory_failure(domain: Domain, run: Run, data: Data) -> None:
    told = data.get("flags", {})
    flags = (DomainMemoryFailureFlags.ACTION_REQUIRED if told.get("action-required") else 0) | (
        DomainMemoryFailureFlags.RECURSIVE if told.get("recursive") else 0
    )
    domain.hypervisor.events.emit(
        events.MemoryFailure(
            domain.identity(),
            _RECIPIENTS.get(str(data.get("recipient", "")), 0),
            _FAILURE_ACTIONS.get(str(data.get("action", "")), 0),
            flags,
        )
    )


def _rx_filter(domain: Domain, run: Run, data: Data) -> None:
    domain.hypervisor.spawn(links.follow(domain, run, str(data.get("name", ""))))


def _edit_live(domain: Domain, run: Run, edit: Callable[[DomainDocument], None]) -> None:
    """Change the live document, and have the next daemon know it."""
    run.live = run.live.edited(edit)
    domain.touch()
    domain.hypervisor.spawn(domain.hypervisor.store.update_live(run.id, xml=run.live.secure_xml))


def _note_state(domain: Domain, run: Run) -> None:
    if not run.ending:
        domain.hypervisor.spawn(ending.note_state(domain))


_REACTIONS: dict[str, Callable[[Domain, Run, Data], None]] = {
    "STOP": _stop,
    "RESUME": _resume,
    "SHUTDOWN": _shutdown,
    "RESET": _reset,
    "GUEST_PANICKED": _panic,
    "SUSPEND": _suspend_memory,
    "SUSPEND_DISK": _suspend_disk,
    "WAKEUP": _wakeup,
    "RTC_CHANGE": _rtc_change,
    "WATCHDOG": _watchdog,
    "BLOCK_IO_ERROR": _io_error,
    "BLOCK_WRITE_THRESHOLD": _write_threshold,
    "BALLOON_CHANGE": _balloon,
    "MEMORY_DEVICE_SIZE_CHANGE": _memory_size,
    "DEVICE_TRAY_MOVED": _tray,
    "DEVICE_DELETED": _device_deleted,
    "DEVICE_UNPLUG_GUEST_ERROR": _unplug_refused,
    "MEM_UNPLUG_ERROR": _memory_unplug_refused,
    "ACPI_DEVICE_OST": _ost,
    "VSERPORT_CHANGE": _port,
    "NIC_RX_FILTER_CHANGED": _rx_filter,
    "VNC_CONNECTED": _graphics(DomainEventGraphicsPhase.CONNECT),
    "VNC_INITIALIZED": _graphics(DomainEventGraphicsPhase.INITIALIZE),
    "VNC_DISCONNECTED": _graphics(DomainEventGraphicsPhase.DISCONNECT),
    "SPICE_CONNECTED": _graphics(DomainEventGraphicsPhase.CONNECT),
    "SPICE_INITIALIZED": _graphics(DomainEventGraphicsPhase.INITIALIZE),
    "SPICE_DISCONNECTED": _graphics(DomainEventGraphicsPhase.DISCONNECT),
    "MEMORY_FAILURE": _memory_failure,
}
