"""One domain on a host: everything a person does with a virtual machine, as methods."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from corral import constants
from corral.constants import DomainState, name_of
from corral.errors import (
    AgentCommandFailed,
    AgentCommandTimeout,
    AgentUnresponsive,
    InternalError,
    InvalidArgument,
    NoDomain,
    OperationInvalid,
    OperationTimeout,
)

if TYPE_CHECKING:
    from datetime import datetime
    from socket import socket
    from uuid import UUID

    from corral.client.agent import ExecResult
    from corral.client.connection import Connection
    from corral.client.displays import Display
    from corral.client.events import Event
    from corral.client.execution import Execution, Input
    from corral.client.guest_facts import Load, MemoryBlock, Routes
    from corral.client.host import Host
    from corral.client.listening import Events
    from corral.client.stream import Stream
    from corral.client.tuning import Tuning
    from corral.client.usb import Plugged
    from corral.model.domain import Domain as DomainDocument
    from corral.model.element import Element
    from corral.usb.filter import Filter
    from corral.usb.transfer import Target

#: How libvirtd tells of an agent's refusal; that of Debian 12 (9.0) as an internal error.
_AGENT_REFUSES = "unable to execute QEMU agent command"
#: Seconds until an agent that was silent is asked again.
_AGENT_PAUSE = 2.0
ACTIVE = ("running", "blocked", "paused", "shutdown", "pmsuspended")

REASONS: dict[int, type] = {
    DomainState.NOSTATE: constants.DomainNostateReason,
    DomainState.RUNNING: constants.DomainRunningReason,
    DomainState.BLOCKED: constants.DomainBlockedReason,
    DomainState.PAUSED: constants.DomainPausedReason,
    DomainState.SHUTDOWN: constants.DomainShutdownReason,
    DomainState.SHUTOFF: constants.DomainShutoffReason,
    DomainState.CRASHED: constants.DomainCrashedReason,
    DomainState.PMSUSPENDED: constants.DomainPMSuspendedReason,
}


@dataclass(frozen=True, slots=True)
class State:
    """Where a domain is and why, in libvirt's words: `running` (`booted`), `shutoff` (`destroyed`), …"""

    name: str
    reason: str

    @property
    def active(self) -> bool:
        """Whether a QEMU runs for it, paused or not."""
        return self.name in ACTIVE

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Info:
    """The figures of a domain: memory in KiB, the CPU time that it has used in seconds."""

    state: str
    max_memory: int
    memory: int
    vcpus: int
    cpu_time: float


