"""The host's memory: NUMA cells with their pages and distances, and what is free now."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from corral.host.sysfs import number, numbers, text

BASE_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True, slots=True)
class Cell:
    """One NUMA cell: memory in KiB, pages as (size in KiB, count), distances as (cell, value), CPU ids."""

    id: int
    memory_kib: int
    pages: tuple[tuple[int, int], ...]
    distances: tuple[tuple[int, int], ...]
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """What is used for what now, KiB."""

    total: int
    free: int
    buffers: int
    cached: int
    available: int


def read_cells(root: Path = Path("/")) -> tuple[Cell, ...]:
    """The NUMA cells; one that holds everything where the kernel knows none."""
    base = root / "sys/devices/system/node"
    nodes = sorted(int(node.name.removeprefix("node")) for node in base.glob("node[0-9]*"))
    if not nodes:
        total = memory_stats(root).total
        cpus = numbers(text(root / "sys/devices/system/cpu/online")) or (0,)
        return (Cell(0, total, _pages(total, root / "sys/kernel/mm/hugepages"), ((0, 10),), cpus),)
    cells = []
    for node in nodes:
        place = base / f"node{node}"
        total = _meminfo(place / "meminfo").get("MemTotal", 0)
        distances = text(place / "distance").split()
        cells.append(
            Cell(
                id=node,
                memory_kib=total,
                pages=_pages(total, place / "hugepages"),
                distances=tuple(zip(nodes, map(int, distances), strict=False)),
                cpus=numbers(text(place / "cpulist")),
            )
        )
    return tuple(cells)


def memory_stats(root: Path = Path("/")) -> MemoryStats:
    """What /proc/meminfo says now."""
    facts = _meminfo(root / "proc/meminfo")
    free = facts.get("MemFree", 0)
    return MemoryStats(
        total=facts.get("MemTotal", 0),
        free=free,
        buffers=facts.get("Buffers", 0),
        cached=facts.get("Cached", 0),
        available=facts.get("MemAvailable", free),
    )


def cell_free_kib(cell: int, root: Path = Path("/")) -> int:
    """What is free now in a NUMA cell, KiB; of the machine where the kernel knows no such cell."""
    facts = _meminfo(root / f"sys/devices/system/node/node{cell}/meminfo")
    return facts.get("MemFree", memory_stats(root).free)


def page_sizes_kib(root: Path = Path("/")) -> tuple[int, ...]:
    """The sizes of pages the kernel can give, smallest first, KiB."""
    return (BASE_PAGE_KIB, *_huge_sizes(root / "sys/kernel/mm/hugepages"))


def _huge_sizes(directory: Path) -> list[int]:
    names = (path.name for path in directory.glob("hugepages-*kB"))
    return sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names)


def _pages(total_kib: int, directory: Path) -> tuple[tuple[int, int], ...]:
    """Pages by size: the huge ones set aside, and the rest in base pages."""
    huge = [(size, number(directory / f"hugepages-{size}kB" / "nr_hugepages")) for size in _huge_sizes(directory)]
    rest = max(0, total_kib - sum(size * count for size, count in huge))
    return ((BASE_PAGE_KIB, rest // BASE_PAGE_KIB), *huge)


def _meminfo(path: Path) -> dict[str, int]:
    """KiB by name from /proc/meminfo or a node's meminfo (whose lines start with `Node 0`)."""
    found = {}
    for line in text(path).splitlines():
        name, _, value = line.partition(":")
        amount = value.split()
        if amount and amount[0].isdigit():
            found[name.split()[-1]] = int(amount[0])
    return found
