"""A domain under the daemon's care: what it is, what state it is in, and what may be done to it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from corral.hypervisor.stream import ByteStream


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


@dataclass(frozen=True, slots=True)
class Screenshot:
    """One picture of a domain's screen."""

    mime: str
    data: bytes


Statistic = tuple[str, int, int | float | bool | str]
"""One statistic: name, virTypedParameterType, value."""


class Domain:
    """One domain. Queries (no `async`) answer from memory; changes wait for the domain's job slot.

    A change that has begun runs to its end, whether or not its caller still waits for it.
    """

    #: Changes whenever the answer to any query but `info`, `job_info`, `control_info` and `stats` may have changed.
    generation: int

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def uuid(self) -> UUID:
        raise NotImplementedError

    @property
    def id(self) -> int:
        """-1 when off."""
        raise NotImplementedError

    @property
    def persistent(self) -> bool:
        raise NotImplementedError

    @property
    def active(self) -> bool:
        raise NotImplementedError

    @property
    def updated(self) -> bool:
        raise NotImplementedError

    @property
    def autostart(self) -> bool:
        raise NotImplementedError

    @property
    def has_managed_save(self) -> bool:
        raise NotImplementedError

    @property
    def os_type(self) -> str:
        raise NotImplementedError

    @property
    def max_vcpus(self) -> int:
        raise NotImplementedError

    @property
    def max_memory(self) -> int:
        raise NotImplementedError

    def state(self) -> tuple[int, int]:
        """(virDomainState, reason)."""
        raise NotImplementedError

    def info(self) -> DomainInfo:
        """CPU time is read now: do not cache for an active domain."""
        raise NotImplementedError

    def xml(self, flags: int = 0) -> str:
        """The document, by virDomainXMLFlags: SECURE, INACTIVE, MIGRATABLE (UPDATE_CPU changes nothing here)."""
        raise NotImplementedError

    def control_info(self) -> ControlInfo:
        raise NotImplementedError

    def job_info(self) -> JobInfo:
        raise NotImplementedError

    def metadata(self, type: int, uri: str | None = None, flags: int = 0) -> str:
        """Title, description or a metadata element, by virDomainMetadataType and virDomainModificationImpact."""
        raise NotImplementedError

    async def stats(self, groups: int = 0, *, nowait: bool = False) -> list[Statistic]:
        """Statistics of the virDomainStatsTypes in `groups` (0: all), named and typed as libvirt's; never raises for a stuck monitor."""
        raise NotImplementedError

    def cpu_stats(self) -> tuple[int, int, int]:
        """(cpu_time, user_time, system_time) in nanoseconds since start."""
        raise NotImplementedError

    async def create(self, flags: int = 0, *, owner: object | None = None) -> None:
        """Start; virDomainCreateFlags PAUSED, AUTODESTROY (needs `owner`), BYPASS_CACHE, FORCE_BOOT, RESET_NVRAM."""

    async def shutdown(self, flags: int = 0) -> None: ...
    async def reboot(self, flags: int = 0) -> None: ...
    async def reset(self) -> None: ...
    async def destroy(self, flags: int = 0) -> None: ...
    async def suspend(self) -> None: ...
    async def resume(self) -> None: ...
    async def undefine(self, flags: int = 0) -> None: ...
    async def set_autostart(self, autostart: bool) -> None: ...
    async def set_metadata(
        self, type: int, text: str | None, key: str | None, uri: str | None, flags: int = 0
    ) -> None: ...
    async def rename(self, new_name: str) -> None: ...
    async def send_key(self, codeset: int, holdtime: int, keycodes: list[int]) -> None: ...
    async def inject_nmi(self) -> None: ...
    async def screenshot(self, screen: int = 0) -> Screenshot:
        raise NotImplementedError

    async def open_console(self, devname: str | None = None, flags: int = 0) -> ByteStream:
        """The console or serial device by alias (None: the first); virDomainConsoleFlags FORCE, SAFE."""
        raise NotImplementedError

    async def open_channel(self, name: str | None = None, flags: int = 0) -> ByteStream:
        """The channel by alias or target name (None: the first UNIX one); virDomainChannelFlags FORCE."""
        raise NotImplementedError

    async def monitor_command(self, text: str, flags: int = 0) -> str:
        raise NotImplementedError

    async def agent_command(self, text: str, timeout: int, flags: int = 0) -> str:
        raise NotImplementedError

    async def hostname(self, flags: int = 0) -> str:
        """The guest's own host name, from its agent."""
        raise NotImplementedError

    async def log_text(self, lines: int = 0) -> str:
        """The last `lines` lines (0: at most 1 MiB) of QEMU's own log."""
        raise NotImplementedError
