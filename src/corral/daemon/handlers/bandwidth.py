"""How fast network cards may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainModificationImpact, TypedParameterFlags
from corral.daemon.dispatch import on_domain
from corral.hypervisor.devices import cards
from corral.protocol.typed_params import TypedParam, pack, unpack

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


@on_domain("domain_get_interface_parameters", flags=IMPACT | TypedParameterFlags.PARAM_STRING_OKAY)
def get_interface_parameters(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """A card's limits; with room for none, how many there are."""
    if args.nparams == 0:
        return {"params": [], "nparams": len(cards.PARAMETERS)}
    found = cards.parameters(domain, args.device, args.flags & IMPACT)
    params = pack(TypedParam.uint(name, value) for name, value in found.items())[: args.nparams]
    return {"params": params, "nparams": len(params)}


@on_domain("domain_set_interface_parameters", flags=IMPACT)
async def set_interface_parameters(session: Session, domain: Domain, args: Any) -> None:
    """Limit a card."""
    await cards.set_parameters(domain, args.device, unpack(args.params), args.flags)
