"""What machines use, from the daemon's bulk statistics: rates between two readings of its counters.

The counters are libvirt's (virConnectGetAllDomainStats), so that any libvirtd serves, too. `loads` is a function of two
readings and the seconds between them; `Meter` takes the readings.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from corral.constants import (
    ConnectGetAllDomainStatsFlags,
    DomainState,
    DomainStatsTypes,
    name_of,
)
from corral.errors import CorralError, InvalidArgument, NoSupport

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.host import Host

GROUPS = (
    DomainStatsTypes.STATE
    | DomainStatsTypes.CPU_TOTAL
    | DomainStatsTypes.BALLOON
    | DomainStatsTypes.VCPU
    | DomainStatsTypes.INTERFACE
    | DomainStatsTypes.BLOCK
)
#: Seconds that a guest's agent gets for its own figures, and for which one that has none is left alone.
AGENT_PATIENCE, AGENT_REST = 1.5, 30.0

#: Figures of a load that are KiB.
IN_KIB = ("memory", "max_memory", "resident", "unused")

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """One machine's counters by libvirt's names at one moment; `guest` are its own CPU's milliseconds, if it told.

    `untold`: it was asked about, and its guest is told of no stolen time, for it runs in software emulation.
    """

    name: str
    uuid: str
    id: int
    figures: Figures
    guest: Mapping[int, Mapping[str, int]] | None = None
    untold: bool = False


@dataclass(frozen=True, slots=True)
class VcpuLoad:
    """One vCPU in percent of its time: it ran, it waited for the host, and what the guest itself counts as stolen."""

    number: int
    use: float
    steal: float
    guest_steal: float | None
    halted: bool | None


@dataclass(frozen=True, slots=True)
class Load:
    """One machine: percent of one CPU, KiB, bytes a second. `steal` is of the time that its vCPUs had.

    `guest_steal_untold`: no guest in software emulation learns of stolen time, so this one has no count of its own.
    """

    name: str
    uuid: str
    id: int
    state: str
    vcpus: int
    max_vcpus: int
    use: float
    steal: float
    guest_steal: float | None
    memory: int
    max_memory: int
    resident: int
    unused: int | None
    disk_read: float
    disk_written: float
    received: float
    sent: float
    each_vcpu: tuple[VcpuLoad, ...] = ()
    guest_steal_untold: bool = False

    def plain(self) -> dict[str, Any]:
        """As JSON has it; what is counted in KiB says so in its name."""
        return {f"{name}_kib" if name in IN_KIB else name: value for name, value in asdict(self).items()}


def loads(before: Sequence[Reading], after: Sequence[Reading], seconds: float) -> list[Load]:
    """What each machine of `after` used since `before`; nothing yet for one that is new, or was started anew."""
    known = {(each.uuid, each.id): each for each in before}
    return [_load(known.get((each.uuid, each.id), each), each, max(seconds, 1e-6)) for each in after]


def _load(old: Reading, new: Reading, seconds: float) -> Load:
    figures = new.figures

    def rate(name: str) -> float:
        return max(0, _number(figures, name) - _number(old.figures, name)) / seconds

    def total(group: str, *ends: str) -> float:
        return sum(rate(f"{group}.{number}.{end}") for number in range(_count(figures, group)) for end in ends)

    vcpus = tuple(_vcpu(old, new, number, seconds) for number in _numbers(figures))
    told = [each.guest_steal for each in vcpus if each.guest_steal is not None]
    unused = figures.get("balloon.usable", figures.get("balloon.unused"))
    return Load(
        name=new.name,
        uuid=new.uuid,
        id=new.id,
        state=name_of(DomainState, _count(figures, "state.state", "")) or "unknown",
        vcpus=_count(figures, "vcpu.current", ""),
        max_vcpus=_count(figures, "vcpu.maximum", ""),
        use=round(rate("cpu.time") / 1e7, 2),
        steal=round(sum(each.steal for each in vcpus) / len(vcpus), 2) if vcpus else 0.0,
        guest_steal=round(sum(told) / len(told), 2) if told else None,
        memory=_count(figures, "balloon.current", ""),
        max_memory=_count(figures, "balloon.maximum", ""),
        resident=_count(figures, "balloon.rss", ""),
        unused=int(unused) if isinstance(unused, int | float) else None,
        disk_read=round(total("block", "rd.bytes"), 1),
        disk_written=round(total("block", "wr.bytes"), 1),
        received=round(total("net", "rx.bytes"), 1),
        sent=round(total("net", "tx.bytes"), 1),
        each_vcpu=vcpus,
        guest_steal_untold=new.untold,
    )


def _vcpu(old: Reading, new: Reading, number: int, seconds: float) -> VcpuLoad:
    def percent(name: str) -> float:
        key = f"vcpu.{number}.{name}"
        if key not in old.figures:
            return 0.0
        return round(max(0.0, min(100.0, (_number(new.figures, key) - _number(old.figures, key)) / seconds / 1e7)), 2)

    guest_steal = None
    before, after = (old.guest or {}).get(number), (new.guest or {}).get(number)
    if before is not None and after is not None and old is not new:
        spent = sum(after.values()) - sum(before.values())
        guest_steal = round(100.0 * max(0, after["steal"] - before["steal"]) / spent, 2) if spent > 0 else 0.0
    halted = new.figures.get(f"vcpu.{number}.halted")
    return VcpuLoad(number, percent("time"), percent("delay"), guest_steal, None if halted is None else bool(halted))


def _numbers(figures: Figures) -> list[int]:
    return [
        int(number)
        for name in figures
        if name.startswith("vcpu.")
        and name.endswith(".time")
        and (number := name[5:-5]).isdecimal()
        and number.isascii()
    ]


def _number(figures: Figures, name: str) -> float:
    value = figures.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def _count(figures: Figures, group: str, end: str = ".count") -> int:
    return int(_number(figures, group + end))


class Meter:
    """Takes readings of one host; `guests` asks each guest's agent for its own count of stolen time, too."""

    def __init__(self, host: Host, *, guests: bool = False) -> None:
        self.host = host
        self.guests = guests
        self._flags = ConnectGetAllDomainStatsFlags.ACTIVE | ConnectGetAllDomainStatsFlags.NOWAIT
        self._before: list[Reading] = []
        self._time = 0.0
        self._resting: dict[str, float] = {}
        self._emulated: dict[tuple[str, int], bool] = {}

    async def read(self) -> list[Reading]:
        """The counters of all running machines."""
        try:
            answer = await self._ask()
        except (NoSupport, InvalidArgument):
            self._flags = ConnectGetAllDomainStatsFlags.ACTIVE  # before libvirt 4.5 nothing else was known
            answer = await self._ask()
        readings = [
            Reading(
                name=str(each.dom.name),
                uuid=str(UUID(bytes=each.dom.uuid)),
                id=each.dom.id,
                figures={param.field: param.value[1] for param in each.params},
            )
            for each in answer.retStats
        ]
        if self.guests:
            readings = list(await asyncio.gather(*(self._with_guest(each) for each in readings)))
        return readings

    async def _ask(self) -> Any:
        return await self.host.call("connect_get_all_domain_stats", doms=[], stats=GROUPS, flags=self._flags)

    async def loads(self) -> list[Load]:
        """What each machine used since the last call; zeros at the first."""
        begun = time.monotonic()
        readings = await self.read()
        found = loads(self._before, readings, begun - self._time)
        self._before, self._time = readings, begun
        return found

    async def _with_guest(self, reading: Reading) -> Reading:
        """With the guest's own CPU times (guest-get-cpustats), where its agent has them."""
        if self._resting.get(reading.uuid, 0.0) > time.monotonic():
            return reading
        try:
            domain = await self.host.domain(reading.id) if reading.id > 0 else None
            if domain is None:
                return reading
            if await self._is_emulated(domain, reading):
                return replace(reading, untold=True)
            async with asyncio.timeout(AGENT_PATIENCE):
                told = await domain.agent("guest-get-cpustats", timeout=AGENT_PATIENCE)
            guest = {each["cpu"]: {name: each[name] for name in _GUEST_TIMES if name in each} for each in told}
        except (CorralError, TimeoutError, KeyError, TypeError):
            self._resting[reading.uuid] = time.monotonic() + AGENT_REST
            return reading
        return replace(reading, guest=guest)

    async def _is_emulated(self, domain: Domain, reading: Reading) -> bool:
        """Whether this run of it is software emulation; asked once."""
        key = (reading.uuid, reading.id)
        if key not in self._emulated:
            self._emulated[key] = re.match(r"<domain\s[^>]*\btype=.qemu\b", await domain.xml()) is not None
        return self._emulated[key]


_GUEST_TIMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
