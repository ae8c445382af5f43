"""What a machine asks of this host that the host may not have: said before QEMU starts, with both figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, HostError
from corral.host import cpu, memory
from corral.qemu import guest_memory

if TYPE_CHECKING:
    from corral.model.domain import Domain as DomainDocument

_HUGE = Path("/sys/kernel/mm/hugepages")


def check(document: DomainDocument, accel: str) -> bool:
    """Whether the host can set the guest's memory aside; False: it has less, and the guest gets it page by page.

    Raises HostError or ConfigUnsupported for what this host cannot give at all.
    """
    total = memory.memory_stats().total
    wanted = guest_memory.size_kib(document)
    _check_huge_pages(document)
    backing = document.memory_backing
    if wanted > total and backing is not None:
        immediate = backing.allocation is not None and backing.allocation.mode == "immediate"
        for asked, what in ((backing.locked, "locked"), (immediate, "allocated at once")):
            if asked:
                raise HostError(f"{wanted >> 10} MiB of memory cannot be {what}: the host has {total >> 10} MiB")
    if accel == "kvm":
        bits, host_bits = guest_memory.width(document), cpu.read_cpu().physical_bits
        if host_bits and bits > guest_memory.WIDTHS[0] and bits > host_bits and wanted.bit_length() + 10 > host_bits:
            raise ConfigUnsupported(
                f"{wanted >> 20} GiB of memory need {bits} address bits, and this host's processor has {host_bits}"
            )
    return wanted <= total


def _check_huge_pages(document: DomainDocument) -> None:
    """Refuse a guest for which the host has set aside too few huge pages."""
    nodes = guest_memory.cells(document)
    needs: dict[int, int] = {}
    for node, kib in [(cell.id, cell.memory_kib) for cell in nodes] or [(None, guest_memory.size_kib(document))]:
        size = guest_memory.huge_page_kib(document, node)
        if size is not None:
            size = size or _default_size()
            needs[size] = needs.get(size, 0) + -(-kib // size)
    for size, pages in needs.items():
        try:
            free = int((_HUGE / f"hugepages-{size}kB" / "free_hugepages").read_text())
        except (OSError, ValueError):
            raise HostError(f"this host has no huge pages of {size} KiB") from None
        if free < pages:
            raise HostError(
                f"{pages} huge pages of {size} KiB are needed, and {free} are free on this host",
                hint=f"virsh allocpages {size}KiB {pages}, or echo {pages} > {_HUGE}/hugepages-{size}kB/nr_hugepages",
            )


def _default_size() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Hugepagesize:"):
            return int(line.split()[1])
    return 2048
