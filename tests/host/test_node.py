"""Host facts from a /proc and /sys made up for the purpose, and from this machine's own."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from corral.host.memory import cell_free_kib, memory_stats
from corral.host.node import Host
from corral.host.pci import PhysicalFunction, physical_functions
from corral.host.sysfs import numbers, ranges

CPUINFO = """\
processor\t: {id}
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC 7763 64-Core Processor
stepping\t: 1
microcode\t: 0xa0011d5
cpu MHz\t\t: 2445.406
flags\t\t: fpu sse4_1 svm nrip_save
address sizes\t: 48 bits physical, 48 bits virtual

"""


def write(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content + "\n")


@pytest.fixture
def two_nodes(tmp_path: Path) -> Path:
    """Two NUMA nodes, each one socket of two cores with two threads; CPU 7 is offline."""
    cpu = "sys/devices/system/cpu"
    write(tmp_path, "proc/cpuinfo", "".join(CPUINFO.format(id=cpu) for cpu in range(7)))
    write(tmp_path, "proc/meminfo", "MemTotal: 67108864 kB\nMemFree: 1048576 kB\nBuffers: 10 kB\nCached: 20 kB")
    write(tmp_path, f"{cpu}/present", "0-7")
    write(tmp_path, f"{cpu}/online", "0-6")
    for id in range(8):
        node, core = id // 4, id % 4 // 2
        write(tmp_path, f"{cpu}/cpu{id}/topology/physical_package_id", str(node))
        write(tmp_path, f"{cpu}/cpu{id}/topology/core_id", str(core))
        write(tmp_path, f"{cpu}/cpu{id}/topology/cluster_id", "-1")
        siblings = f"{id // 2 * 2}" if id == 6 else f"{id // 2 * 2}-{id // 2 * 2 + 1}"
        write(tmp_path, f"{cpu}/cpu{id}/topology/thread_siblings_list", siblings)
    for index, (level, kind, size) in enumerate([("1", "Data", "32K"), ("3", "Unified", "32768K")]):
        for id in range(8):
            place = f"{cpu}/cpu{id}/cache/index{index}"
            write(tmp_path, f"{place}/level", level)
            write(tmp_path, f"{place}/type", kind)
            write(tmp_path, f"{place}/size", size)
            write(tmp_path, f"{place}/id", str(id // 4))
            write(tmp_path, f"{place}/shared_cpu_list", "0-3" if id < 4 else "4-6")
    for node in range(2):
        place = f"sys/devices/system/node/node{node}"
        write(tmp_path, f"{place}/meminfo", f"Node {node} MemTotal: 33554432 kB\nNode {node} MemFree: {node + 7} kB")
        write(tmp_path, f"{place}/cpulist", "0-3" if node == 0 else "4-7")
        write(tmp_path, f"{place}/distance", "10 21" if node == 0 else "21 10")
        write(tmp_path, f"{place}/hugepages/hugepages-2048kB/nr_hugepages", "512")
    write(tmp_path, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "1024")
    write(tmp_path, "sys/class/dmi/id/product_uuid", "AE9F5E2C-5E4D-4E04-9C0B-0B4F16B0A0C1")
    return tmp_path


def test_identity(two_nodes: Path) -> None:
    host = Host.read(two_nodes)
    assert host.uuid == UUID("ae9f5e2c-5e4d-4e04-9c0b-0b4f16b0a0c1")
    cpu = host.cpu
    assert (cpu.vendor, cpu.family, cpu.model, cpu.microcode, cpu.mhz) == ("AMD", 25, 1, 0xA0011D5, 2445)
    assert cpu.physical_bits == 48
    assert "nrip_save" in cpu.flags


@pytest.mark.parametrize("unset", ["", "00000000-0000-0000-0000-000000000000", "Not Settable"])
def test_machine_id_stands_in_for_firmware_that_says_nothing(two_nodes: Path, unset: str) -> None:
    write(two_nodes, "sys/class/dmi/id/product_uuid", unset)
    write(two_nodes, "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4")
    assert Host.read(two_nodes).uuid == UUID("3d1219c7-c4c5-404a-aa1f-6d2a48adfda4")


def test_topology(two_nodes: Path) -> None:
    shape = Host.read(two_nodes).topology
    assert (shape.nodes, shape.sockets, shape.dies, shape.cores, shape.threads) == (2, 1, 1, 2, 2)
    assert [cpu.online for cpu in shape.cpus] == [True] * 7 + [False]
    assert all(cpu.cluster == 0 for cpu in shape.cpus), "the kernel's -1 means no cluster"
    assert [(cache.level, cache.size_kib, cache.cpus) for cache in shape.caches] == [
        (3, 32768, (0, 1, 2, 3)),
        (3, 32768, (4, 5, 6)),
    ]


def test_uneven_machine_keeps_the_product_true(two_nodes: Path) -> None:
    """Clients multiply nodes, sockets, cores and threads: with a CPU offline it must still give the CPUs there are."""
    info = Host.read(two_nodes).node_info()
    assert info.cpus == 7
    assert info.nodes * info.sockets * info.cores * info.threads == 7


def test_even_machine_shows_its_shape(two_nodes: Path) -> None:
    write(two_nodes, "sys/devices/system/cpu/online", "0-7")
    write(two_nodes, "sys/devices/system/cpu/cpu6/topology/thread_siblings_list", "6-7")
    info = Host.read(two_nodes).node_info()
    assert (info.cpus, info.nodes, info.sockets, info.cores, info.threads) == (8, 2, 1, 2, 2)
    assert info.memory_kib == 67108864


def test_cells(two_nodes: Path) -> None:
    first, second = Host.read(two_nodes).cells
    assert first.memory_kib == 33554432
    assert first.pages == ((4, (33554432 - 512 * 2048) // 4), (2048, 512))
    assert second.distances == ((0, 21), (1, 10))
    assert second.cpus == (4, 5, 6, 7)
    assert cell_free_kib(1, two_nodes) == 8
    assert memory_stats(two_nodes).cached == 20


def test_kernel_without_numa_is_one_cell(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal: 1048576 kB\nMemFree: 4 kB")
    host = Host.read(tmp_path)
    assert [cell.memory_kib for cell in host.cells] == [1048576]
    assert host.node_info().cpus == 1


def test_virtual_functions(tmp_path: Path) -> None:
    write(tmp_path, "sys/bus/pci/devices/0000:3b:00.0/sriov_totalvfs", "8")
    write(tmp_path, "sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs", "2")
    write(tmp_path, "sys/bus/pci/devices/0000:3b:00.1/sriov_totalvfs", "0")
    assert physical_functions(tmp_path) == (PhysicalFunction("0000:3b:00.0", 8, 2),)


def test_this_machine() -> None:
    host = Host.read()
    info = host.node_info()
    assert info.nodes * info.sockets * info.cores * info.threads == info.cpus
    assert info.cpus == len(numbers(Path("/sys/devices/system/cpu/online").read_text().strip()))
    assert host.memory_kib > 100_000


@pytest.mark.parametrize("text", ["", "0", "0-3", "0,2", "0-2,8,10-11"])
def test_sets_of_numbers(text: str) -> None:
    assert ranges(numbers(text)) == text
