"""Figures: what domains use, by libvirt's statistics groups and by its older calls for one device or one kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corral.constants import (
    ConnectGetAllDomainStatsFlags,
    DomainMemoryStatTags,
    DomainStatsTypes,
    TypedParameterFlags,
    TypedParameterType,
)
from corral.daemon.dispatch import domain_of, handler, on_domain, reference
from corral.errors import ArgumentUnsupported, InvalidArgument, OperationInvalid
from corral.hypervisor.figures import statistics

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain, Statistic

GROUPS = sum(value for name, value in vars(DomainStatsTypes).items() if name.isupper())
ALL_STATS_FLAGS = sum(value for name, value in vars(ConnectGetAllDomainStatsFlags).items() if name.isupper())
#: The flags among them that choose domains; virConnectListAllDomains has the same.
FILTERS = 0xFF

#: virDomainMemoryStatTags by the names of the balloon's statistics.
MEMORY_TAGS = {
    "balloon.swap_in": DomainMemoryStatTags.SWAP_IN,
    "balloon.swap_out": DomainMemoryStatTags.SWAP_OUT,
    "balloon.major_fault": DomainMemoryStatTags.MAJOR_FAULT,
    "balloon.minor_fault": DomainMemoryStatTags.MINOR_FAULT,
    "balloon.unused": DomainMemoryStatTags.UNUSED,
    "balloon.available": DomainMemoryStatTags.AVAILABLE,
    "balloon.current": DomainMemoryStatTags.ACTUAL_BALLOON,
    "balloon.last-update": DomainMemoryStatTags.LAST_UPDATE,
    "balloon.rss": DomainMemoryStatTags.RSS,
    "balloon.usable": DomainMemoryStatTags.USABLE,
    "balloon.disk_caches": DomainMemoryStatTags.DISK_CACHES,
    "balloon.hugetlb_pgalloc": DomainMemoryStatTags.HUGETLB_PGALLOC,
    "balloon.hugetlb_pgfail": DomainMemoryStatTags.HUGETLB_PGFAIL,
}

#: Members of a struct by the ends of the statistics' names.
BLOCK = {"rd_req": "rd.reqs", "rd_bytes": "rd.bytes", "wr_req": "wr.reqs", "wr_bytes": "wr.bytes", "errs": "errors"}
#: virDomainBlockStatsFlags' fields.
BLOCK_PARAMS = {
    "rd_bytes": "rd.bytes",
    "rd_operations": "rd.reqs",
    "rd_total_times": "rd.times",
    "wr_bytes": "wr.bytes",
    "wr_operations": "wr.reqs",
    "wr_total_times": "wr.times",
    "flush_operations": "fl.reqs",
    "flush_total_times": "fl.times",
}
UNKNOWN = -1


@handler("connect_get_all_domain_stats", flags=ALL_STATS_FLAGS)
async def get_all_domain_stats(session: Session, args: Any) -> dict[str, Any]:
    """The statistics groups of all domains, of those that pass the filters, or of those named."""
    if args.flags & ConnectGetAllDomainStatsFlags.ENFORCE_STATS and args.stats & ~GROUPS:
        raise ArgumentUnsupported(f"Stats types bits 0x{args.stats & ~GROUPS:x} are not supported by this daemon")
    if args.doms:
        domains = [domain_of(session, dom) for dom in args.doms]
    else:
        domains = session.hypervisor.domains(args.flags & FILTERS)
    nowait = bool(args.flags & ConnectGetAllDomainStatsFlags.NOWAIT)
    groups = args.stats & GROUPS or GROUPS
    all_stats = await asyncio.gather(*(domain.stats(groups, nowait=nowait) for domain in domains))
    return {
        "retStats": [
            {"dom": reference(domain), "params": _params(stats)}
            for domain, stats in zip(domains, all_stats, strict=True)
        ]
    }


@on_domain("domain_get_cpu_stats", flags=TypedParameterFlags.PARAM_STRING_OKAY)
async def get_cpu_stats(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """CPU time in total (`start_cpu` -1); on which of the host's CPUs it was spent only a control group would count."""
    _require_active(domain)
    if args.start_cpu != UNKNOWN:
        raise OperationInvalid(
            "cgroup CPUACCT controller is not mounted", hint="the total is known: virsh cpu-stats NAME --total"
        )
    if args.nparams == 0:
        return {"params": [], "nparams": 3}
    total, user, system = domain.cpu_stats()
    ullong = TypedParameterType.ULLONG
    params = _params([("cpu_time", ullong, total), ("user_time", ullong, user), ("system_time", ullong, system)])
    return {"params": params[: args.nparams], "nparams": min(args.nparams, len(params))}


