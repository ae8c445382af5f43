"""The host's figures as clients get them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.daemon.fake import Client, FakeHypervisor, daemon

from corral.errors import InvalidArgument
from corral.host.smbios import sysinfo_xml
from corral.host.usage import TOTAL, cpu_times
from corral.hypervisor.host import node


async def test_figures_over_the_wire() -> None:
    async with daemon(FakeHypervisor()) as (_, path):
        client = await Client.connect(path)
        assert (await client.call("node_get_cpu_stats", cpuNum=-1, nparams=0, flags=0)).nparams == 4
        stats = await client.call("node_get_cpu_stats", cpuNum=-1, nparams=4, flags=0)
        assert {field.field for field in stats.params} == {"kernel", "user", "idle", "iowait"}
        memory = await client.call("node_get_memory_stats", cellNum=-1, nparams=4, flags=0)
        assert memory.params[0].field == "total" and memory.params[0].value > 1 << 16
        cpus = await client.call("node_get_cpu_map", need_map=1, need_online=1, flags=0)
        assert cpus.online == os.cpu_count() and bin(int.from_bytes(cpus.cpumap, "little")).count("1") == cpus.online
        assert (await client.call("node_get_cells_free_memory", startCell=0, maxcells=8)).cells[0] > 1 << 20
        client.close()


def test_cpus_and_cells_that_are_not_there() -> None:
    for ask in (
        lambda: node.cpu_stats(9999),
        lambda: node.memory_figures(9999),
        lambda: node.cells_free_memory(9999, 1),
    ):
        with pytest.raises(InvalidArgument, match="9999"):
            ask()


def test_cpu_times_are_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  10 1 5 100 2 1 3 0 0 0\ncpu1 4 0 2 50 1 0 1 0 0 0\nintr 5\n")
    times = cpu_times(tmp_path)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert set(times) == {TOTAL, 1}
    assert (times[TOTAL].user, times[TOTAL].kernel, times[TOTAL].idle) == (11 * tick, 9 * tick, 100 * tick)


def test_sysinfo(tmp_path: Path) -> None:
    assert sysinfo_xml(tmp_path) is None
    directory = tmp_path / "sys/class/dmi/id"
    directory.mkdir(parents=True)
    (directory / "sys_vendor").write_text("Maker & Sons\n")
    document = sysinfo_xml(tmp_path)
    assert document is not None and "<entry name='manufacturer'>Maker &amp; Sons</entry>" in document
    assert "<bios>" not in document
