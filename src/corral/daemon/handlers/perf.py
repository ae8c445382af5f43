"""The host's perf on one domain: exits by reason, stacks by frequency, and the events that are counted for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from corral.constants import DomainModificationImpact, TypedParameterFlags, TypedParameterType
from corral.daemon.dispatch import on_domain
from corral.errors import ArgumentUnsupported, InvalidArgument
from corral.hypervisor.figures import perf, perf_events

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
BOOLEAN = TypedParameterType.BOOLEAN


@on_domain("corral.perf_stat")
async def perf_stat(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Exits by reason with their times."""
    return {"json": json.dumps(await perf.stat(domain, args.milliseconds / 1000))}


@on_domain("corral.perf_record")
async def perf_record(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Sampled stacks of host and guest."""
    found = await perf.record(domain, args.milliseconds / 1000, args.frequency, symbols=bool(args.symbols))
    return {"json": json.dumps(found)}


@on_domain("domain_get_perf_events", flags=IMPACT | TypedParameterFlags.PARAM_STRING_OKAY)
def get_perf_events(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Every event that libvirt names, and whether it is counted."""
    states = perf_events.get(domain, args.flags & IMPACT)
    return {"params": [{"field": name, "value": (BOOLEAN, on)} for name, on in states.items()]}


@on_domain("domain_set_perf_events", flags=IMPACT)
async def set_perf_events(session: Session, domain: Domain, args: Any) -> None:
    """Count events, or no longer."""
    wanted = {}
    for param in args.params:
        kind, value = param.value
        if param.field not in perf_events.NAMES:
            raise ArgumentUnsupported(f"parameter '{param.field}' not supported")
        if kind != BOOLEAN:
            raise InvalidArgument(f"invalid type for parameter '{param.field}', expected 'boolean'")
        wanted[param.field] = bool(value)
    await perf_events.change(domain, wanted, args.flags)
