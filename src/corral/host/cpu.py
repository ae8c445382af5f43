"""The host's CPU: what it is (/proc/cpuinfo) and how its logical CPUs lie in sockets, dies and cores (/sys)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


def read_cpu(root: Path = Path("/")) -> CPU:
    """The first logical CPU's identity, from /proc/cpuinfo."""
    raise NotImplementedError


def read_topology(root: Path = Path("/")) -> Topology:
    """Every logical CPU's place, from /sys/devices/system/cpu and /sys/devices/system/node."""
    raise NotImplementedError
