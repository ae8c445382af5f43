"""What a domain uses: from its document, from /proc, and from QEMU where it is asked in time.

Names and types: virConnectGetAllDomainStats (libvirt-domain.h, VIR_DOMAIN_STATS_*).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.constants import DomainState, DomainStatsTypes, TypedParameterType, VcpuState
from corral.errors import CorralError, InternalError, InvalidArgument, OperationInvalid
from corral.host.interfaces import InterfaceCounters, interface_counters
from corral.host.threads import keeps_schedstats, thread_times
from corral.hypervisor.figures import kvm_statistics
from corral.hypervisor.figures.kvm_statistics import Statistic
from corral.qemu import images as image_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.disk import Disk
    from corral.model.devices.interface import Interface
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine

#: Seconds that QEMU gets to answer; a stuck one shall not hold up the figures of all others.
DEADLINE = 2.0

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024

_INT = TypedParameterType.INT
_UINT = TypedParameterType.UINT
_BOOLEAN = TypedParameterType.BOOLEAN
_ULLONG = TypedParameterType.ULLONG
_STRING = TypedParameterType.STRING


def memory(document: DomainDocument) -> tuple[int, int]:
    """(current, maximum) KiB."""
    maximum = document.memory.kib if document.memory else 0
    return (document.current_memory.kib if document.current_memory else maximum), maximum


def vcpus(document: DomainDocument) -> tuple[int, int]:
    """(current, maximum)."""
    if document.vcpu is None:
        return 1, 1
    return document.vcpu.current or document.vcpu.count, document.vcpu.count


def cpu_times(pid: int) -> tuple[int, int, int]:
    """(total, user, system) nanoseconds of a process and its threads; zeros when it is gone (proc(5), stat)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]) * _TICK_NS, int(fields[12]) * _TICK_NS
        return user + system, user, system
    return 0, 0, 0


def vcpu_cpus(domain: Domain) -> dict[int, int]:
    """The host CPU of each vCPU of a running domain."""
    run = domain.run
    if run is None or run.machine is None or run.process is None:
        return {}
    times = {index: thread_times(run.process.pid, thread) for index, thread in run.machine.vcpu_threads.items()}
    return {index: each.cpu if each else -1 for index, each in times.items()}


