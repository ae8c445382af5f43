"""The host's own figures; what takes many files of sysfs, or changes something there, is done in a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from corral.constants import NodeAllocPagesFlags, TypedParameterFlags, TypedParameterType
from corral.daemon.dispatch import handler
from corral.errors import ArgumentUnsupported, InvalidArgument
from corral.hypervisor.host import node

if TYPE_CHECKING:
    from corral.daemon.session import Session


@handler("node_get_cpu_stats")
def get_cpu_stats(session: Session, args: Any) -> dict[str, Any]:
    """CPU times; without room for parameters, how many there are."""
    return _fields(node.cpu_stats(args.cpuNum), args.nparams)


@handler("node_get_memory_stats")
async def get_memory_stats(session: Session, args: Any) -> dict[str, Any]:
    """Memory; without room for parameters, how many there are."""
    return _fields(await asyncio.to_thread(node.memory_figures, args.cellNum), args.nparams)


@handler("node_get_cells_free_memory")
async def get_cells_free_memory(session: Session, args: Any) -> dict[str, Any]:
    """Bytes by NUMA cell."""
    if not 0 < args.maxcells <= 1024:
        raise InvalidArgument(f"{args.maxcells} is not a number of cells between 1 and 1024")
    return {"cells": await asyncio.to_thread(node.cells_free_memory, args.startCell, args.maxcells)}


@handler("node_get_free_pages")
async def get_free_pages(session: Session, args: Any) -> dict[str, Any]:
    """Free pages by size, cell by cell."""
    pages = list(args.pages)
    return {"counts": await asyncio.to_thread(node.free_pages, pages, args.startCell, args.cellCount)}


@handler("node_alloc_pages", flags=NodeAllocPagesFlags.SET)
async def alloc_pages(session: Session, args: Any) -> dict[str, Any]:
    """Set huge pages aside, for which the kernel may have to move much memory about."""
    wanted = dict(zip(args.pageSizes, args.pageCounts, strict=False))
    add = not args.flags & NodeAllocPagesFlags.SET
    return {"ret": await asyncio.to_thread(node.allocate, wanted, args.startCell, args.cellCount, add=add)}


@handler("node_get_memory_parameters", flags=TypedParameterFlags.PARAM_STRING_OKAY)
def get_memory_parameters(session: Session, args: Any) -> dict[str, Any]:
    """How the kernel merges equal pages; without room for parameters, how many there are."""
    found = node.merging()
    if args.nparams == 0:
        return {"params": [], "nparams": len(found)}
    kinds = {
        name: TypedParameterType.UINT if settable else TypedParameterType.ULLONG
        for name, settable in node.MERGING.items()
    }
    params = [{"field": f"shm_{name}", "value": (kinds[name], value)} for name, value in found.items()]
    return {"params": params[: max(args.nparams, 0)], "nparams": len(params)}


@handler("node_set_memory_parameters")
async def set_memory_parameters(session: Session, args: Any) -> None:
    """Change how the kernel merges equal pages."""
    wanted = {}
    for param in args.params:
        name = param.field.removeprefix("shm_")
        if not node.MERGING.get(name):
            raise ArgumentUnsupported(f"parameter '{param.field}' not supported")
        kind, value = param.value
        if kind != TypedParameterType.UINT:
            raise InvalidArgument(f"invalid type for parameter '{param.field}', expected 'uint'")
        wanted[name] = value
    await asyncio.to_thread(node.set_merging, wanted)


@handler("node_get_cpu_map")
async def get_cpu_map(session: Session, args: Any) -> dict[str, Any]:
    """A bit for each CPU that is online, and their number."""
    count, online = await asyncio.to_thread(node.cpu_map)
    bits = sum(1 << cpu for cpu in online).to_bytes((count + 7) // 8, "little")
    return {
        "cpumap": bits if args.need_map else b"",
        "online": len(online) if args.need_online else 0,
        "ret": count,
    }


@handler("connect_get_sysinfo")
def get_sysinfo(session: Session, args: Any) -> dict[str, Any]:
    """What the firmware says of itself."""
    return {"sysinfo": node.sysinfo()}


def _fields(figures: dict[str, int], room: int) -> dict[str, Any]:
    """The figures if there is room for all; libvirt's clients ask for their number first."""
    if room == 0:
        return {"params": [], "nparams": len(figures)}
    fields = [{"field": name, "value": value} for name, value in figures.items()][: max(room, 0)]
    return {"params": fields, "nparams": len(fields)}
