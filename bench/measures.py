"""What is measured of a daemon, through the same blocking client whichever daemon it is."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import domains
from bench.floor import Floor, resident_kib
from bench.load import CONNECTIONS, MANNERS, throughput
from labs.wire import Wire

Figures = dict[str, float]
#: The query that the bare socket's questions and answers are as long as.
LOOKUP = "lookup"
STATS_ALL = 0  # CONNECT_GET_ALL_DOMAIN_STATS: every group the daemon has
START_PAUSED = 1


@dataclass(frozen=True)
class Peer:
    """A daemon under measurement."""

    name: str
    pid: int
    socket: Path
    driver: str

    def connect(self) -> Wire:
        """A new connection to it."""
        return Wire(self.socket, self.driver)


@dataclass(frozen=True)
class Effort:
    """How often each thing is done: enough for a median, or just enough to see that it works."""

    repeats: int = 15
    rounds: int = 3
    slices: int = 5
    seconds: float = 0.3
    many: int = 20
    most: int = 100

    @classmethod
    def quick(cls) -> Effort:
        """A run of well under a minute."""
        return cls(repeats=3, rounds=1, slices=3, seconds=0.1, many=5, most=10)


def measure(
    peer: Peer, directory: Path, effort: Effort, say: Callable[[str], None], floor: Floor | None = None
) -> Figures:
    """Every figure of one daemon: seconds, calls per second, and KiB, by name; `floor` is measured in turns with it."""
    figures: Figures = {}
    wire = peer.connect()
    wire.call("connect_list_all_domains", need_results=1, flags=0)
    figures["memory idle"] = resident_kib(peer.pid)
    say(f"{peer.name}: define")
    figures |= _define(wire, directory, effort)
    say(f"{peer.name}: start and destroy")
    figures |= _start_one(wire, directory, effort, floor)
    figures |= _start_many(wire, directory, effort, floor)
    say(f"{peer.name}: calls per second")
    figures |= _calls(peer, wire, directory, effort)
    say(f"{peer.name}: list and stats")
    figures |= _lists(peer, wire, directory, effort)
    wire.close()
    return figures


def _clock(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def _define(wire: Wire, directory: Path, effort: Effort) -> Figures:
    """Define one machine, and many in one go."""
    one, many = [], []
    document = domains.document(0, directory)
    for _ in range(effort.repeats):
        one.append(_clock(lambda: wire.call("domain_define_xml", xml=document)))
        wire.call("domain_undefine", dom=domains.reference(0))
    documents = [{"xml": domains.document(number, directory)} for number in range(effort.many)]
    for _ in range(effort.rounds):
        many.append(_clock(lambda: wire.call_all("domain_define_xml", documents)))
        _each(wire, "domain_undefine", effort.many)
    return {"define 1": statistics.median(one), f"define {effort.many}": statistics.median(many)}


def _each(wire: Wire, name: str, count: int) -> None:
    wire.call_all(name, [{"dom": domains.reference(number)} for number in range(count)])


def _start_one(wire: Wire, directory: Path, effort: Effort, floor: Floor | None) -> Figures:
    """From the call to running, and from the call to gone, one machine at a time."""
    wire.call("domain_define_xml", xml=domains.document(0, directory))
    start, destroy = [], []
    for _ in range(effort.repeats):
        start.append(_clock(lambda: wire.call("domain_create", dom=domains.reference(0))))
        if floor is not None:
            floor.copy()
        destroy.append(_clock(lambda: wire.call("domain_destroy", dom=domains.reference(0))))
        if floor is not None:
            floor.measure(1)
    wire.call("domain_undefine", dom=domains.reference(0))
    return {"start 1": statistics.median(start), "destroy 1": statistics.median(destroy)}


def _start_many(wire: Wire, directory: Path, effort: Effort, floor: Floor | None) -> Figures:
    """The same for many machines whose calls are all sent at once."""
    wire.call_all("domain_define_xml", [{"xml": domains.document(n, directory)} for n in range(effort.many)])
    start, destroy = [], []
    for _ in range(effort.rounds):
        start.append(_clock(lambda: _each(wire, "domain_create", effort.many)))
        destroy.append(_clock(lambda: _each(wire, "domain_destroy", effort.many)))
        if floor is not None:
            floor.measure(effort.many)
    _each(wire, "domain_undefine", effort.many)
    return {
        f"start {effort.many}": statistics.median(start),
        f"destroy {effort.many}": statistics.median(destroy),
    }


def _calls(peer: Peer, wire: Wire, directory: Path, effort: Effort) -> Figures:
    """Calls per second of three queries about a machine: one at a time and pipelined, on one connection and on ten.

    Everything is measured in turns: on which CPUs the kernel puts the client and the daemon matters more than either.
    """
    wire.call("domain_create_xml", xml_desc=domains.document(0, directory), flags=START_PAUSED)
    queries: dict[str, tuple[str, dict[str, Any]]] = {
        LOOKUP: ("domain_lookup_by_name", {"name": domains.name(0)}),
        "state": ("domain_get_state", {"dom": domains.reference(0), "flags": 0}),
        "XML": ("domain_get_xml_desc", {"dom": domains.reference(0), "flags": 0}),
    }
    wires = [wire, *(peer.connect() for _ in range(max(CONNECTIONS) - 1))]
    measured: dict[str, list[float]] = defaultdict(list)
    for _ in range(effort.slices):
        for label, (name, arguments) in queries.items():
            for connections in CONNECTIONS:
                for window, manner in MANNERS.items():
                    rate = throughput(wires[:connections], name, arguments, seconds=effort.seconds, window=window)
                    measured[f"{label}, {connections} conn., {manner}"].append(rate)
    for each in wires[1:]:
        each.close()
    wire.call("domain_destroy", dom=domains.reference(0))
    return {name: statistics.median(rates) for name, rates in measured.items()}


def _lists(peer: Peer, wire: Wire, directory: Path, effort: Effort) -> Figures:
    """The list and the bulk statistics of a few and of many machines that exist as paused processes."""
    figures: Figures = {}
    running = 0
    for count in (1, effort.many, effort.most):
        for number in range(running, count):
            document = domains.document(number, directory)
            wire.call("domain_create_xml", xml_desc=document, flags=START_PAUSED)
        running = count
        if count == effort.many:
            figures[f"memory with {count}"] = resident_kib(peer.pid)
        listing = [_clock(lambda: wire.call("connect_list_all_domains", need_results=1, flags=0)) for _ in range(20)]
        stats = [
            _clock(lambda: wire.call("connect_get_all_domain_stats", doms=[], stats=STATS_ALL, flags=0))
            for _ in range(max(3, effort.repeats // 3))
        ]
        figures[f"list {count}"] = statistics.median(listing)
        figures[f"stats {count}"] = statistics.median(stats)
    _each(wire, "domain_destroy", running)
    return figures
