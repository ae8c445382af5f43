"""Machines' figures in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from corral.client.statistics import Meter, Reading
from corral.errors import CorralError

if TYPE_CHECKING:
    from corral.client.host import Host

#: Figure of the bulk statistics → metric, its help, and what one unit of the figure is in the metric's.
_DOMAIN = {
    "cpu.time": ("cpu_seconds", "CPU time of the machine's process.", 1e-9),
}
_GAUGES = {
    "vcpu.current": ("vcpus", "vCPUs that the machine has.", 1),
    "balloon.current": ("memory_bytes", "Memory that the machine has.", 1024),
    "balloon.maximum": ("memory_max_bytes", "Memory that it can have.", 1024),
    "balloon.rss": ("memory_resident_bytes", "Memory of the host that its process uses.", 1024),
    "balloon.usable": ("memory_usable_bytes", "Memory that the guest could still use.", 1024),
    "state.state": ("state", "virDomainState: 1 runs, 3 is paused.", 1),
}
#: Group → its label and its figures.
_GROUPS: dict[str, tuple[str, dict[str, tuple[str, str, float]]]] = {
    "vcpu": (
        "vcpu",
        {
            "time": ("vcpu_seconds", "Time that the vCPU ran.", 1e-9),
            "delay": ("vcpu_delay_seconds", "Time that the vCPU waited for a CPU of the host (steal).", 1e-9),
            "wait": (
                "vcpu_wait_seconds",
                "The same by the scheduler's own statistics, where the kernel keeps them.",
                1e-9,
            ),
        },
    ),
    "block": (
        "disk",
        {
            "rd.bytes": ("disk_read_bytes", "Bytes read.", 1),
            "rd.reqs": ("disk_reads", "Reads.", 1),
            "rd.times": ("disk_read_seconds", "Time that reads took.", 1e-9),
            "wr.bytes": ("disk_written_bytes", "Bytes written.", 1),
            "wr.reqs": ("disk_writes", "Writes.", 1),
            "wr.times": ("disk_write_seconds", "Time that writes took.", 1e-9),
        },
    ),
    "net": (
        "interface",
        {
            "rx.bytes": ("received_bytes", "Bytes that the guest received.", 1),
            "rx.drop": ("receive_dropped", "Packets dropped on the way to the guest.", 1),
            "tx.bytes": ("sent_bytes", "Bytes that the guest sent.", 1),
            "tx.drop": ("send_dropped", "Packets dropped on the way from the guest.", 1),
        },
    ),
}
_PREFIX = "corral_domain_"
_LABELS = ["domain", "uuid"]


def families(readings: Sequence[Reading], scaling: dict[str, Any] | None = None) -> Iterable[Metric]:
    """The metrics of all machines, one family after the other; `scaling` is the autoscaler's status."""
    for figure, (name, help_, unit) in _DOMAIN.items():
        yield _family(CounterMetricFamily(_PREFIX + name, help_, labels=_LABELS), readings, figure, unit)
    for figure, (name, help_, unit) in _GAUGES.items():
        yield _family(GaugeMetricFamily(_PREFIX + name, help_, labels=_LABELS), readings, figure, unit)
    for group, (label, figures) in _GROUPS.items():
        for figure, (name, help_, unit) in figures.items():
            family = CounterMetricFamily(_PREFIX + name, help_, labels=[*_LABELS, label])
            for reading in readings:
                for number in _numbers(reading, group, figure):
                    prefix = f"{group}.{number}"
                    which = reading.figures.get(f"{prefix}.name", str(number))
                    value = reading.figures[f"{prefix}.{figure}"] * unit
                    family.add_metric([reading.name, reading.uuid, str(which)], value)
            yield family
    if scaling is not None:
        yield from _scaling(scaling)


def _family(family: Any, readings: Sequence[Reading], figure: str, unit: float) -> Metric:
    for reading in readings:
        if figure in reading.figures:
            family.add_metric([reading.name, reading.uuid], reading.figures[figure] * unit)
    assert isinstance(family, Metric)
    return family


def _numbers(reading: Reading, group: str, figure: str) -> list[str]:
    start, end = f"{group}.", f".{figure}"
    return [
        number
        for name in reading.figures
        if name.startswith(start) and name.endswith(end) and (number := name[len(start) : -len(end)]).isdecimal()
    ]


def _scaling(status: dict[str, Any]) -> Iterable[Metric]:
    counts = CounterMetricFamily(
        "corral_autoscale_decisions", "What the autoscaler decided.", labels=["domain", "resource", "verdict"]
    )
    wanted = GaugeMetricFamily(
        "corral_autoscale_wanted", "What it would give without a budget.", labels=["domain", "resource"]
    )
    for name, shown in status.get("domains", {}).items():
        for resource in ("vcpus", "memory"):
            track = shown.get(resource) or {}
            for verdict, count in track.get("counts", {}).items():
                counts.add_metric([name, resource, verdict], count)
            if decision := track.get("decision"):
                wanted.add_metric([name, resource], decision["wanted"])
    yield counts
    yield wanted


async def text(host: Host) -> bytes:
    """All metrics of a host as Prometheus reads them."""
    from prometheus_client import generate_latest

    readings = await Meter(host).read()
    scaling: dict[str, Any] | None = None
    with suppress(CorralError):  # a libvirtd scales nothing
        scaling = json.loads((await host.call_own("corral.autoscale_status")).json)

    class _Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return families(readings, scaling)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once())
    return generate_latest(registry)
