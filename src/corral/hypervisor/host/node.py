"""Figures of the host that clients ask for: CPU times, memory by NUMA cell, what the firmware says."""

from __future__ import annotations

from corral.errors import ConfigUnsupported, InvalidArgument
from corral.host.cpu import read_topology
from corral.host.memory import cell_free_kib, memory_stats, read_cells
from corral.host.pages import MERGING, allocate, free_pages, merging, set_merging
from corral.host.smbios import sysinfo_xml
from corral.host.usage import TOTAL, cpu_times

__all__ = [
    "MERGING",
    "allocate",
    "cells_free_memory",
    "cpu_map",
    "cpu_stats",
    "free_pages",
    "memory_figures",
    "merging",
    "set_merging",
    "sysinfo",
]

#: What virNodeGetCPUStats and virNodeGetMemoryStats take for all CPUs or cells.
ALL = -1


def cpu_stats(cpu: int) -> dict[str, int]:
    """Nanoseconds since boot of one CPU, or of all: kernel, user, idle, iowait."""
    times = cpu_times().get(TOTAL if cpu == ALL else cpu)
    if times is None:
        raise InvalidArgument(f"Invalid cpuNum in virNodeGetCPUStats: there is no CPU {cpu} online")
    return {"kernel": times.kernel, "user": times.user, "idle": times.idle, "iowait": times.iowait}


def memory_figures(cell: int) -> dict[str, int]:
    """KiB of the host: total, free, buffers, cached; or of one NUMA cell: total, free."""
    if cell == ALL:
        stats = memory_stats()
        return {"total": stats.total, "free": stats.free, "buffers": stats.buffers, "cached": stats.cached}
    for known in read_cells():
        if known.id == cell:
            return {"total": known.memory_kib, "free": cell_free_kib(cell)}
    raise InvalidArgument(f"Invalid cellNum in virNodeGetMemoryStats: there is no NUMA cell {cell}")


def cells_free_memory(first: int, count: int) -> list[int]:
    """Bytes that are free in each NUMA cell from `first` on."""
    cells = [cell.id for cell in read_cells() if cell.id >= first]
    if first < 0 or not cells:
        raise InvalidArgument(f"start cell {first} out of range")
    return [cell_free_kib(cell) * 1024 for cell in cells[:count]]


def cpu_map() -> tuple[int, list[int]]:
    """How many CPUs the host has, and the numbers of those that are online."""
    cpus = read_topology().cpus
    online = [cpu.id for cpu in cpus if cpu.online]
    return 1 + max((cpu.id for cpu in cpus), default=0), online


def sysinfo() -> str:
    """libvirt's sysinfo document; ConfigUnsupported where the firmware tells nothing."""
    document = sysinfo_xml()
    if document is None:
        raise ConfigUnsupported("Host SMBIOS information is not available")
    return document
