"""Replacing a domain's documents: the definition's, the running machine's, or both, in one transaction.

The store is written before anything that a query answers from, so a daemon that dies in between has lost nothing that
it had acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from corral.hypervisor.documents import Definition

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.model.domain import Domain as DomainDocument

Edit = Callable[[Definition], Definition]


def by(edit: Callable[[DomainDocument], None]) -> Edit:
    """The edit that changes a copy of the document in place."""
    return lambda definition: definition.edited(edit)


async def rewrite(domain: Domain, *, config: Edit | None = None, live: Edit | None = None) -> None:
    """Edit the definition (where there is one), and the live document with the one it was started from.

    For an edit of the definition the caller holds `hypervisor.definitions`; for a live one the domain runs.
    """
    store = domain.hypervisor.store
    new_config = config(domain.config) if config and domain.config else None
    run = domain.require_run() if live else None
    before, after, base = (run.live, live(run.live), live(run.base)) if run and live else (None, None, None)
    await store.set_metadata(
        domain.uuid,
        xml=new_config.secure_xml if new_config else None,
        live_xml=after.secure_xml if after else None,
        base_xml=base.secure_xml if base else None,
    )
    if new_config:
        domain.config = new_config
    if run and live and after and base:
        if run.live is not before:  # the guest changed something in the meantime (a channel, a tray)
            after = live(run.live)
            await store.update_live(run.id, xml=after.secure_xml)
        run.live, run.base = after, base
    domain.touch()
