"""Where on the host a domain's threads run and its memory comes from, and its I/O threads.

https://libvirt.org/html/libvirt-libvirt-domain.html (virDomainPinVcpuFlags, virDomainPinEmulator, virDomainPinIOThread,
virDomainAddIOThread, virDomainSetIOThreadParams, virDomainSetNumaParameters)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from corral.constants import DomainModificationImpact, DomainNumatuneMemMode, TypedParameterFlags, name_of
from corral.errors import InvalidArgument
from corral.protocol.typed_params import TypedParam, pack, unpack

if TYPE_CHECKING:
    from corral.client.domain import Domain

NUMAMode = Literal["strict", "preferred", "interleave", "restrictive"]

_MODES: dict[NUMAMode, int] = {
    "strict": DomainNumatuneMemMode.STRICT,
    "preferred": DomainNumatuneMemMode.PREFERRED,
    "interleave": DomainNumatuneMemMode.INTERLEAVE,
    "restrictive": DomainNumatuneMemMode.RESTRICTIVE,
}
#: How libvirt wants each parameter of an I/O thread.
_IOTHREAD = {
    "poll_max_ns": TypedParam.ullong,
    "poll_grow": TypedParam.uint,
    "poll_shrink": TypedParam.uint,
    "thread_pool_min": TypedParam.int_,
    "thread_pool_max": TypedParam.int_,
}


@dataclass(frozen=True, slots=True)
class IOThread:
    """An I/O thread, and the CPUs of the host that it may run on."""

    number: int
    cpus: frozenset[int]


class Tuning:
    """The tuning of one domain: `vm.tuning`.

    Changes are made where there is something to change, to the running machine and to its definition; `live` and
    `config` choose, as for `Domain.attach`. Questions are about the running machine, if it runs, else the definition.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    async def _call(self, name: str, **fields: Any) -> Any:
        return await self._domain.host.call(name, dom=self._domain.reference, **fields)

    # Which CPUs of the host.

    async def vcpu_pins(self) -> list[frozenset[int]]:
        """The CPUs of the host that each vCPU may run on, those included that are not plugged in."""
        size, most = await self._map_size(), await self._domain.vcpus(maximum=True)
        answer = await self._call("domain_get_vcpu_pin_info", ncpumaps=most, maplen=size, flags=0)
        maps = bytes(answer.cpumaps)
        return [_cpus(maps[start : start + size]) for start in range(0, len(maps), size)]

    async def emulator_pin(self) -> frozenset[int]:
        """The CPUs of the host that QEMU's own work may run on."""
        answer = await self._call("domain_get_emulator_pin_info", maplen=await self._map_size(), flags=0)
        return _cpus(bytes(answer.cpumaps))

    async def pin_vcpu(
        self, number: int, cpus: Iterable[int], *, live: bool | None = None, config: bool | None = None
    ) -> None:
        """Let a vCPU run on these CPUs of the host only."""
        flags = await self._domain.impact(live, config)
        await self._call("domain_pin_vcpu_flags", vcpu=number, cpumap=_map(cpus), flags=flags)

    async def pin_emulator(self, cpus: Iterable[int], *, live: bool | None = None, config: bool | None = None) -> None:
        """Let QEMU's own work run on these CPUs of the host only."""
        await self._call("domain_pin_emulator", cpumap=_map(cpus), flags=await self._domain.impact(live, config))

    async def pin_iothread(
        self, number: int, cpus: Iterable[int], *, live: bool | None = None, config: bool | None = None
    ) -> None:
        """Let an I/O thread run on these CPUs of the host only."""
        flags = await self._domain.impact(live, config)
        await self._call("domain_pin_iothread", iothreads_id=number, cpumap=_map(cpus), flags=flags)

    async def _map_size(self) -> int:
        """Bytes of a map of the host's CPUs."""
        node = await self._domain.host.call("node_get_info")
        cpus: int = node.nodes * node.sockets * node.cores * node.threads
        return -(-cpus // 8)

    # I/O threads.

    async def iothreads(self) -> list[IOThread]:
        """The I/O threads in the order of their numbers."""
        answer = await self._call("domain_get_iothread_info", flags=0)
        found = [IOThread(each.iothread_id, _cpus(bytes(each.cpumap))) for each in answer.info]
        return sorted(found, key=lambda each: each.number)

    async def add_iothread(self, number: int, *, live: bool | None = None, config: bool | None = None) -> None:
        """One more I/O thread, for disks and controllers to be given."""
        await self._call("domain_add_iothread", iothread_id=number, flags=await self._domain.impact(live, config))

    async def remove_iothread(self, number: int, *, live: bool | None = None, config: bool | None = None) -> None:
        """One I/O thread less; InvalidArgument naming what uses it."""
        await self._call("domain_del_iothread", iothread_id=number, flags=await self._domain.impact(live, config))

    async def tune_iothread(
        self, number: int, parameters: Mapping[str, int], *, live: bool | None = None, config: bool | None = None
    ) -> None:
        """How a thread polls and how many workers it keeps: `poll_max_ns`, `poll_grow`, `thread_pool_max` and so on."""
        if unknown := sorted(parameters.keys() - _IOTHREAD.keys()):
            raise InvalidArgument(f"an I/O thread has no {', '.join(unknown)}", hint=f"it has {', '.join(_IOTHREAD)}")
        params = pack(_IOTHREAD[name](name, value) for name, value in parameters.items())
        flags = await self._domain.impact(live, config)
        await self._call("domain_set_iothread_params", iothread_id=number, params=params, flags=flags)

    # Memory.

    async def numa(self, *, config: bool = False) -> tuple[str, str]:
        """(mode, the host's nodes as `0-1,3`, "" being any) of the memory; `config`: of the next start's."""
        flags = DomainModificationImpact.CONFIG * config | TypedParameterFlags.PARAM_STRING_OKAY
        answer = await self._call("domain_get_numa_parameters", nparams=16, flags=flags)
        found = unpack(answer.params)
        mode = int(found["numa_mode"])
        return name_of(DomainNumatuneMemMode, mode) or str(mode), str(found.get("numa_nodeset", ""))

    async def set_numa(self, *, mode: NUMAMode | None = None, nodes: str | None = None) -> None:
        """Which of the host's NUMA nodes the memory comes from, and how strictly, from the next start on."""
        params = [TypedParam.int_("numa_mode", _MODES[mode])] if mode is not None else []
        params += [TypedParam.string("numa_nodeset", nodes)] if nodes is not None else []
        flags = DomainModificationImpact.CONFIG
        await self._call("domain_set_numa_parameters", params=pack(params), flags=flags)


def _map(cpus: Iterable[int]) -> bytes:
    """libvirt's map: the lowest bit of the first byte is CPU 0."""
    value = sum(1 << cpu for cpu in set(cpus))
    return value.to_bytes(max(1, -(-value.bit_length() // 8)), "little")


def _cpus(cpumap: bytes) -> frozenset[int]:
    value = int.from_bytes(cpumap, "little")
    return frozenset(number for number in range(value.bit_length()) if value >> number & 1)