def _resident_kib(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KIB
    return 0


async def collect(domain: Domain, groups: int, *, nowait: bool) -> list[Statistic]:
    """The statistics of the groups asked for (0: all)."""
    groups = groups or ~0
    run = domain.run
    found: list[Statistic] = []
    if groups & DomainStatsTypes.STATE:
        state, reason = domain.state()
        found += [("state.state", _INT, state), ("state.reason", _INT, reason)]
    document = domain.definition.document
    machine = run.machine if run and run.monitor_lost is None and not (nowait and domain.jobs.holder) else None
    kvm = await _kvm(document, machine, groups)
    if run and run.process and groups & DomainStatsTypes.CPU_TOTAL:
        total, user, system = cpu_times(run.process.pid)
        found += [("cpu.time", _ULLONG, total), ("cpu.user", _ULLONG, user), ("cpu.system", _ULLONG, system)]
        found.append(("cpu.cache.monitor.count", _UINT, 0))  # nobody has asked for one: there is no <cachetune>
        if kvm.vcpus or document.type != "kvm":
            found += kvm.halt_polls()
    if groups & DomainStatsTypes.BALLOON:
        found += await _balloon(document, run, machine)
    if groups & DomainStatsTypes.VCPU:
        found += _vcpus(domain, document, run, kvm)
    if groups & DomainStatsTypes.INTERFACE:
        found += _interfaces(document)
    if groups & DomainStatsTypes.BLOCK:
        found += await _block(document, machine)
    if machine is not None and groups & DomainStatsTypes.IOTHREAD:
        found += await _iothreads(document, machine)
    if run and groups & DomainStatsTypes.PERF:
        found += [(f"perf.{name}", _ULLONG, count) for name, count in domain.hypervisor.perf.read(run).items()]
    if groups & DomainStatsTypes.VM:
        found += kvm.of_vm()
    return found


async def _kvm(document: DomainDocument, machine: Machine | None, groups: int) -> kvm_statistics.Figures:
    """What KVM counted for a machine that runs under it, as far as the groups have a place for it."""
    vm, vcpus = bool(groups & DomainStatsTypes.VM), bool(groups & (DomainStatsTypes.VCPU | DomainStatsTypes.CPU_TOTAL))
    if document.type != "kvm" or machine is None or not (vm or vcpus):
        return kvm_statistics.Figures()
    return await kvm_statistics.read(machine, vm=vm, vcpus=vcpus, timeout=DEADLINE)


async def _iothreads(document: DomainDocument, machine: Machine) -> list[Statistic]:
    """How the I/O threads poll now."""
    if not document.iothreads:
        return []
    found: list[Statistic] = []
    told = {str(each["id"]).removeprefix("iothread"): each for each in await _ask(machine, "query-iothreads") or ()}
    for number in sorted(int(name) for name in told if name.isdigit()):
        each = told[str(number)]
        found += [
            (f"iothread.{number}.poll-max-ns", _ULLONG, int(each["poll-max-ns"])),
            (f"iothread.{number}.poll-grow", _UINT, int(each["poll-grow"])),
            (f"iothread.{number}.poll-shrink", _UINT, int(each["poll-shrink"])),
        ]
    return [("iothread.count", _UINT, len(found) // 3), *found]


async def _ask(machine: Machine | None, command: str, arguments: dict[str, object] | None = None) -> Any:
    """QEMU's answer, or None when it has none in time."""
    if machine is None:
        return None
    try:
        return await machine.monitor.execute(command, arguments, timeout=DEADLINE)
    except CorralError:
        return None


_BALLOON_NAMES = {
    "stat-swap-in": ("swap_in", 1024),
    "stat-swap-out": ("swap_out", 1024),
    "stat-major-faults": ("major_fault", 1),
    "stat-minor-faults": ("minor_fault", 1),
    "stat-free-memory": ("unused", 1024),
    "stat-total-memory": ("available", 1024),
    "stat-available-memory": ("usable", 1024),
    "stat-disk-caches": ("disk_caches", 1024),
    "stat-htlb-pgalloc": ("hugetlb_pgalloc", 1),
    "stat-htlb-pgfail": ("hugetlb_pgfail", 1),
}
_UNKNOWN_FIGURE = 2**64 - 1


async def _balloon(document: DomainDocument, run: Run | None, machine: Machine | None) -> list[Statistic]:
    current, maximum = memory(document)
    found: list[Statistic] = [
        ("balloon.current", _ULLONG, (run.balloon if run else 0) or current),
        ("balloon.maximum", _ULLONG, maximum),
    ]
    if run is None or run.process is None:
        return found
    device = document.devices.memballoon
    asked = device is not None and device.stats is not None and bool(device.stats.period)
    if device is not None and device.model != "none" and not asked:
        found.append(("balloon.last-update", _ULLONG, 0))  # never
    if device is not None and device.alias is not None and asked:
        told = await _ask(
            machine, "qom-get", {"path": f"/machine/peripheral/{device.alias.name}", "property": "guest-stats"}
        )
        if told:
            for name, figure in told.get("stats", {}).items():
                if name in _BALLOON_NAMES and 0 <= figure < _UNKNOWN_FIGURE:
                    ours, divisor = _BALLOON_NAMES[name]
                    found.append((f"balloon.{ours}", _ULLONG, figure // divisor))
            found.append(("balloon.last-update", _ULLONG, int(told.get("last-update", 0))))
    found.append(("balloon.rss", _ULLONG, _resident_kib(run.process.pid)))
    return found


def _vcpus(domain: Domain, document: DomainDocument, run: Run | None, kvm: kvm_statistics.Figures) -> list[Statistic]:
    current, maximum = vcpus(document)
    found: list[Statistic] = [("vcpu.current", _UINT, current), ("vcpu.maximum", _UINT, maximum)]
    if run is None or run.machine is None or run.process is None:
        return found
    running = domain.state()[0] == DomainState.RUNNING
    schedstats = keeps_schedstats()
    for index, thread in sorted(run.machine.vcpu_threads.items()):
        times = thread_times(run.process.pid, thread, schedstats=schedstats)
        if times is None:  # unplugged, or the process has just ended
            continue
        prefix = f"vcpu.{index}"
        found += [
            (f"{prefix}.state", _INT, VcpuState.RUNNING),
            (f"{prefix}.time", _ULLONG, times.ran),
            (f"{prefix}.wait", _ULLONG, times.wait),
        ]
        if running:  # a vCPU's thread sleeps only while its guest's CPU does
            found.append((f"{prefix}.halted", _BOOLEAN, times.state == "S"))
        found.append((f"{prefix}.delay", _ULLONG, times.delay))
        found += kvm.of_vcpu(index)
    return found


def named_interface(document: DomainDocument, name: str) -> Interface:
    """The card that a client means; InvalidArgument when there is none."""
    for interface in document.devices.interfaces:
        if interface.mac is not None and interface.mac.address.lower() == name.lower():
            return interface
        if interface.target is not None and interface.target.dev == name:
            return interface
    raise InvalidArgument(f"'{name}' is not a known interface")


def of_interface(domain: Domain, name: str) -> InterfaceCounters:
    """What one card of a running domain has carried."""
    if not domain.active:
        raise OperationInvalid("domain is not running")
    interface = named_interface(domain.require_run().live.document, name)
    if interface.target is None:
        raise InternalError(
            "Interface name not provided", hint=f"a card of type '{interface.type}' has no link on the host to count"
        )
    found = seen_by_guest(interface, interface_counters())
    if found is None:
        raise InternalError(f"there is no network link '{interface.target.dev}' on this host")
    return found


def seen_by_guest(interface: Interface, counters: Mapping[str, InterfaceCounters]) -> InterfaceCounters | None:
    """What a card has received and sent; None where the host has no link for it.

    What a tap sends is what the guest receives; a macvtap counts from the guest's side already.
    """
    name = interface.target.dev if interface.target is not None else ""
    found = counters.get(name)
    if found is None or interface.type == "direct":
        return found
    return InterfaceCounters(received=found.sent, sent=found.received)


def _interfaces(document: DomainDocument) -> list[Statistic]:
    """The counters of the interfaces that exist on the host, as the guest sees them; a user network has none."""
    interfaces = document.devices.interfaces
    found: list[Statistic] = [("net.count", _UINT, len(interfaces))]
    counters: dict[str, InterfaceCounters] | None = None
    for number, interface in enumerate(interfaces):
        name = interface.target.dev if interface.target else ""
        if not name:
            continue
        if counters is None:
            counters = interface_counters()
        seen = seen_by_guest(interface, counters)
        if seen is None:
            continue
        prefix = f"net.{number}"
        found.append((f"{prefix}.name", _STRING, name))
        for direction, figures in (("rx", seen.received), ("tx", seen.sent)):
            for figure, value in zip(("bytes", "pkts", "errs", "drop"), figures, strict=True):
                found.append((f"{prefix}.{direction}.{figure}", _ULLONG, value))
    return found


_BLOCK_NAMES = {
    "rd.reqs": "rd_operations",
    "rd.bytes": "rd_bytes",
    "rd.times": "rd_total_time_ns",
    "wr.reqs": "wr_operations",
    "wr.bytes": "wr_bytes",
    "wr.times": "wr_total_time_ns",
    "fl.reqs": "flush_operations",
    "fl.times": "flush_total_time_ns",
}


def _highest(entry: dict[str, Any]) -> int | None:
    """How far an image's file or device has been written since it was opened, in bytes; None for an empty drive."""
    stats = (entry.get("parent") or entry).get("stats", {}) if entry.get("node-name") else {}
    highest: int | None = stats.get("wr_highest_offset")
    return highest


async def _block(document: DomainDocument, machine: Machine | None) -> list[Statistic]:
    disks = document.devices.disks
    found: list[Statistic] = [("block.count", _UINT, len(disks))]
    figures, images, written = {}, {}, {}
    if disks and machine is not None:
        stats, block = await asyncio.gather(_ask(machine, "query-blockstats"), _ask(machine, "query-block"))
        figures = {_alias(each): each.get("stats", {}) for each in stats or ()}
        written = {_alias(each): _highest(each) for each in stats or ()}
        images = {_alias(each): (each.get("inserted") or {}).get("image", {}) for each in block or ()}
    paths = [disk.source.path for disk in disks if disk.source and disk.source.path]
    lengths = await asyncio.to_thread(_lengths, paths) if paths else {}
    for number, disk in enumerate(disks):
        prefix = f"block.{number}"
        found.append((f"{prefix}.name", _STRING, disk.target.dev))
        path = disk.source.path if disk.source else None
        if path:
            found.append((f"{prefix}.path", _STRING, path))
        alias = disk.alias.name if disk.alias else ""
        for ours, theirs in _BLOCK_NAMES.items():
            figure = figures.get(alias, {}).get(theirs)
            if figure is not None:
                found.append((f"{prefix}.{ours}", _ULLONG, figure))
        if (allocation := written.get(alias)) is not None:
            found.append((f"{prefix}.allocation", _ULLONG, allocation))
        capacity = images.get(alias, {}).get("virtual-size")
        if path and capacity is None:
            with contextlib.suppress(CorralError):
                image = await _image(path, disk)
                capacity = image.virtual_size
                found.append((f"{prefix}.allocation", _ULLONG, image.allocated))
        if capacity is not None:
            found.append((f"{prefix}.capacity", _ULLONG, capacity))
        if path in lengths:
            found.append((f"{prefix}.physical", _ULLONG, lengths[path]))
    return found


def _lengths(paths: list[str]) -> dict[str, int]:
    """The bytes of each file that can be read."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[path] = _length(path)
    return found


async def block_info(domain: Domain, name: str) -> tuple[int, int, int]:
    """(capacity, allocation, physical) bytes of a disk, running or not: its target or path names it.

    Raises InvalidArgument for no such disk or an empty drive, HostError when the image cannot be read.
    """
    for disk in domain.definition.document.devices.disks:
        path = disk.source.path if disk.source else None
        where = disk.source.where if disk.source else None
        if name in (disk.target.dev, where):
            run = domain.run
            if where is None:
                raise InvalidArgument(f"disk '{disk.target.dev}' does not currently have a source assigned")
            if path is None:
                return await _remote(run, disk)
            image = await _image(path, disk)
            capacity, allocation = image.virtual_size, image.allocated
            if run and run.machine and disk.alias:  # a resize may not be in the header that we read
                for each in await _ask(run.machine, "query-block") or ():
                    if _alias(each) == disk.alias.name:
                        capacity = (each.get("inserted") or {}).get("image", {}).get("virtual-size", capacity)
                if disk.type == "block":  # which has no holes: what counts is how far it is in use
                    for each in await _ask(run.machine, "query-blockstats") or ():
                        if _alias(each) == disk.alias.name:
                            allocation = _highest(each) or 0
            return capacity, allocation, await asyncio.to_thread(_length, path)
    raise InvalidArgument(f"invalid path {name} not assigned to domain")


async def _remote(run: Run | None, disk: Disk) -> tuple[int, int, int]:
    """The sizes of an image elsewhere: only a QEMU that has it open can say."""
    if run is not None and run.machine is not None and disk.alias is not None:
        for each in await _ask(run.machine, "query-block") or ():
            if _alias(each) == disk.alias.name:
                size = (each.get("inserted") or {}).get("image", {}).get("virtual-size", 0)
                return size, size, size
    raise OperationInvalid(f"disk '{disk.target.dev}' is not on this host; start the domain to know its size")


async def _image(path: str, disk: Disk) -> image_files.Image:
    image_format = disk.driver.type if disk.driver and disk.driver.type else "raw"
    return await asyncio.to_thread(image_files.inspect, Path(path), image_format)


def _length(path: str) -> int:
    """Bytes of a file, or of the block device that it is."""
    with Path(path).open("rb") as file:
        return file.seek(0, os.SEEK_END)


def _alias(entry: dict[str, Any]) -> str:
    """The device alias in a QOM path such as `/machine/peripheral/virtio-disk0/virtio-backend`."""
    parts = str(entry.get("qdev", "")).split("/")
    return parts[3] if len(parts) > 3 and parts[2] == "peripheral" else parts[-1]
