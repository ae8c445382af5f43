"""What a machine asks of this host that the host may not have: said before QEMU starts, with both figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, HostError
from corral.host import cpu, memory
from corral.model import cpuset
from corral.qemu import guest_memory

if TYPE_CHECKING:
    from corral.model.domain import Domain as DomainDocument

_NODES = Path("/sys/devices/system/node/online")
_HUGE = Path("/sys/kernel/mm/hugepages")


def check(document: DomainDocument, accel: str) -> bool:
    """Whether the host can set the guest's memory aside; False: it has less, and the guest gets it page by page.

    Raises HostError or ConfigUnsupported for what this host cannot give at all.
    """
    total = memory.memory_stats().total
    requested = [each.target.requested for each in document.devices.memories]
    wanted = guest_memory.given_kib(document) + sum(each.kib for each in requested if each is not None)
    _check_huge_pages(document)
    _check_nodes(document)
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


def _check_nodes(document: DomainDocument) -> None:
    """Refuse NUMA nodes that the host does not have; the text is libvirt's."""
    tune = document.numatune
    sets = [each.nodeset for each in tune.memnodes] if tune is not None else []
    sets += [tune.memory.nodeset] if tune is not None and tune.memory is not None and tune.memory.nodeset else []
    sets += [each.source.nodemask for each in document.devices.memories if each.source and each.source.nodemask]
    there = host_nodes()
    for nodeset in sets:
        for node in sorted(cpuset.parse(nodeset) - there):
            raise ConfigUnsupported(f"NUMA node {node} is unavailable")


def host_nodes() -> frozenset[int]:
    """The host's NUMA nodes; a kernel without them has the one numbered 0."""
    try:
        return cpuset.parse(_NODES.read_text().strip())
    except OSError:
        return frozenset({0})


def _check_huge_pages(document: DomainDocument) -> None:
    """Refuse a guest for which the host has set aside too few huge pages."""
    nodes = guest_memory.cells(document)
    needs: dict[int, int] = {}
    sizes = [
        (guest_memory.huge_page_kib(document, node), kib)
        for node, kib in [(cell.id, cell.memory_kib) for cell in nodes] or [(None, guest_memory.size_kib(document))]
    ]
    for device in document.devices.memories:
        if device.model == "dimm":
            sizes.append((guest_memory.module_page_kib(document, device), device.target.size.kib))
    for size, kib in sizes:
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
