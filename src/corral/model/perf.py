"""`<perf>`: which of the kernel's events are counted. https://libvirt.org/formatdomain.html#performance-monitoring-events"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic_xml import attr, element

from corral.model.element import Element, YesNo

PerfEventName = Literal[
    "cmt",
    "mbmt",
    "mbml",
    "cpu_cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branch_instructions",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cpu_cycles",
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "page_faults_min",
    "page_faults_maj",
    "alignment_faults",
    "emulation_faults",
]
NAMES: tuple[PerfEventName, ...] = get_args(PerfEventName)


class PerfEvent(Element, tag="event"):
    name: PerfEventName = attr()
    enabled: YesNo = attr()


class Perf(Element, tag="perf"):
    events: list[PerfEvent] = element(tag="event", default_factory=list)

    def enabled(self) -> list[str]:
        """The names of those that are counted."""
        return [event.name for event in self.events if event.enabled == "yes"]
