"""The host's memory: NUMA cells with their pages and distances, and what is free now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    raise NotImplementedError


def memory_stats(root: Path = Path("/")) -> MemoryStats:
    """What /proc/meminfo says now."""
    raise NotImplementedError
