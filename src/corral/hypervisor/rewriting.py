"""Replacing a domain's documents: the definition's, the running machine's, or both, in one transaction.

The store is written before anything that a query answers from, so a daemon that dies in between has lost nothing that
it had acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from corral.hypervisor.documents import Definition, computed

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.domain import Domain as DomainDocument

Edit = Callable[[Definition], Definition]


def by(edit: Callable[[DomainDocument], None]) -> Edit:
    """The edit that changes a copy of the document in place."""
    return lambda definition: definition.edited(edit)


async def rewrite(domain: Domain, *, config: Edit | None = None, live: Edit | None = None) -> None:
    """Edit the definition (where there is one), and the live document with the one it was started from.

    For an edit of the definition the caller holds `hypervisor.definitions`; for a live one the domain runs.
    """
    new_config = await applied(config, domain.config) if config and domain.config else None
    run = domain.require_run() if live else None
    before = run.live if run else None
    after = await applied(live, run.live) if run and live else None
    base = await applied(live, run.base) if run and live else None
    await domain.hypervisor.store.set_metadata(
        domain.uuid,
        xml=new_config.secure_xml if new_config else None,
        live_xml=after.secure_xml if after else None,
        base_xml=base.secure_xml if base else None,
    )
    if new_config:
        domain.config = new_config
    if run and live and before and after and base:
        run.live, run.base = await latest(domain, run, live, before, after), base
    domain.touch()


async def applied(edit: Edit, definition: Definition) -> Definition:
    """The next version of a definition."""
    return await computed(definition.secure_xml, lambda: edit(definition))


async def latest(domain: Domain, run: Run, edit: Edit, before: Definition, after: Definition) -> Definition:
    """The live document after `edit`, which made `after` of `before` and is in the store.

    The guest may have changed something else in the meantime (a channel, a tray): then it is done once more with that.
    """
    while run.live is not before:
        before = run.live
        after = await applied(edit, before)
        await domain.hypervisor.store.update_live(run.id, xml=after.secure_xml)
    return after
