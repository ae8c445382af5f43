"""vCPUs and threads: how many, which, where they run, and what the guest says of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from corral.constants import (
    DomainModificationImpact,
    DomainStatsTypes,
    DomainVcpuFlags,
    TypedParameterType,
    VcpuState,
)
from corral.daemon.dispatch import on_domain
from corral.errors import InvalidArgument, OperationInvalid
from corral.hypervisor.figures import statistics

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
COUNT_FLAGS = IMPACT | DomainVcpuFlags.MAXIMUM | DomainVcpuFlags.GUEST
SET_FLAGS = COUNT_FLAGS | DomainVcpuFlags.HOTPLUGGABLE

#: Bytes of one CPU map (REMOTE_CPUMAP_MAX).
CPUMAP_MAX = 2048


@on_domain("domain_set_vcpus")
async def set_vcpus(session: Session, domain: Domain, args: Any) -> None:
    """Plug or unplug until the running domain has so many."""
    await domain.set_vcpus(args.nvcpus, DomainVcpuFlags.LIVE)


@on_domain("domain_set_vcpus_flags", flags=SET_FLAGS)
async def set_vcpus_flags(session: Session, domain: Domain, args: Any) -> None:
    """The same, live, in the definition, at most, or by the guest's agent."""
    flags = args.flags
    if flags & DomainVcpuFlags.GUEST and flags & (DomainVcpuFlags.MAXIMUM | DomainVcpuFlags.CONFIG):
        raise InvalidArgument("flag GUEST excludes CONFIG and MAXIMUM in virDomainSetVcpusFlags")
    await domain.set_vcpus(args.nvcpus, flags)


@on_domain("domain_set_vcpu", flags=IMPACT)
async def set_vcpu(session: Session, domain: Domain, args: Any) -> None:
    """Plug or unplug single ones."""
    await domain.set_vcpu(args.cpumap, _state(args.state), args.flags)


@on_domain("domain_get_vcpus_flags", flags=COUNT_FLAGS)
async def get_vcpus_flags(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """vCPUs now, or at most, of the running machine, of the definition, or as the guest's agent counts them."""
    maximum = bool(args.flags & DomainVcpuFlags.MAXIMUM)
    if args.flags & DomainVcpuFlags.GUEST:
        return {"num": await domain.guest_vcpu_count(maximum=maximum)}
    impact = args.flags & IMPACT
    if impact == IMPACT:
        raise InvalidArgument("flags for the running and for the defined domain exclude each other")
    now, most = domain.vcpus(impact)
    return {"num": most if maximum else now}


@on_domain("domain_get_guest_vcpus")
async def get_guest_vcpus(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Which CPUs the guest has, uses, and could do without."""
    found = await domain.guest_vcpus()
    kind = TypedParameterType.STRING
    return {"params": [{"field": name, "value": (kind, numbers)} for name, numbers in found.items()]}


@on_domain("domain_set_guest_vcpus")
async def set_guest_vcpus(session: Session, domain: Domain, args: Any) -> None:
    """Have the guest use some of its CPUs, or not."""
    await domain.set_guest_vcpus(args.cpumap, _state(args.state))


@on_domain("domain_get_vcpus")
async def get_vcpus(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The vCPUs' states, times, the host CPU that each last ran on, and those that it may run on."""
    _require_active(domain)
    figures = {name: value for name, _, value in await domain.stats(DomainStatsTypes.VCPU)}
    running_on, pins = statistics.vcpu_cpus(domain), domain.vcpu_pins(DomainModificationImpact.LIVE)
    info, maps = [], []
    for number in sorted(running_on)[: max(args.maxinfo, 0)]:
        info.append(
            {
                "number": number,
                "state": figures.get(f"vcpu.{number}.state", VcpuState.RUNNING),
                "cpu_time": figures.get(f"vcpu.{number}.time", 0),
                "cpu": running_on[number],
            }
        )
        maps.append(_map(pins[number] if number < len(pins) else (), args.maplen))
    return {"info": info, "cpumaps": b"".join(maps)}


@on_domain("domain_get_vcpu_pin_info", flags=IMPACT)
def get_vcpu_pin_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Where each vCPU that there can be may run."""
    pins = domain.vcpu_pins(args.flags)[: max(args.ncpumaps, 0)]
    return {"cpumaps": b"".join(_map(pin, args.maplen) for pin in pins), "num": len(pins)}


@on_domain("domain_pin_vcpu")
async def pin_vcpu(session: Session, domain: Domain, args: Any) -> None:
    """Let a vCPU of a running domain run on some host CPUs only."""
    await domain.pin_vcpu(args.vcpu, _cpus(args.cpumap), DomainModificationImpact.LIVE)


@on_domain("domain_pin_vcpu_flags", flags=IMPACT)
async def pin_vcpu_flags(session: Session, domain: Domain, args: Any) -> None:
    """Let a vCPU run on some host CPUs only."""
    await domain.pin_vcpu(args.vcpu, _cpus(args.cpumap), args.flags)


@on_domain("domain_pin_emulator", flags=IMPACT)
async def pin_emulator(session: Session, domain: Domain, args: Any) -> None:
    """Let QEMU's own work run on some host CPUs only."""
    await domain.pin_emulator(_cpus(args.cpumap), args.flags)


@on_domain("domain_get_emulator_pin_info", flags=IMPACT)
def get_emulator_pin_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Where QEMU's own work may run."""
    return {"cpumaps": _map(domain.emulator_pin(args.flags), args.maplen), "ret": 1}


@on_domain("domain_pin_iothread", flags=IMPACT)
async def pin_iothread(session: Session, domain: Domain, args: Any) -> None:
    """Let an I/O thread run on some host CPUs only."""
    await domain.pin_iothread(args.iothreads_id, _cpus(args.cpumap), args.flags)


@on_domain("domain_get_iothread_info", flags=IMPACT)
def get_iothread_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The I/O threads, and where each may run."""
    size = (session.hypervisor.node_info().cpus + 7) // 8
    info = [
        {"iothread_id": number, "cpumap": _map(pin, size)} for number, pin in domain.iothread_pins(args.flags).items()
    ]
    return {"info": info, "ret": len(info)}


def _state(state: int) -> bool:
    if state not in (0, 1):
        raise InvalidArgument(f"unsupported state value {state}")
    return bool(state)


def _cpus(cpumap: bytes) -> frozenset[int]:
    """The host CPUs whose bits are set, the lowest bit of the first byte first."""
    value = int.from_bytes(cpumap, "little")
    return frozenset(number for number in range(value.bit_length()) if value >> number & 1)


def _map(cpus: Iterable[int], size: int) -> bytes:
    """The map of `size` bytes with those bits set."""
    if not 0 <= size <= CPUMAP_MAX:
        raise InvalidArgument(f"a CPU map of {size} bytes; it must be 0 to {CPUMAP_MAX}")
    return sum(1 << cpu for cpu in cpus if cpu < size * 8).to_bytes(size, "little")


def _require_active(domain: Domain) -> None:
    if not domain.active:
        raise OperationInvalid("domain is not running")
