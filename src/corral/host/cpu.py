"""The host's CPU: what it is (/proc/cpuinfo) and how its logical CPUs lie in sockets, dies and cores (/sys)."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corral.host.sysfs import number, numbers, text


@dataclass(frozen=True, slots=True)
class CPU:
    """One kind of processor. `flags` are the kernel's names; `vendor` is libvirt's name ("Intel", "AMD") or ""."""

    arch: str
    vendor: str
    model_name: str
    family: int
    model: int
    stepping: int
    microcode: int
    mhz: int
    physical_bits: int
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class LogicalCPU:
    """One logical CPU's place. `siblings` are the ids of the threads of its core, itself included."""

    id: int
    online: bool
    node: int
    socket: int
    die: int
    cluster: int
    core: int
    siblings: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache shared by `cpus`; `kind` is both, code or data; size in KiB."""

    id: int
    level: int
    kind: str
    size_kib: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """How many of each (sockets of a NUMA node, dies of a socket, cores of a die …), every logical CPU, the caches."""

    nodes: int
    sockets: int
    dies: int
    clusters: int
    cores: int
    threads: int
    cpus: tuple[LogicalCPU, ...]
    caches: tuple[Cache, ...] = ()


VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon", "CentaurHauls": "Centaur"}
"""libvirt's names for /proc/cpuinfo's."""

CACHE_KINDS = {"Unified": "both", "Instruction": "code", "Data": "data"}


def read_cpu(root: Path = Path("/")) -> CPU:
    """The first logical CPU's identity, from /proc/cpuinfo (x86's words; elsewhere most of it stays empty)."""
    fields: dict[str, str] = {}
    for line in text(root / "proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if not colon:
            if fields:
                break
            continue
        fields[name.strip()] = value.strip()
    return CPU(
        arch=platform.machine(),
        vendor=VENDORS.get(fields.get("vendor_id", ""), ""),
        model_name=fields.get("model name", ""),
        family=_integer(fields.get("cpu family")),
        model=_integer(fields.get("model")),
        stepping=_integer(fields.get("stepping")),
        microcode=_integer(fields.get("microcode")),
        mhz=_mhz(root, fields),
        physical_bits=_integer(fields.get("address sizes", "").partition(" ")[0]),
        flags=frozenset((fields.get("flags") or fields.get("Features") or "").split()),
    )


def _integer(value: str | None) -> int:
    """A number in decimal or with 0x; 0 for none."""
    try:
        return int(value or "0", 0)
    except ValueError:
        return 0


def _mhz(root: Path, fields: dict[str, str]) -> int:
    """The clock: what the firmware promises, else what the kernel measured, else 0."""
    nominal = number(root / "sys/devices/system/cpu/cpu0/cpufreq/base_frequency")
    if nominal:
        return nominal // 1000
    try:
        return int(float(fields.get("cpu MHz", "0")))
    except ValueError:
        return 0


def read_topology(root: Path = Path("/")) -> Topology:
    """Every logical CPU's place, from /sys/devices/system/cpu and /sys/devices/system/node."""
    base = root / "sys/devices/system/cpu"
    online = numbers(text(base / "online")) or (0,)
    present = numbers(text(base / "present")) or online
    nodes = _nodes(root)
    cpus = tuple(_logical(base, cpu, cpu in online, nodes.get(cpu, 0)) for cpu in present)
    active = [cpu for cpu in cpus if cpu.online]
    return Topology(
        nodes=len({cpu.node for cpu in active}) or 1,
        sockets=_most(active, lambda cpu: cpu.node, lambda cpu: cpu.socket),
        dies=_most(active, lambda cpu: cpu.socket, lambda cpu: cpu.die),
        clusters=1,
        cores=_most(active, lambda cpu: (cpu.socket, cpu.die), lambda cpu: cpu.siblings),
        threads=max((len(cpu.siblings) for cpu in active), default=1),
        cpus=cpus,
        caches=_caches(base, online),
    )


def _most(cpus: list[LogicalCPU], group: Callable[[LogicalCPU], object], part: Callable[[LogicalCPU], object]) -> int:
    """The largest number of different parts in one group, at least 1."""
    parts: dict[object, set[object]] = {}
    for cpu in cpus:
        parts.setdefault(group(cpu), set()).add(part(cpu))
    return max(map(len, parts.values()), default=1)


def _nodes(root: Path) -> dict[int, int]:
    """Logical CPU to NUMA node."""
    found = {}
    for node in (root / "sys/devices/system/node").glob("node[0-9]*"):
        for cpu in numbers(text(node / "cpulist")):
            found[cpu] = int(node.name.removeprefix("node"))
    return found


def _logical(base: Path, cpu: int, online: bool, node: int) -> LogicalCPU:
    place = base / f"cpu{cpu}" / "topology"
    return LogicalCPU(
        id=cpu,
        online=online,
        node=node,
        socket=max(0, number(place / "physical_package_id")),
        die=max(0, number(place / "die_id")),
        cluster=max(0, number(place / "cluster_id")),
        core=max(0, number(place / "core_id")),
        siblings=numbers(text(place / "thread_siblings_list")) or (cpu,),
    )


def _caches(base: Path, online: tuple[int, ...]) -> tuple[Cache, ...]:
    """The caches of the online CPUs, each once, those of level 2 and up (smaller ones interest nobody)."""
    found = {}
    for cpu in online:
        for index in (base / f"cpu{cpu}" / "cache").glob("index[0-9]*"):
            level = number(index / "level")
            kind = CACHE_KINDS.get(text(index / "type"))
            size = text(index / "size").removesuffix("K")
            if level < 2 or kind is None or not size.isdigit():
                continue
            cache = Cache(number(index / "id"), level, kind, int(size), numbers(text(index / "shared_cpu_list")))
            found[level, kind, cache.id] = cache
    return tuple(found[key] for key in sorted(found))
