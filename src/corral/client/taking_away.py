"""Taking a device away wherever it is: in the running machine, in its definition, or in both.

The two differ when a device was added for the present run alone, and when a guest let go of a device only after the
wait for it was over: then the definition has it still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from corral.errors import DeviceMissing, OperationTimeout
from corral.model import device_set
from corral.model.devices.device import Device

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.domain import Domain as DomainDocument

D = TypeVar("D", bound=Device)


async def definition(domain: Domain) -> DomainDocument | None:
    """What the next start of a running machine uses; None for one that is off, or that has no next start."""
    if not (await domain.active() and await domain.persistent()):
        return None
    return await domain.document(inactive=True)


async def take_away(
    domain: Domain, document: DomainDocument, named: Callable[[DomainDocument], D], *, now: bool = False
) -> D:
    """Detach the device that `named` finds in the machine's document, or else in its definition; which it was.

    `now`: from the present run alone. Raises what `named` and `Domain.detach` raise.
    """
    kept = None if now else await definition(domain)
    try:
        device = named(document)
    except DeviceMissing as error:
        if kept is None:
            raise
        try:
            device = named(kept)
        except DeviceMissing:
            raise error from None
        await domain.detach(device, live=False)
        return device
    everywhere = kept is None or device_set.twin(kept, device) is not None
    await domain.detach(device, config=None if everywhere and not now else False)
    # libvirtd says that all is well when it has waited long enough, whatever the guest has done.
    if await domain.active() and device_set.twin(await domain.document(), device) is not None:
        raise OperationTimeout(
            f"the guest of {domain.name} has not let go of the device yet",
            hint="it may be busy or not running; look again later, and try again",
        )
    return device
