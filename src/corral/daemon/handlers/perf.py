"""The host's perf on one domain: exits by reason, stacks by frequency."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from corral.daemon.dispatch import on_domain
from corral.hypervisor import perf

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain


@on_domain("corral.perf_stat")
async def perf_stat(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Exits by reason with their times."""
    return {"json": json.dumps(await perf.stat(domain, args.milliseconds / 1000))}


@on_domain("corral.perf_record")
async def perf_record(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Sampled stacks of host and guest."""
    found = await perf.record(domain, args.milliseconds / 1000, args.frequency, symbols=bool(args.symbols))
    return {"json": json.dumps(found)}
