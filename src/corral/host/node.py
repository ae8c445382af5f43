"""The machine Corral runs on: its name, identity, CPU, topology and memory, read from /proc and /sys.

`Host.read()` takes everything that does not change while the machine is up, some milliseconds of small reads; what
changes (free memory, CPU time) is asked each time. A `root` other than `/` serves tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from corral.host.cpu import CPU, Topology
from corral.host.memory import Cell


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """libvirt's virNodeInfo: `model` is the architecture, `memory_kib` KiB, `mhz` MHz, counts per NUMA node."""

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

    @classmethod
    def read(cls, root: Path = Path("/")) -> Host:
        """Read the facts below `root`."""
        raise NotImplementedError

    @property
    def memory_kib(self) -> int:
        """All memory of the machine, KiB."""
        raise NotImplementedError

    def node_info(self) -> NodeInfo:
        """The facts as libvirt's virNodeInfo."""
        raise NotImplementedError