class Domain:
    """A domain of `host`, as a handle: it names the domain and holds nothing that can grow stale but its `id`."""

    def __init__(self, host: Host, reference: Any) -> None:
        self.host = host
        self.reference = reference

    @property
    def name(self) -> str:
        return str(self.reference.name)

    @property
    def uuid(self) -> UUID:
        from uuid import UUID

        return UUID(bytes=self.reference.uuid)

    @property
    def id(self) -> int | None:
        """The number of its present run, as of when this handle was made; None when it was not running."""
        number: int = self.reference.id
        return number if number >= 0 else None

    def __repr__(self) -> str:
        return f"<Domain {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Domain) and self.reference.uuid == other.reference.uuid

    def __hash__(self) -> int:
        return hash(self.reference.uuid)

    @property
    def _connection(self) -> Connection:
        return self.host.connection

    async def _call(self, name: str, **fields: Any) -> Any:
        return await self._connection.call(name, {"dom": self.reference, **fields})

    # What it is.

    async def state(self) -> State:
        """Where it is and why."""
        answer = await self._call("domain_get_state", flags=0)
        group = REASONS.get(answer.state)
        return State(
            name_of(DomainState, answer.state) or str(answer.state),
            (group and name_of(group, answer.reason)) or str(answer.reason),
        )

    async def info(self) -> Info:
        """Its state and figures."""
        answer = await self._call("domain_get_info")
        state = name_of(DomainState, answer.state) or str(answer.state)
        return Info(state, answer.maxMem, answer.memory, answer.nrVirtCpu, answer.cpuTime / 1e9)

    async def active(self) -> bool:
        """Whether it runs, paused or not."""
        return bool((await self._call("domain_is_active")).active)

    async def persistent(self) -> bool:
        """Whether its definition is kept when it stops."""
        return bool((await self._call("domain_is_persistent")).persistent)

    async def xml(self, *, inactive: bool = False, secure: bool = False) -> str:
        """Its document in libvirt's XML: the running machine's, or with `inactive` what the next start uses.

        `secure` includes passwords.
        """
        flags = constants.DomainXMLFlags.INACTIVE * inactive | constants.DomainXMLFlags.SECURE * secure
        return str((await self._call("domain_get_xml_desc", flags=flags)).xml)

    async def document(self, *, inactive: bool = False, secure: bool = False) -> DomainDocument:
        """Its document as a typed model."""
        from corral.model.domain import Domain as DomainDocument

        return DomainDocument.from_xml(await self.xml(inactive=inactive, secure=secure))

    async def autostart(self) -> bool:
        """Whether it starts with the daemon."""
        return bool((await self._call("domain_get_autostart")).autostart)

    async def set_autostart(self, on: bool) -> None:
        """Start it with the daemon, or no longer."""
        await self._call("domain_set_autostart", autostart=int(on))

    # Its life.

    async def start(self, *, paused: bool = False) -> None:
        """Start it; returns when the machine runs (or stands paused before its first instruction)."""
        flags = constants.DomainCreateFlags.START_PAUSED * paused
        self.reference = (await self._call("domain_create_with_flags", flags=flags)).dom

    async def shutdown(self) -> None:
        """Ask the guest to shut down. Returns when it was asked; `wait_for("shutoff")` waits."""
        await self._call("domain_shutdown")

    async def reboot(self) -> None:
        """Ask the guest to reboot. Returns when it was asked."""
        await self._call("domain_reboot", flags=0)

    async def reset(self) -> None:
        """Reset it at once, as its reset button would; the guest gets no warning."""
        await self._call("domain_reset", flags=0)

    async def destroy(self, *, graceful: bool = False) -> None:
        """End it at once, as pulling the plug would; returns when its process is gone.

        `graceful` gives QEMU time to write its caches and fails rather than kill it.
        """
        flags = constants.DomainDestroyFlags.GRACEFUL * graceful
        await self._call("domain_destroy_flags", flags=flags)

    async def suspend(self) -> None:
        """Pause its vCPUs."""
        await self._call("domain_suspend")

    async def resume(self) -> None:
        """Let its vCPUs go on."""
        await self._call("domain_resume")

    async def undefine(self, *, nvram: bool = True) -> None:
        """Forget its definition, with what hangs on it (saved state, snapshots' records, firmware variables).

        A running domain runs on until it stops. `nvram=False` keeps the firmware variables' file.
        """
        flags = constants.DomainUndefineFlags
        chosen = flags.MANAGED_SAVE | flags.SNAPSHOTS_METADATA | flags.CHECKPOINTS_METADATA
        await self._call("domain_undefine_flags", flags=chosen | (flags.NVRAM if nvram else flags.KEEP_NVRAM))

    async def vcpus(self, *, maximum: bool = False, live: bool | None = None) -> int:
        """How many vCPUs there are, or can be; `live` False asks the definition (None: what is now)."""
        flags = _impact(live) | (constants.DomainVcpuFlags.MAXIMUM if maximum else 0)
        return int((await self._call("domain_get_vcpus_flags", flags=flags)).num)

    async def set_vcpus(self, count: int, *, maximum: bool = False, live: bool = False, config: bool = False) -> None:
        """Have `count` vCPUs, or at most so many; neither live nor config: what it is now, running or off.

        A running guest uses, or has let go of, every one when this returns; a refusal is an error with its reason.
        """
        flags = _flags(live, config) | (constants.DomainVcpuFlags.MAXIMUM if maximum else 0)
        await self._call("domain_set_vcpus_flags", nvcpus=count, flags=flags)

    async def guest_vcpus(self) -> dict[str, str]:
        """Which CPUs the guest has (`vcpus`), uses (`online`), and could do without (`offlinable`), by its agent."""
        answer = await self._call("domain_get_guest_vcpus", flags=0)
        return {each.field: str(each.value[1]) for each in answer.params}

    async def set_memory(self, kib: int, *, maximum: bool = False, live: bool = False, config: bool = False) -> None:
        """Give the guest so many KiB, or change what it can have at its next start (`maximum` with `config`)."""
        flags = _flags(live, config) | (constants.DomainMemoryModFlags.MAXIMUM if maximum else 0)
        await self._call("domain_set_memory_flags", memory=kib, flags=flags)

    async def rename(self, name: str) -> None:
        """Give it another name; it must be off."""
        await self._call("domain_rename", new_name=name, flags=0)
        self.reference = (await self.host.domain(self.uuid)).reference

    # Its devices.

    async def attach(self, device: str | Element, *, live: bool | None = None, config: bool | None = None) -> None:
        """Give it one more device, as libvirt's XML or as a model; returns when the machine has it.

        `live` is about the running machine, `config` about the definition; None: where there is one.
        """
        await self._change_device("domain_attach_device_flags", device, live, config)

    async def detach(self, device: str | Element, *, live: bool | None = None, config: bool | None = None) -> None:
        """Take a device away; returns when the guest has let go of it.

        OperationFailed with the guest's reason when it refuses, OperationTimeout when it does not answer: it then still
        has the device, and it may be tried again. DeviceMissing when there is none like that.
        """
        await self._change_device("domain_detach_device_flags", device, live, config)

    async def update(
        self, device: str | Element, *, live: bool | None = None, config: bool | None = None, force: bool = False
    ) -> None:
        """Change a device in place: a drive's medium, a network cable, a password.

        `force` opens a drive that the guest holds.
        """
        more = constants.DomainDeviceModifyFlags.FORCE * force
        await self._change_device("domain_update_device_flags", device, live, config, more)

    async def _change_device(
        self, call: str, device: str | Element, live: bool | None, config: bool | None, more: int = 0
    ) -> None:
        xml = device if isinstance(device, str) else device.to_xml(secure=True)
        await self._call(call, xml=xml, flags=await self.impact(live, config) | more)

    async def impact(self, live: bool | None, config: bool | None) -> int:
        """A virDomainModificationImpact: the running machine, the definition or both; None: where there is one."""
        return _flags(
            await self.active() if live is None else live, await self.persistent() if config is None else config
        )

    async def disk_size(self, target: str) -> int:
        """How many bytes the guest sees of a disk; InvalidArgument for an empty drive."""
        return int((await self._call("domain_get_block_info", path=target, flags=0)).capacity)

    async def resize_disk(self, target: str, size: int, *, shrink: bool = False) -> None:
        """Give a running machine's disk another size, in bytes; the guest is told.

        InvalidArgument for a size that is less than the present one, unless `shrink` says that its end may be lost.
        """
        if not shrink and size < (present := await self.disk_size(target)):
            raise InvalidArgument(
                f"{target} of {self.name} has {_mib(present)}, and would lose what is beyond {_mib(size)}",
                hint="if nothing there is needed any more: shrink (corral disk resize --shrink)",
            )
        await self._call("domain_block_resize", disk=target, size=size, flags=constants.DomainBlockResizeFlags.BYTES)

    async def disk_limits(self, target: str, *, config: bool = False) -> dict[str, Any]:
        """How fast a disk may be, by libvirt's names (`total_bytes_sec`, `read_iops_sec_max` …); 0 is no limit."""
        from corral.protocol.typed_params import unpack

        flags = _flags(False, config)
        count = (await self._call("domain_get_block_io_tune", disk=target, nparams=0, flags=flags)).nparams
        answer = await self._call("domain_get_block_io_tune", disk=target, nparams=count, flags=flags)
        return unpack(answer.params)

    async def limit_disk(
        self, target: str, limits: Mapping[str, int | str], *, live: bool | None = None, config: bool | None = None
    ) -> None:
        """Change how fast a disk may be: `limit_disk("vda", {"total_bytes_sec": 10 << 20, "group_name": "slow"})`.

        `live` and `config` as for `attach`.
        """
        from corral.protocol.typed_params import TypedParam, pack

        params = [
            TypedParam.string(name, value) if isinstance(value, str) else TypedParam.ullong(name, value)
            for name, value in limits.items()
        ]
        flags = await self.impact(live, config)
        await self._call("domain_set_block_io_tune", disk=target, params=pack(params), flags=flags)

    @property
    def tuning(self) -> Tuning:
        """Its I/O threads, its CPUs of the host, where its memory comes from."""
        from corral.client.tuning import Tuning

        return Tuning(self)

    # Waiting.

    def events(self, *kinds: type[Event] | str) -> Events:
        """What happens to it, of these kinds or of all."""
        return self.host.events(*kinds, domain=self)

    async def wait_for(self, *states: str, timeout: float | None = 60.0) -> State:
        """Wait until its state is one of `states`, such as "running" or "shutoff", or "gone" when it is unknown.

        OperationTimeout after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout), self.events("lifecycle") as events:
                while True:
                    state = await self.state_or_gone()
                    if state.name in states:
                        return state
                    await anext(events)
        except TimeoutError as error:
            raise OperationTimeout(f"{self.name} is not {' or '.join(states)} after {timeout:g} s") from error

    async def state_or_gone(self) -> State:
        try:
            return await self.state()
        except NoDomain:
            return State("gone", "unknown")

    # Seeing and touching it.

    async def console(self, device: str | None = None, *, force: bool = False) -> Stream:
        """Its serial or virtio console as a stream: the first, or the one with the alias `device`.

        `force` takes it from another client that has it open.
        """
        flags = constants.DomainConsoleFlags.FORCE * force
        _, stream = await self._connection.open_stream(
            "domain_open_console", {"dom": self.reference, "dev_name": device, "flags": flags}
        )
        return stream

    async def channel(self, name: str | None = None, *, force: bool = False) -> Stream:
        """A virtio channel as a stream, by its target name."""
        flags = constants.DomainChannelFlags.FORCE * force
        _, stream = await self._connection.open_stream(
            "domain_open_channel", {"dom": self.reference, "name": name, "flags": flags}
        )
        return stream

    def usb(
        self, device: Target, *, slot: str | None = None, bus: int | None = None, filter: Filter | None = None
    ) -> Plugged:
        """Give it a USB device of ours for as long as a block lasts: `async with vm.usb(usb.Keyboard()) as plugged:`.

        It gets a slot of its own, on the USB controller `bus` or the first that fits; or `slot`, the alias of a
        `<redirdev>` on a UNIX socket. `filter` keeps devices out here; the machine's `<redirfilter>` does there.
        """
        from corral.client.usb import Plugged

        return Plugged(self, device, slot=slot, bus=bus, filter=filter)

    async def screenshot(self, screen: int = 0) -> tuple[str, bytes]:
        """What its screen shows: the MIME type and the picture."""
        answer, stream = await self._connection.open_stream(
            "domain_screenshot", {"dom": self.reference, "screen": screen, "flags": 0}
        )
        async with stream:
            return answer.mime or "application/octet-stream", await stream.read_all()

    async def displays(self, *, secure: bool = False) -> list[Display]:
        """Its SPICE and VNC displays, as viewers reach them; with their passwords if `secure`."""
        from corral.client import displays

        return await displays.displays(self, secure=secure)

    async def open_display(self, kind: Literal["spice", "vnc"] | None = None, *, skip_password: bool = True) -> socket:
        """A new connection to its display of that type (None: SPICE, else VNC), through the daemon; the caller closes.

        SPICE wants one for each of its channels. NoSupport for a daemon that is reached through ssh.
        """
        from corral.client import displays

        return await displays.connect(self, await displays.choose(self, kind), skip_password=skip_password)

    async def set_display_password(
        self,
        password: str,
        *,
        kind: Literal["spice", "vnc"] | None = None,
        valid_to: datetime | None = None,
        connected: Literal["keep", "disconnect", "fail"] | None = None,
        config: bool | None = None,
    ) -> list[Literal["spice", "vnc"]]:
        """Give its displays, or that of type `kind`, another password, good until `valid_to` (None: for ever);
        of which types they are.

        A running machine's display must have one already. `connected`: what becomes of SPICE viewers who are there.
        `config` as for `attach`.
        """
        from corral.client import displays

        return await displays.set_password(
            self, password, kind=kind, valid_to=valid_to, connected=connected, config=config
        )

    async def send_key(self, *keycodes: int, codeset: int = constants.KeycodeSet.LINUX, hold_ms: int = 0) -> None:
        """Press these keys together."""
        await self._call("domain_send_key", codeset=codeset, holdtime=hold_ms, keycodes=list(keycodes), flags=0)

    async def monitor(self, command: str | dict[str, Any], *, hmp: bool = False) -> Any:
        """Pass a command to QEMU's monitor: its answer's `return`, or the text with `hmp`."""
        text = command if isinstance(command, str) else json.dumps(command)
        flags = constants.DomainQemuMonitorCommandFlags.HMP * hmp
        result = (await self._call("qemu.domain_monitor_command", cmd=text, flags=flags)).result
        return result if hmp else _parsed(result, "QEMU").get("return")

    async def logs(self, lines: int = 0) -> str:
        """The last `lines` lines of what its QEMU has written, 0 for all; Corral's own daemon only."""
        return str((await self.host.call_own("corral.logs", dom=self.reference, lines=lines)).text)

    # The guest agent.

    async def agent(self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = 10.0) -> Any:
        """What the guest agent returns for a command, such as `guest-ping`; AgentUnresponsive if it is not there."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        try:
            answer = await self._connection.call(
                "qemu.domain_agent_command",
                {"dom": self.reference, "cmd": json.dumps(request), "timeout": max(1, round(timeout)), "flags": 0},
                timeout=timeout + 30,
            )
        except InternalError as error:
            if _AGENT_REFUSES in error.detail:
                raise AgentCommandFailed(error.detail) from error
            raise
        return _parsed(answer.result or "{}", "the guest agent").get("return")

    async def wait_for_agent(self, timeout: float | None = 60.0) -> None:
        """Wait until the guest agent answers, which is when the guest has booted far enough to be used."""
        try:
            async with asyncio.timeout(timeout), self.events("agent-lifecycle", "lifecycle") as events:
                while not await self._agent_answers():
                    # It announces its port, not its readiness: a slow guest's agent is asked again without an event.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_AGENT_PAUSE):
                            await anext(events)
        except TimeoutError as error:
            raise AgentUnresponsive(f"no agent in {self.name} has answered within {timeout:g} s") from error

    async def _agent_answers(self) -> bool:
        try:
            await self.agent("guest-ping", timeout=5.0)
        except AgentUnresponsive:
            return False
        except OperationInvalid as error:
            if (await self.state_or_gone()).active:
                raise
            raise AgentUnresponsive(f"{self.name} stopped before its agent answered") from error
        return True

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: Input = None,
        timeout: float | None = None,
        agent_timeout: float = 5.0,
    ) -> ExecResult:
        """Run a program in the guest through its agent; its exit status and output.

        OperationTimeout after `timeout` seconds; then, and when the call is cancelled, the program is told to end.
        """
        from corral.client.agent import execute

        return await execute(self, argv, stdin=stdin, timeout=timeout, agent_timeout=agent_timeout)

    def execution(self, argv: Sequence[str], *, stdin: Input = None, agent_timeout: float = 5.0) -> Execution:
        """Run a program in the guest and have what it writes while it runs:

        `async with vm.execution(["dmesg", "-w"]) as running: async for stream, data in running: …`; `stream` is 1 or 2.
        """
        from corral.client.execution import Execution

        return Execution(self, argv, stdin=stdin, agent_timeout=agent_timeout)

    def read_file(self, path: str) -> AsyncIterator[bytes]:
        """The content of a file of the guest, piece by piece, through its agent."""
        from corral.client import guest_files

        return guest_files.read(self, path)

    async def write_file(self, path: str, content: bytes | Iterable[bytes]) -> int:
        """Make a file of the guest, in place of what it had; how many bytes it has."""
        from corral.client import guest_files

        return await guest_files.write(self, path, [content] if isinstance(content, bytes) else content)

    async def guest_info(self) -> dict[str, Any]:
        """What the guest says of itself, through its agent, by libvirt's names (`os.id`, `fs.0.mountpoint`)."""
        from corral.protocol.typed_params import unpack

        return unpack((await self._call("domain_get_guest_info", types=0, flags=0)).params)

    async def load(self) -> Load:
        """How busy the guest is, by its agent or its own files, and which of them told."""
        from corral.client import guest_facts

        return await guest_facts.load(self)

    async def routes(self) -> Routes:
        """The guest's routes, by its agent or its own files, and which of them told."""
        from corral.client import guest_facts

        return await guest_facts.routes(self)

    async def memory_blocks(self) -> tuple[MemoryBlock, ...]:
        """The pieces of the guest's memory, and which it uses, through its agent."""
        from corral.client import guest_facts

        return await guest_facts.memory_blocks(self)

    async def set_memory_blocks(self, numbers: Sequence[int], *, online: bool) -> None:
        """Have the guest use pieces of its memory, or not."""
        from corral.client import guest_facts

        await guest_facts.set_memory_blocks(self, numbers, online)

    async def agent_time(self) -> float:
        """The guest's clock, in seconds since 1970."""
        answer = await self._call("domain_get_time", flags=0)
        return float(answer.seconds + answer.nseconds / 1e9)

    async def agent_set_time(self, seconds: float | None = None) -> None:
        """Set the guest's clock; None has the guest take it from its own RTC."""
        whole, fraction = divmod(seconds or 0.0, 1.0)
        flags = constants.DomainSetTimeFlags.TIME_SYNC if seconds is None else 0
        await self._call("domain_set_time", seconds=int(whole), nseconds=int(fraction * 1e9), flags=flags)

    async def agent_freeze(self, *mountpoints: str) -> int:
        """Flush and freeze the guest's filesystems (none given: all); how many are frozen."""
        return int((await self._call("domain_fsfreeze", mountpoints=list(mountpoints), flags=0)).filesystems)

    async def agent_thaw(self) -> int:
        """Thaw the guest's filesystems; how many were frozen."""
        return int((await self._call("domain_fsthaw", mountpoints=[], flags=0)).filesystems)

    async def agent_trim(self, minimum: int = 0) -> None:
        """Have the guest give unused blocks back."""
        await self._call("domain_fstrim", mountPoint=None, minimum=minimum, flags=0)

    async def agent_set_password(self, user: str, password: str, *, encrypted: bool = False) -> None:
        """Give a user of the guest another password."""
        await self._call("domain_set_user_password", user=user, password=password, flags=int(encrypted))

    async def agent_ssh_keys(self, user: str) -> list[str]:
        """A guest user's authorized keys."""
        return list((await self._call("domain_authorized_ssh_keys_get", user=user, flags=0)).keys)

    async def agent_set_ssh_keys(self, user: str, *keys: str, append: bool = False, remove: bool = False) -> None:
        """Replace a guest user's authorized keys, or add these to them or remove these from them."""
        kinds = constants.DomainAuthorizedSSHKeysSetFlags
        flags = kinds.APPEND * append | kinds.REMOVE * remove
        await self._call("domain_authorized_ssh_keys_set", user=user, keys=list(keys), flags=flags)

    async def agent_shutdown(self, mode: Literal["powerdown", "reboot", "halt"] = "powerdown") -> None:
        """Have the guest's agent power it off, boot it again, or halt it with its power on; returns when it was asked.

        What is to be done about a guest that has no agent, or does not obey, `shutdown` and `reboot` know.
        """
        match mode:
            case "powerdown":
                await self._call("domain_shutdown_flags", flags=constants.DomainShutdownFlags.GUEST_AGENT)
            case "reboot":
                await self._call("domain_reboot", flags=constants.DomainRebootFlags.GUEST_AGENT)
            case "halt":  # libvirt's protocol has no word for it
                await self.agent("guest-ping")
                with contextlib.suppress(AgentCommandTimeout, AgentUnresponsive):  # it answers only a refusal
                    await self.agent("guest-shutdown", {"mode": mode}, timeout=1.0)

    async def sleep(self, target: str = "mem", *, seconds: int = 0) -> None:
        """Have the guest fall asleep to `mem`, `disk` or both (`hybrid`); woken after `seconds`, if they are given."""
        targets = {
            "mem": constants.NodeSuspendTarget.MEM,
            "disk": constants.NodeSuspendTarget.DISK,
            "hybrid": constants.NodeSuspendTarget.HYBRID,
        }
        if target not in targets:
            raise InvalidArgument(f"a guest sleeps to {', '.join(targets)}, not to {target}")
        await self._call("domain_pm_suspend_for_duration", target=targets[target], duration=seconds, flags=0)

    async def wake(self) -> None:
        """Wake a guest that sleeps in memory; returns when it runs."""
        await self._call("domain_pm_wakeup", flags=0)

    async def addresses(self) -> list[str]:
        """The guest's IP addresses as its agent reports them, without loopback and link-local ones."""
        from corral.client.agent import addresses

        return await addresses(self)


def _flags(live: bool, config: bool) -> int:
    """virDomainModificationImpact."""
    impact = constants.DomainModificationImpact
    return (impact.LIVE if live else 0) | (impact.CONFIG if config else 0)


def _impact(live: bool | None) -> int:
    return 0 if live is None else _flags(live, not live)


def _parsed(text: str, who: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise InternalError(f"{who} answered with something that is not JSON: {text[:80]!r}") from error
    if not isinstance(answer, dict):
        raise InternalError(f"{who} answered with something that is not an object: {text[:80]!r}")
    if failure := answer.get("error"):  # libvirt turns these into errors of its own; QEMU's passthrough hands them on
        raise InternalError(f"{who} refused: {failure.get('desc', failure) if isinstance(failure, dict) else failure}")
    return answer


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.12g} MiB"
