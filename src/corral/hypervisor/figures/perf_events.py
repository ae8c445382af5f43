"""The performance events that are counted for each running domain, as its document says or a client asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from corral.errors import CorralError
from corral.host.perf_events import Counter
from corral.hypervisor.events import Event, Lifecycle
from corral.hypervisor.rewriting import by, rewrite
from corral.model.perf import NAMES as NAMES

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.hypervisor.run import Run
    from corral.model.domain import Domain as DomainDocument

log = logging.getLogger(__name__)


class PerfCounters:
    """The open counters of all runs; they end with the daemon, and the next one begins anew."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self._open: dict[int, dict[str, Counter]] = {}
        self._unsubscribe = hypervisor.events.subscribe(self._heard)

    def close(self) -> None:
        """Close all."""
        self._unsubscribe()
        for domain_id in tuple(self._open):
            self._forget(domain_id)

    def review(self) -> None:
        """Open what running domains' documents ask for; close what belongs to runs that are over."""
        runs = {run.id: domain for domain in self.hypervisor.domains() if (run := domain.run) and run.process}
        for domain_id in self._open.keys() - runs.keys():
            self._forget(domain_id)
        for domain_id, domain in runs.items():
            if domain.run is None or domain_id in self._open or "<perf>" not in domain.run.live.secure_xml:
                continue
            self._open[domain_id] = {}
            perf = domain.run.live.document.perf
            for name in perf.enabled() if perf else ():
                try:
                    self.enable(domain.run, name)
                except CorralError as error:  # a start does not fail for a figure
                    log.warning("domain %s: %s", domain.name, error)

    def enable(self, run: Run, name: str) -> None:
        """Count one event for a run; HostError when that cannot be."""
        counters = self._open.setdefault(run.id, {})
        if name not in counters and run.process is not None:
            counters[name] = Counter(name, run.process.pid)

    def disable(self, run: Run, name: str) -> None:
        """Count it no longer."""
        counter = self._open.get(run.id, {}).pop(name, None)
        if counter is not None:
            counter.close()

    def read(self, run: Run) -> dict[str, int]:
        """The counts by libvirt's names."""
        return {name: counter.read() for name, counter in self._open.get(run.id, {}).items()}

    def _heard(self, event: Event) -> None:
        if isinstance(event, Lifecycle):
            self.review()

    def _forget(self, domain_id: int) -> None:
        for counter in self._open.pop(domain_id, {}).values():
            counter.close()


def get(domain: Domain, flags: int) -> dict[str, bool]:
    """Which events are counted, live or by the definition (virDomainModificationImpact)."""
    live, _ = domain.impact(flags)
    if live:
        counted = set(domain.hypervisor.perf.read(domain.require_run()))
    else:
        perf = domain.config.document.perf if domain.config else None
        counted = set(perf.enabled()) if perf else set()
    return {name: name in counted for name in NAMES}


async def change(domain: Domain, wanted: Mapping[str, bool], flags: int) -> None:
    """Count these events, or no longer; all of them or, when one cannot be, none."""
    await domain.change("set perf events", lambda: _change(domain, wanted, flags))


async def _change(domain: Domain, wanted: Mapping[str, bool], flags: int) -> None:
    live, config = domain.impact(flags)
    run = domain.require_run() if live else None
    counters = domain.hypervisor.perf
    opened: list[str] = []
    if run is not None:
        before = counters.read(run)
        try:
            for name in (name for name, on in wanted.items() if on and name not in before):
                await asyncio.to_thread(counters.enable, run, name)
                opened.append(name)
        except CorralError:
            for name in opened:
                counters.disable(run, name)
            raise
        for name in (name for name, on in wanted.items() if not on):
            counters.disable(run, name)
    edit = by(lambda document: _write(document, wanted))
    async with domain.hypervisor.definitions:
        await rewrite(domain, config=edit if config else None, live=edit if live else None)


def _write(document: DomainDocument, wanted: Mapping[str, bool]) -> None:
    from corral.model.perf import Perf, PerfEvent

    before = document.perf.events if document.perf is not None else []
    said: dict[str, bool] = {event.name: event.enabled == "yes" for event in before}
    said.update(wanted)
    kept = [PerfEvent(name=name, enabled="yes" if said[name] else "no") for name in NAMES if name in said]
    document.perf = Perf(events=kept)
