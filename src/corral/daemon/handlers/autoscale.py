"""Scaling by itself: policies, what came of them, the budget, and who wants to hear of decisions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from corral.constants import DomainMetadataType, DomainModificationImpact
from corral.daemon.dispatch import handler, on_domain
from corral.errors import InvalidArgument
from corral.hypervisor.scaling import policy

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


@on_domain("corral.autoscale_set", flags=IMPACT)
async def autoscale_set(session: Session, domain: Domain, args: Any) -> None:
    """Keep a policy in the domain's metadata, or take it out of there."""
    xml = None
    if args.policy is not None:
        chosen = policy.from_fields(_parsed(args.policy))
        if chosen.vcpus is not None and chosen.vcpus.maximum > domain.max_vcpus:
            raise InvalidArgument(
                f"{domain.name} can have {domain.max_vcpus} vCPUs at most, not {chosen.vcpus.maximum}",
                hint=f"corral set {domain.name} --max-cpus {chosen.vcpus.maximum} --later, then start it again",
            )
        if chosen.memory is not None and chosen.memory.maximum > domain.max_memory:
            raise InvalidArgument(
                f"{domain.name} can have {domain.max_memory} KiB at most, not {chosen.memory.maximum}",
                hint=f"corral set {domain.name} --max-memory {chosen.memory.maximum}K --later, then start it again",
            )
        xml = policy.to_xml(chosen)
    await domain.set_metadata(DomainMetadataType.ELEMENT, xml, policy.PREFIX, policy.NAMESPACE, args.flags)


@on_domain("corral.autoscale_show")
def autoscale_show(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The policy, the last decisions and how often each was made."""
    return {"json": json.dumps(session.hypervisor.autoscaling.show(domain))}


@handler("corral.autoscale_status")
def autoscale_status(session: Session, args: None) -> dict[str, Any]:
    """The budget and all domains that are scaled now."""
    return {"json": json.dumps(session.hypervisor.autoscaling.status())}


@handler("corral.autoscale_budget")
async def autoscale_budget(session: Session, args: Any) -> None:
    """Change what all scaled domains together may have."""
    await session.hypervisor.autoscaling.set_budget(_parsed(args.json))


@handler("corral.autoscale_watch")
def autoscale_watch(session: Session, args: Any) -> None:
    """Hear of decisions, or no longer."""
    session.subscriptions.watch_scaling(bool(args.on))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"this is not JSON: {error}") from error
