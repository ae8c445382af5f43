"""A domain under the daemon's care: what it is, what state it is in, and what may be done to it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from corral.constants import (
    DomainAgentResponseTimeout,
    DomainControlErrorReason,
    DomainControlState,
    DomainCreateFlags,
    DomainJobOperation,
    DomainJobType,
    DomainMetadataType,
    DomainModificationImpact,
    DomainShutoffReason,
    DomainState,
    DomainXMLFlags,
    ErrorDomain,
)
from corral.errors import InvalidArgument, OperationInvalid
from corral.hypervisor import ending, starting
from corral.hypervisor.cpus import guest_vcpus, pinning, vcpus
from corral.hypervisor.displays import displays
from corral.hypervisor.documents import Definition, check_metadata
from corral.hypervisor.events import Identity, Lifecycle, MetadataChange
from corral.hypervisor.figures import statistics
from corral.hypervisor.figures.kvm_statistics import Statistic
from corral.hypervisor.guest import guest, guest_agent
from corral.hypervisor.jobs import JobSlot
from corral.hypervisor.lifecycle import Cause, State, transition
from corral.hypervisor.memory import memory
from corral.hypervisor.rewriting import rewrite
from corral.hypervisor.run import Run

if TYPE_CHECKING:
    from corral.host.interfaces import InterfaceCounters
    from corral.hypervisor.guest.guest import Screenshot
    from corral.hypervisor.guest.stream import ByteStream
    from corral.hypervisor.hypervisor import Hypervisor

__all__ = ["ControlInfo", "Domain", "DomainInfo", "JobInfo", "Statistic"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """libvirt's virDomainInfo: `state` a virDomainState, memory in KiB, `cpu_time` in nanoseconds."""

    state: int
    max_memory: int
    memory: int
    vcpus: int
    cpu_time: int


@dataclass(frozen=True, slots=True)
class ControlInfo:
    """libvirt's virDomainControlInfo: `state` a virDomainControlState, `state_time` in milliseconds."""

    state: int
    details: int
    state_time: int


@dataclass(frozen=True, slots=True)
class JobInfo:
    """The running job as libvirt's virDomainJobInfo shows it; `type` a virDomainJobType, times in milliseconds."""

    type: int
    operation: int
    time_elapsed: int


