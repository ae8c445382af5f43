"""The machine Corral runs on: its name, identity, CPU, topology and memory, read from /proc and /sys.

`Host.read()` takes what stays while the machine is up, some milliseconds of small reads; what changes (memory in use,
memory plugged in) is read each time. A `root` other than `/` serves tests.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from corral.host.cpu import CPU, Topology, read_cpu, read_topology
from corral.host.memory import Cell, memory_stats, page_sizes_kib, read_cells
from corral.host.sysfs import text

NO_UUIDS = frozenset({UUID(int=0), UUID(int=(1 << 128) - 1)})
"""What firmware says that was never given an identity."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """libvirt's virNodeInfo: `model` is the architecture, `memory_kib` KiB, `mhz` MHz.

    `sockets` counts those of a NUMA node, `cores` those of a socket, `threads` those of a core; where their product is
    not `cpus` (CPUs offline, uneven nodes), nodes and sockets and threads are 1 and cores says `cpus`.
    """

    model: str
    memory_kib: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


@dataclass(frozen=True, slots=True)
class Host:
    """The facts of this machine that last until the next boot."""

    hostname: str
    uuid: UUID
    arch: str
    cpu: CPU
    topology: Topology
    cells: tuple[Cell, ...]
    page_sizes_kib: tuple[int, ...]
    iommu: bool
    root: Path = Path("/")

    @classmethod
    def read(cls, root: Path = Path("/")) -> Host:
        """Read the facts below `root`."""
        cpu = read_cpu(root)
        return cls(
            hostname=hostname(root),
            uuid=_identity(root),
            arch=cpu.arch,
            cpu=cpu,
            topology=read_topology(root),
            cells=read_cells(root),
            page_sizes_kib=page_sizes_kib(root),
            iommu=any((root / "sys/class/iommu").glob("*")) and any((root / "sys/kernel/iommu_groups").glob("*")),
            root=root,
        )

    @property
    def memory_kib(self) -> int:
        """All memory of the machine now, KiB."""
        return memory_stats(self.root).total

    def node_info(self) -> NodeInfo:
        """The facts as libvirt's virNodeInfo."""
        shape = self.topology
        cpus = sum(cpu.online for cpu in shape.cpus)
        cores = shape.cores * shape.dies
        if shape.nodes * shape.sockets * cores * shape.threads == cpus:
            return NodeInfo(
                self.arch, self.memory_kib, cpus, self.cpu.mhz, shape.nodes, shape.sockets, cores, shape.threads
            )
        return NodeInfo(self.arch, self.memory_kib, cpus, self.cpu.mhz, 1, 1, cpus, 1)


def hostname(root: Path = Path("/")) -> str:
    """The name other machines know this one by, with its domain where /etc/hosts tells (no resolver: it may hang)."""
    name = socket.gethostname()
    if "." not in name and not name.startswith("localhost"):
        for line in text(root / "etc/hosts").splitlines():
            _, *names = line.partition("#")[0].split() or ("",)
            if name in names and "." in names[0] and not names[0].startswith("localhost"):
                return names[0]
    return name


def _identity(root: Path) -> UUID:
    """The firmware's UUID of the machine, else the installed system's (/etc/machine-id), else none (all zero)."""
    for source in ("sys/class/dmi/id/product_uuid", "etc/machine-id"):
        try:
            identity = UUID(text(root / source))
        except ValueError:
            continue
        if identity not in NO_UUIDS:
            return identity
    return UUID(int=0)
