"""What the kernel counted for each network interface (proc(5), /proc/net/dev)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

#: What the name of a link begins with through which limited traffic of another goes, whose number follows.
SERVING = "corral-"

Figures = tuple[int, int, int, int]
"""Bytes, packets, errors, dropped packets."""


class InterfaceCounters(NamedTuple):
    """Since the interface was made, from the host's side."""

    received: Figures
    sent: Figures


def interface_counters(path: Path = Path("/proc/net/dev")) -> dict[str, InterfaceCounters]:
    """The counters of every interface by name."""
    found = {}
    for line in path.read_text().splitlines()[2:]:
        name, _, figures = line.partition(":")
        numbers = [int(figure) for figure in figures.split()]
        if len(numbers) >= 12:
            received, sent = numbers[0:4], numbers[8:12]
            found[name.strip()] = InterfaceCounters(
                (received[0], received[1], received[2], received[3]), (sent[0], sent[1], sent[2], sent[3])
            )
    return found