class Domain:
    """One domain. Queries (no `async`) answer from memory; changes wait for the domain's job slot.

    A change that has begun runs to its end, whether or not its caller still waits for it.
    """

    def __init__(self, hypervisor: Hypervisor, uuid: UUID, name: str) -> None:
        self.hypervisor = hypervisor
        self.jobs = JobSlot()
        #: The definition, None for a transient domain; `run` is there while a QEMU process is, or is being made.
        self.config: Definition | None = None
        self.run: Run | None = None
        #: Changes whenever the answer to any query but `info`, `job_info`, `control_info` and `stats` may have changed.
        self.generation = 0
        self.last_boot = ""
        #: Seconds that the guest's agent gets for every answer, by virDomainAgentResponseTimeoutValues.
        self.agent_timeout: int = DomainAgentResponseTimeout.DEFAULT
        self._uuid = uuid
        self._name = name
        self._autostart = False
        self._state = State(DomainState.SHUTOFF, DomainShutoffReason.UNKNOWN)

    def __repr__(self) -> str:
        return f"<Domain {self._name} id={self.id} {self._state}>"

    # What it is.

    @property
    def name(self) -> str:
        """Unique among this daemon's domains."""
        return self._name

    @property
    def uuid(self) -> UUID:
        """Never changes."""
        return self._uuid

    @property
    def id(self) -> int:
        """The number of this run of it; -1 when off."""
        return self.run.id if self.run else -1

    @property
    def persistent(self) -> bool:
        """Whether it is defined, so that it is still there when it is off."""
        return self.config is not None

    @property
    def active(self) -> bool:
        """Whether it runs (also paused), or is being started."""
        return self.run is not None

    @property
    def exists(self) -> bool:
        """Whether it is anything yet; a name that a start has reserved is not."""
        return self.config is not None or self.run is not None

    @property
    def updated(self) -> bool:
        """Whether QEMU has changed the document behind our back; as with libvirt's own driver, never."""
        return False

    @property
    def autostart(self) -> bool:
        """Whether it is started with the host."""
        return self._autostart

    @property
    def has_managed_save(self) -> bool:
        """Whether its memory is kept for the next start: no."""
        return False

    @property
    def definition(self) -> Definition:
        """The document that queries speak of: the running one, else the defined one."""
        if self.run:
            return self.run.live
        if self.config is None:
            raise OperationInvalid("domain is not running", domain=ErrorDomain.DOMAIN)
        return self.config

    @property
    def os_type(self) -> str:
        """`hvm`."""
        return "hvm"

    @property
    def max_vcpus(self) -> int:
        """How many vCPUs it can have."""
        return statistics.vcpus(self.definition.document)[1]

    @property
    def max_memory(self) -> int:
        """KiB."""
        return statistics.memory(self.definition.document)[1]

    def vcpus(self, flags: int = 0) -> tuple[int, int]:
        """(now, at most) of the running machine or of the definition, by virDomainModificationImpact."""
        live, _ = self.impact(flags)
        definition = self.definition if live or self.config is None else self.config
        return statistics.vcpus(definition.document)

    def state(self) -> tuple[int, int]:
        """(virDomainState, reason)."""
        return self._state

    def info(self) -> DomainInfo:
        """State and size, with the CPU time used until now."""
        document = self.definition.document
        current, maximum = statistics.memory(document)
        if self.run and self.run.balloon:
            current = self.run.balloon
        return DomainInfo(
            self._state.state, maximum, current, statistics.vcpus(document)[0], self.cpu_stats()[0] if self.run else 0
        )

    def xml(self, flags: int = 0) -> str:
        """The document, by virDomainXMLFlags: SECURE, INACTIVE, MIGRATABLE (UPDATE_CPU changes nothing here)."""
        secure = bool(flags & (DomainXMLFlags.SECURE | DomainXMLFlags.MIGRATABLE))
        definition = self.definition
        if self.run and flags & DomainXMLFlags.MIGRATABLE:
            definition = self.run.base
        elif self.run and flags & DomainXMLFlags.INACTIVE:
            definition = self.config or self.run.base
        return definition.xml(secure=secure)

    def control_info(self) -> ControlInfo:
        """Whether the monitor can be used, is in use, or is lost."""
        run = self.require_run()
        now = time.monotonic()
        if run.monitor_lost is not None:
            lost = int((now - run.monitor_lost) * 1000)
            return ControlInfo(DomainControlState.ERROR, DomainControlErrorReason.MONITOR, lost)
        if self.jobs.holder:
            return ControlInfo(DomainControlState.JOB, 0, self.jobs.holder.elapsed_ms(now))
        return ControlInfo(DomainControlState.OK, 0, 0)

    def job_info(self) -> JobInfo:
        """The job under way, if it is one of libvirt's operations."""
        self.require_run()
        job = self.jobs.holder
        if job is None or job.operation == DomainJobOperation.UNKNOWN:
            return JobInfo(DomainJobType.NONE, DomainJobOperation.UNKNOWN, 0)
        return JobInfo(DomainJobType.UNBOUNDED, job.operation, job.elapsed_ms())

    def metadata(self, type: int, uri: str | None = None, flags: int = 0) -> str:
        """Title, description or a metadata element, by virDomainMetadataType and virDomainModificationImpact."""
        live, _ = self.impact(flags)
        if live:
            return self.require_run().live.metadata(type, uri)
        if self.config is None:
            raise OperationInvalid("transient domains do not have any persistent config", domain=ErrorDomain.DOMAIN)
        return self.config.metadata(type, uri)

    async def stats(self, groups: int = 0, *, nowait: bool = False) -> list[Statistic]:
        """Statistics of the virDomainStatsTypes in `groups` (0: all), named and typed as libvirt's.

        A monitor that does not answer leaves its part out and raises nothing; `nowait` leaves it out when it is in use.
        """
        return await statistics.collect(self, groups, nowait=nowait)

    def cpu_stats(self) -> tuple[int, int, int]:
        """(cpu_time, user_time, system_time) in nanoseconds since start."""
        run = self.require_run()
        return statistics.cpu_times(run.process.pid) if run.process else (0, 0, 0)

    def interface_counters(self, name: str) -> InterfaceCounters:
        """What the network card of that address, or link on the host, has received and sent since it was plugged."""
        return statistics.of_interface(self, name)

    # Changes.

    async def create(self, flags: int = 0, *, owner: object | None = None) -> None:
        """Start; virDomainCreateFlags PAUSED, AUTODESTROY (needs `owner`), BYPASS_CACHE, FORCE_BOOT, RESET_NVRAM."""
        wanted = owner if flags & DomainCreateFlags.START_AUTODESTROY else None

        async def work() -> None:
            if self.run:
                raise OperationInvalid("domain is already running")
            if self.config is None:
                raise OperationInvalid("domain is not running", domain=ErrorDomain.DOMAIN)
            await starting.start(self, self.config, flags, owner=wanted)

        await self.change("start", work, operation=DomainJobOperation.START)

    async def shutdown(self, flags: int = 0) -> None:
        """Ask the guest to power off, by virDomainShutdownFlags ACPI_POWER_BTN and GUEST_AGENT."""
        await self.change("shutdown", lambda: ending.shutdown(self, flags))

    async def reboot(self, flags: int = 0) -> None:
        """Ask the guest to boot again, by virDomainRebootFlags ACPI_POWER_BTN and GUEST_AGENT."""
        await self.change("reboot", lambda: ending.reboot(self, flags))

    async def reset(self) -> None:
        """Press the reset button."""
        await self.change("reset", lambda: ending.reset(self))

    async def destroy(self, flags: int = 0) -> None:
        """End the process; returns when it is gone. virDomainDestroyFlags GRACEFUL never kills."""
        # Not in the job slot: what holds that may be waiting for the very process that shall end.
        await self.hypervisor.complete(ending.destroy(self, flags))

    async def suspend(self) -> None:
        """Pause the CPUs."""
        await self.change("suspend", lambda: ending.suspend(self))

    async def resume(self) -> None:
        """Let the CPUs run."""
        await self.change("resume", lambda: ending.resume(self))

    async def undefine(self, flags: int = 0) -> None:
        """Forget the definition; a running domain becomes transient. virDomainUndefineFlags NVRAM, KEEP_NVRAM."""
        await self.hypervisor.complete(self.hypervisor.undefine(self, flags))

    async def set_autostart(self, autostart: bool) -> None:
        """Mark it to be started with the host, or not."""

        async def work() -> None:
            async with self.hypervisor.definitions:
                if self.config is None:
                    raise OperationInvalid("cannot set autostart for transient domain")
                if self._autostart != autostart:
                    await self.hypervisor.store.set_autostart(self._uuid, autostart)
                    self._autostart = autostart
                    self.touch()

        await self.change("set autostart", work)

    async def set_metadata(self, type: int, text: str | None, key: str | None, uri: str | None, flags: int = 0) -> None:
        """Set title, description or a metadata element (None: remove it), live, in the definition, or both."""
        check_metadata(type, text, key, uri)

        async def work() -> None:
            async with self.hypervisor.definitions:
                live, config = self.impact(flags)

                def edit(definition: Definition) -> Definition:
                    return definition.with_metadata(type, text, key, uri)

                await rewrite(self, config=edit if config else None, live=edit if live else None)
            nsuri = uri if type == DomainMetadataType.ELEMENT else None
            self.hypervisor.events.emit(MetadataChange(self.identity(), type, nsuri))

        await self.change("set metadata", work)

    async def set_vcpus(self, count: int, flags: int = 0) -> int:
        """Have `count` vCPUs, by virDomainVcpuFlags; how many the guest uses afterwards, as far as it is known.

        Returns when the guest uses, or has let go of, every one; raises with the guest's reason, and what was changed
        by then is undone.
        """
        return await self.change("set vcpus", lambda: vcpus.set_count(self, count, flags))

    async def set_vcpu(self, numbers: str, present: bool, flags: int = 0) -> None:
        """Plug or unplug single vCPUs (`1,3-4`), by virDomainModificationImpact."""
        await self.change("set vcpus", lambda: vcpus.set_single(self, numbers, present, flags))

    async def guest_vcpus(self) -> dict[str, str]:
        """Which CPUs the guest has (`vcpus`), uses (`online`), and could do without (`offlinable`), by its agent."""
        return await self.hypervisor.complete(guest_vcpus.describe(self))

    async def guest_vcpu_count(self, *, maximum: bool = False) -> int:
        """How many CPUs the guest uses, or has, by its agent."""
        return await self.hypervisor.complete(guest_vcpus.maximum(self) if maximum else guest_vcpus.count(self))

    async def set_guest_vcpus(self, numbers: str, online: bool) -> None:
        """Have the guest use some of its CPUs (`1,3-4`), or not, by its agent."""
        await self.change("set guest vcpus", lambda: guest_vcpus.set_single(self, numbers, online))

    async def set_memory(self, kib: int, flags: int = 0) -> int:
        """Give the guest so many KiB, by virDomainMemoryModFlags; returns what it has when its balloon has moved."""
        return await self.change("set memory", lambda: memory.set_size(self, kib, flags))

    async def set_memory_stats_period(self, period: int, flags: int = 0) -> None:
        """Have the guest report its memory every `period` seconds (0: never), by virDomainModificationImpact."""
        await self.change("set memory statistics", lambda: memory.set_stats_period(self, period, flags))

    async def pin_vcpu(self, number: int, cpus: frozenset[int], flags: int = 0) -> None:
        """Let one vCPU run on these host CPUs only, by virDomainModificationImpact."""
        await self.change("pin", lambda: pinning.pin_vcpu(self, number, cpus, flags))

    async def pin_emulator(self, cpus: frozenset[int], flags: int = 0) -> None:
        """Let QEMU's own work run on these host CPUs only."""
        await self.change("pin", lambda: pinning.pin_emulator(self, cpus, flags))

    async def pin_iothread(self, number: int, cpus: frozenset[int], flags: int = 0) -> None:
        """Let one I/O thread run on these host CPUs only."""
        await self.change("pin", lambda: pinning.pin_iothread(self, number, cpus, flags))

    def vcpu_pins(self, flags: int = 0) -> list[frozenset[int]]:
        """The host CPUs on which each vCPU that there can be may run."""
        return pinning.vcpu_pins(self, flags)

    def emulator_pin(self, flags: int = 0) -> frozenset[int]:
        """The host CPUs on which QEMU's own work may run."""
        return pinning.emulator_pin(self, flags)

    def iothread_pins(self, flags: int = 0) -> dict[int, frozenset[int]]:
        """The host CPUs on which each I/O thread may run, by its number."""
        return pinning.iothread_pins(self, flags)

    async def rename(self, new_name: str) -> None:
        """Give a defined domain that is off another name."""
        if not new_name:
            raise InvalidArgument("string new_name in virDomainRename must not be empty", domain=ErrorDomain.DOMAIN)
        await self.change("rename", lambda: self.hypervisor.rename(self, new_name))

    # The running guest.

    async def send_key(self, codeset: int, holdtime: int, keycodes: list[int]) -> None:
        """Press the keys together for `holdtime` milliseconds; `codeset` is a virKeycodeSet."""
        await self.change("send key", lambda: guest.send_key(self, codeset, holdtime, keycodes))

    async def inject_nmi(self) -> None:
        """Interrupt the guest in a way that it cannot ignore."""
        await self.change("inject NMI", lambda: guest.inject_nmi(self))

    async def screenshot(self, screen: int = 0) -> Screenshot:
        """A picture of a screen."""
        return await self.change("screenshot", lambda: guest.screenshot(self, screen))

    async def open_graphics(self, index: int, descriptor: int, flags: int = 0) -> None:
        """Have a display serve the client at the other end of a socket, which stays the caller's to close."""
        displays.check_socket(descriptor)
        await self.change("open graphics", lambda: displays.open_with(self, index, descriptor, flags))

    async def open_graphics_fd(self, index: int, flags: int = 0) -> int:
        """A new connection to a display, the caller's to close (virDomainOpenGraphicsFlags SKIPAUTH)."""
        return await self.change("open graphics", lambda: displays.open_client(self, index, flags))

    async def graphics_reload(self, kind: int) -> None:
        """Have VNC servers use the daemon's certificates as they are now (virDomainGraphicsReloadType)."""
        await self.change("reload graphics", lambda: displays.reload(self, kind))

    async def open_console(self, devname: str | None = None, flags: int = 0) -> ByteStream:
        """The console or serial device by alias (None: the first); virDomainConsoleFlags FORCE, SAFE."""
        return await guest.open_console(self, devname, flags)

    async def open_channel(self, name: str | None = None, flags: int = 0) -> ByteStream:
        """The channel by alias or target name (None: the first UNIX one); virDomainChannelFlags FORCE."""
        return await guest.open_channel(self, name, flags)

    async def monitor_command(self, text: str, flags: int = 0) -> str:
        """A QMP message as it is, or a line for the human monitor (virDomainQemuMonitorCommandFlags HMP)."""
        return await self.change("monitor command", lambda: guest.monitor_command(self, text, flags))

    async def agent_command(self, text: str, timeout: int, flags: int = 0) -> str:
        """A message to the guest agent as it is; `timeout` in seconds or a virDomainQemuAgentCommandTimeoutValues."""
        return await guest.agent_command(self, text, timeout)

    async def hostname(self, flags: int = 0) -> str:
        """The guest's own host name, from its agent."""
        return await guest_agent.hostname(self, flags)

    async def log_text(self, lines: int = 0) -> str:
        """The last `lines` lines (0: at most 1 MiB) of QEMU's own log."""
        return await guest.log_text(self, lines)

    # For the other modules of this room.

    def require_run(self) -> Run:
        """The process behind it, being made or there; OperationInvalid when it is off."""
        if self.run is None:
            raise OperationInvalid("domain is not running", domain=ErrorDomain.DOMAIN)
        return self.run

    def identity(self, *, off: bool = False) -> Identity:
        """What an event carries; `off` makes the id -1."""
        return Identity(self._name, self._uuid, -1 if off or not self.run else self.run.id)

    async def change(
        self, what: str, work: Callable[[], Awaitable[T]], *, operation: int = DomainJobOperation.UNKNOWN
    ) -> T:
        """Do `work` in the job slot, to its end even if our caller is cancelled."""

        async def in_slot() -> T:
            async with self.jobs.hold(what, operation=operation):
                return await work()

        return await self.hypervisor.complete(in_slot())

    def apply(self, cause: Cause, *, domain_id: int | None = None) -> bool:
        """Make the transition that `cause` means, and tell; False when it changes nothing.

        `domain_id` is the id to tell when the run is already forgotten.
        """
        after = transition(self._state, cause)
        if after is None:
            return False
        self._state = after.state
        self.touch()
        dom = self.identity()
        if domain_id is not None:
            dom = Identity(self._name, self._uuid, domain_id if after.id_kept else -1)
        for event, detail in after.events:
            self.hypervisor.events.emit(Lifecycle(dom, event, detail))
        return True

    def touch(self) -> None:
        """Something that a query could show has changed."""
        self.generation += 1
        self.hypervisor.generation += 1

    def restore(self, state: State) -> None:
        """Take over what is known from the store or from QEMU, without an event."""
        self._state = state
        self.touch()

    def configure(self, config: Definition | None, *, name: str | None = None, autostart: bool | None = None) -> None:
        """Take over what has just been written to the store."""
        self.config = config
        self._name = name or self._name
        self._autostart = self._autostart if autostart is None else autostart
        self.touch()

    def impact(self, flags: int) -> tuple[bool, bool]:
        """(live, config) that virDomainModificationImpact means now."""
        live = bool(flags & DomainModificationImpact.LIVE)
        config = bool(flags & DomainModificationImpact.CONFIG)
        if not live and not config:
            live, config = self.active, not self.active
        if live:
            self.require_run()
        if config and self.config is None:
            raise OperationInvalid("transient domains do not have any persistent config", domain=ErrorDomain.DOMAIN)
        return live, config
