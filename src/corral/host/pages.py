"""The host's pools of pages by size and NUMA node, and how the kernel merges equal ones (KSM)."""

from __future__ import annotations

from pathlib import Path

from corral.errors import HostError, InvalidArgument, OperationFailed, OperationUnsupported
from corral.host.memory import BASE_PAGE_KIB, cell_free_kib, read_cells
from corral.host.sysfs import text

#: virNodeMemoryParameters by the kernel's file, and whether a privileged caller may write it.
MERGING = {
    "pages_to_scan": True,
    "sleep_millisecs": True,
    "pages_shared": False,
    "pages_sharing": False,
    "pages_unshared": False,
    "pages_volatile": False,
    "full_scans": False,
    "merge_across_nodes": True,
}


def free_pages(sizes: list[int], first: int, count: int, root: Path = Path("/")) -> list[int]:
    """How many pages of each size (KiB) are free in each of `count` cells from `first` on, cell by cell."""
    last = max(cell.id for cell in read_cells(root))
    if not 0 <= first <= last:
        raise InvalidArgument(f"start cell {first} out of range (0-{last})")
    cells = range(first, min(first + count, last + 1))
    return [_free(cell, size, root) for cell in cells for size in sizes]


def _free(cell: int, size: int, root: Path) -> int:
    if size == BASE_PAGE_KIB:
        return cell_free_kib(cell, root) // BASE_PAGE_KIB
    pool = _pool(cell, size, root)
    try:
        return int((pool / "free_hugepages").read_text())
    except (OSError, ValueError):
        raise OperationFailed(f"page size {size} is not available on node {cell}") from None


def _pool(cell: int, size: int, root: Path) -> Path:
    """The kernel's directory for pages of a size in a cell, or (-1) in the whole host."""
    own = root / f"sys/devices/system/node/node{cell}/hugepages/hugepages-{size}kB"
    return own if cell >= 0 and own.parent.exists() else root / f"sys/kernel/mm/hugepages/hugepages-{size}kB"


def allocate(wanted: dict[int, int], first: int, count: int, *, add: bool, root: Path = Path("/")) -> int:
    """Set huge pages aside: `wanted` pages by size (KiB) in each cell from `first` (-1: all); how many pools changed.

    Raises OperationUnsupported for ordinary pages, HostError where the kernel refuses, OperationFailed with the number
    that there are when memory for all is not to be had.
    """
    if BASE_PAGE_KIB in wanted:
        raise OperationUnsupported("system pages pool can't be modified")
    last = max(cell.id for cell in read_cells(root))
    if not -1 <= first <= last:
        raise InvalidArgument(f"start cell {first} out of range (0-{last})")
    cells = [-1] if first == -1 else list(range(first, min(first + count, last + 1)))
    changed = 0
    for cell in cells:
        for size, pages in wanted.items():
            _set_pool(_pool(cell, size, root) / "nr_hugepages", pages, size, add=add)
            changed += 1
    return changed


def _set_pool(file: Path, pages: int, size: int, *, add: bool) -> None:
    try:
        before = int(file.read_text())
        total = before + pages if add else pages
        file.write_text(str(total))
        now = int(file.read_text())
    except OSError as error:
        raise HostError(f"cannot set pages of {size} KiB aside: {error.strerror}") from error
    if now != total:
        raise OperationFailed(f"Unable to allocate {total - before} pages. Allocated only {now - before}")


def merging(root: Path = Path("/")) -> dict[str, int]:
    """How the kernel merges equal pages, and how many it has merged; {}: it does not."""
    base = root / "sys/kernel/mm/ksm"
    found = {name: text(base / name) for name in MERGING}
    return {name: int(value) for name, value in found.items() if value.isdigit()}


def set_merging(wanted: dict[str, int], root: Path = Path("/")) -> None:
    """Change it; on failure nothing is changed."""
    base, before = root / "sys/kernel/mm/ksm", merging(root)
    done: list[str] = []
    try:
        for name, value in wanted.items():
            (base / name).write_text(str(value))
            done.append(name)
    except OSError as error:
        for name in done:
            (base / name).write_text(str(before[name]))
        raise HostError(f"failed to set {name}: {error.strerror}") from error
