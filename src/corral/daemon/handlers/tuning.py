"""I/O threads, NUMA placement, and the host's limits for a domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainModificationImpact, TypedParameterFlags, TypedParameterType
from corral.daemon.dispatch import on_domain
from corral.errors import ArgumentUnsupported, InvalidArgument
from corral.hypervisor.disks import iothreads
from corral.hypervisor.host import control_groups
from corral.hypervisor.memory import numa_tuning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
READ = IMPACT | TypedParameterFlags.PARAM_STRING_OKAY
INT, UINT, ULLONG, STRING = (
    TypedParameterType.INT,
    TypedParameterType.UINT,
    TypedParameterType.ULLONG,
    TypedParameterType.STRING,
)
WORDS = {INT: "int", UINT: "uint", ULLONG: "ullong", STRING: "string"}
IOTHREAD = {
    "poll_max_ns": ULLONG,
    "poll_grow": UINT,
    "poll_shrink": UINT,
    "thread_pool_min": INT,
    "thread_pool_max": INT,
}
NUMA = {"numa_mode": INT, "numa_nodeset": STRING}


@on_domain("domain_add_iothread", flags=IMPACT)
async def add_iothread(session: Session, domain: Domain, args: Any) -> None:
    """One more I/O thread."""
    await iothreads.add(domain, _number(args.iothread_id), args.flags)


@on_domain("domain_del_iothread", flags=IMPACT)
async def del_iothread(session: Session, domain: Domain, args: Any) -> None:
    """One I/O thread less."""
    await iothreads.delete(domain, _number(args.iothread_id), args.flags)


@on_domain("domain_set_iothread_params", flags=IMPACT)
async def set_iothread_params(session: Session, domain: Domain, args: Any) -> None:
    """How an I/O thread polls, and its workers."""
    await iothreads.set_parameters(domain, _number(args.iothread_id), _read(args.params, IOTHREAD), args.flags)


@on_domain("domain_get_numa_parameters", flags=READ)
def get_numa_parameters(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Where on the host the memory comes from; without room for parameters, how many there are."""
    mode, nodes = numa_tuning.get(domain, args.flags & IMPACT)
    if args.nparams == 0:
        return {"params": [], "nparams": len(NUMA)}
    params = [
        {"field": "numa_mode", "value": (INT, mode)},
        {"field": "numa_nodeset", "value": (STRING, nodes)},
    ][: max(args.nparams, 0)]
    return {"params": params, "nparams": len(params)}


@on_domain("domain_set_numa_parameters", flags=IMPACT)
async def set_numa_parameters(session: Session, domain: Domain, args: Any) -> None:
    """Where on the host the memory shall come from."""
    wanted = _read(args.params, NUMA)
    await numa_tuning.change(domain, wanted.get("numa_mode"), wanted.get("numa_nodeset"), args.flags)


@on_domain("domain_get_scheduler_type")
def get_scheduler_type(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The host's ordinary scheduler."""
    found = control_groups.figures(domain, control_groups.SCHEDULER, 0)
    return {"type": "posix", "nparams": len(found)}


@on_domain("domain_get_scheduler_parameters")
def get_scheduler_parameters(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Shares and quotas of CPU time."""
    return {"params": _limits(domain, control_groups.SCHEDULER, args.nparams, 0)["params"]}


@on_domain("domain_get_scheduler_parameters_flags", flags=READ)
def get_scheduler_parameters_flags(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The same, live or in the definition."""
    return {"params": _limits(domain, control_groups.SCHEDULER, args.nparams, args.flags)["params"]}


@on_domain("domain_set_scheduler_parameters")
def set_scheduler_parameters(session: Session, domain: Domain, args: Any) -> None:
    """Change them."""
    control_groups.refuse(domain, control_groups.SCHEDULER, 0)


@on_domain("domain_set_scheduler_parameters_flags", flags=IMPACT)
def set_scheduler_parameters_flags(session: Session, domain: Domain, args: Any) -> None:
    """Change them, live or in the definition."""
    control_groups.refuse(domain, control_groups.SCHEDULER, args.flags)


def _serve(name: str, kind: control_groups.Figures) -> None:
    """The two procedures of what control groups would limit."""

    @on_domain(f"domain_get_{name}_parameters", flags=READ)
    def get(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
        return _limits(domain, kind, args.nparams, args.flags)

    @on_domain(f"domain_set_{name}_parameters", flags=IMPACT)
    def change(session: Session, domain: Domain, args: Any) -> None:
        control_groups.refuse(domain, kind, args.flags)


_serve("memory", control_groups.MEMORY)
_serve("blkio", control_groups.BLOCK)


def _limits(domain: Domain, kind: control_groups.Figures, room: int, flags: int) -> dict[str, Any]:
    """The figures; without room for any, how many there are."""
    if room == 0:
        return {"params": [], "nparams": len(kind)}
    found = control_groups.figures(domain, kind, flags)
    params = [{"field": name, "value": (of, value)} for name, of, value in found[: max(room, 0)]]
    return {"params": params, "nparams": len(params)}


def _number(number: int) -> int:
    if not number:
        raise InvalidArgument("invalid value of 0 for iothread_id")
    return number


def _read(params: Any, known: Mapping[str, int]) -> dict[str, Any]:
    """The parameters by name; ArgumentUnsupported or InvalidArgument for one that is none, or twice there."""
    found: dict[str, Any] = {}
    for param in params:
        kind, value = param.value
        if param.field not in known:
            raise ArgumentUnsupported(f"parameter '{param.field}' not supported")
        if kind != known[param.field]:
            words = [f"'{WORDS.get(each, each)}'" for each in (kind, known[param.field])]
            raise InvalidArgument(f"invalid type {words[0]} for parameter '{param.field}', expected {words[1]}")
        if param.field in found:
            raise InvalidArgument(f"parameter '{param.field}' occurs multiple times")
        found[param.field] = value
    return found
