"""How fast disks may be, and the mark beyond which a written disk is told of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainModificationImpact, TypedParameterFlags
from corral.daemon.dispatch import on_domain
from corral.hypervisor.disks import block, throttling
from corral.protocol.typed_params import unpack

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


@on_domain("domain_get_block_io_tune", flags=IMPACT | TypedParameterFlags.PARAM_STRING_OKAY)
async def get_block_io_tune(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """A disk's limits; with room for none, how many there are."""
    if args.nparams == 0:
        return {"params": [], "nparams": len(throttling.NAMES)}
    found = await throttling.limits(domain, args.disk or "", args.flags & IMPACT)
    params = [{"field": name, "value": (kind, value)} for name, kind, value in found[: args.nparams]]
    return {"params": params, "nparams": len(params)}


@on_domain("domain_set_block_io_tune", flags=IMPACT)
async def set_block_io_tune(session: Session, domain: Domain, args: Any) -> None:
    """Change a disk's limits."""
    await throttling.limit(domain, args.disk, unpack(args.params), args.flags)


@on_domain("domain_set_throttle_group", flags=IMPACT)
async def set_throttle_group(session: Session, domain: Domain, args: Any) -> None:
    """Make or change a group of disks with limits."""
    await throttling.set_group(domain, args.group, unpack(args.params), args.flags)


@on_domain("domain_del_throttle_group", flags=IMPACT)
async def del_throttle_group(session: Session, domain: Domain, args: Any) -> None:
    """Forget a group."""
    await throttling.delete_group(domain, args.group or "", args.flags)


@on_domain("domain_set_block_threshold")
async def set_block_threshold(session: Session, domain: Domain, args: Any) -> None:
    """Have it told when an image is written beyond that many bytes."""
    await block.set_threshold(domain, args.dev, args.threshold)
