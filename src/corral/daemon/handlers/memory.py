"""How much memory a domain has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainMemoryModFlags, DomainModificationImpact
from corral.daemon.dispatch import on_domain

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


@on_domain("domain_set_memory")
async def set_memory(session: Session, domain: Domain, args: Any) -> None:
    """Give a running guest so much, in KiB."""
    await domain.set_memory(args.memory, DomainMemoryModFlags.LIVE)


@on_domain("domain_set_memory_flags", flags=IMPACT | DomainMemoryModFlags.MAXIMUM)
async def set_memory_flags(session: Session, domain: Domain, args: Any) -> None:
    """Give a guest so much, live, in the definition, or at most."""
    await domain.set_memory(args.memory, args.flags)


@on_domain("domain_set_max_memory")
async def set_max_memory(session: Session, domain: Domain, args: Any) -> None:
    """Change how much there can be."""
    await domain.set_memory(args.memory, DomainMemoryModFlags.MAXIMUM)


@on_domain("domain_set_memory_stats_period", flags=IMPACT)
async def set_memory_stats_period(session: Session, domain: Domain, args: Any) -> None:
    """How often the guest reports its memory, in seconds."""
    await domain.set_memory_stats_period(args.period, args.flags)