@on_domain("domain_memory_stats")
async def memory_stats(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The balloon's figures."""
    _require_active(domain)
    figures = _values(await domain.stats(DomainStatsTypes.BALLOON))
    stats = [{"tag": tag, "val": figures[name]} for name, tag in MEMORY_TAGS.items() if name in figures]
    return {"stats": stats[: args.maxStats]}


@on_domain("domain_block_stats")
async def block_stats(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """A disk's figures, or the sum of all for an empty path."""
    disks = await _disks(domain, args.path)
    return {member: _sum(disks, name, UNKNOWN) for member, name in BLOCK.items()}


@on_domain("domain_block_stats_flags", flags=TypedParameterFlags.PARAM_STRING_OKAY)
async def block_stats_flags(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """A disk's figures as parameters."""
    disks = await _disks(domain, args.path)
    if args.nparams == 0:
        return {"params": [], "nparams": len(BLOCK_PARAMS)}
    params = [(field, TypedParameterType.LLONG, _sum(disks, name, 0)) for field, name in BLOCK_PARAMS.items()]
    kept = _params(params)[: args.nparams]
    return {"params": kept, "nparams": len(kept)}


@on_domain("domain_get_block_info")
async def get_block_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """A disk's size: what it takes on the host, what the guest sees, how far its file goes."""
    capacity, allocation, physical = await statistics.block_info(domain, args.path or "")
    return {"allocation": allocation, "capacity": capacity, "physical": physical}


@on_domain("domain_interface_stats")
def interface_stats(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """A network interface's figures."""
    seen = domain.interface_counters(args.device)
    return {
        f"{way}_{figure}": value
        for way, figures in (("rx", seen.received), ("tx", seen.sent))
        for figure, value in zip(("bytes", "packets", "errs", "drop"), figures, strict=True)
    }


async def _disks(domain: Domain, path: str) -> list[dict[str, Any]]:
    _require_active(domain)
    disks = list(_numbered(_values(await domain.stats(DomainStatsTypes.BLOCK)), "block"))
    if path:
        disks = [disk for disk in disks if path in (disk.get("name"), disk.get("path"))][:1]
        if not disks:
            raise InvalidArgument(f"invalid path: {path}")
    return disks


def _params(stats: Sequence[Statistic]) -> list[dict[str, Any]]:
    return [{"field": name, "value": (kind, value)} for name, kind, value in stats]


def _values(stats: list[Statistic]) -> dict[str, Any]:
    return {name: value for name, _, value in stats}


def _numbered(figures: dict[str, Any], group: str) -> list[dict[str, Any]]:
    """The figures of `group.0`, `group.1`, … each without that prefix."""
    numbered: dict[int, dict[str, Any]] = {}
    for name, value in figures.items():
        prefix, _, rest = name.partition(".")
        number, _, figure = rest.partition(".")
        if prefix == group and number.isdigit():
            numbered.setdefault(int(number), {})[figure] = value
    return [numbered[number] for number in sorted(numbered)]


def _sum(parts: list[dict[str, Any]], name: str, missing: int) -> int:
    known = [part[name] for part in parts if name in part]
    return sum(known) if known else missing


def _require_active(domain: Domain) -> None:
    if not domain.active:
        raise OperationInvalid("domain is not running")
