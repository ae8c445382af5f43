"""Guests of the sizes that were asked for: 160 vCPUs, 2 TB of memory, NUMA nodes, as the guest sees them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from corral.errors import HostError
from corral.guests import tiny
from corral.hypervisor.domain import Domain
from corral.model.domain import Domain as DomainDocument

from .inside import agent, booted, sh
from .life import opened

TWO_TB = 2_199_023_255_552


async def document(name: str, **changes: object) -> DomainDocument:
    return tiny.document(name, tiny=await tiny.build(), **changes)  # type: ignore[arg-type]


async def patient(domain: Domain, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await booted(domain)
                return
            except TimeoutError:
                continue


@pytest.mark.guest
@pytest.mark.timeout(300)
async def test_numa_nodes_and_their_distances(directory: Path) -> None:
    wanted = await document("nodes", cpus=3, memory_kib=320 * 1024)
    xml = wanted.to_xml().replace(
        "<clock ",
        """<cpu><numa><cell id='0' cpus='0,2' memory='192' unit='MiB'><distances>
        <sibling id='1' value='31'/></distances>
        </cell><cell id='1' cpus='1' memory='128' unit='MiB'><distances><sibling id='0' value='31'/></distances>
        </cell></numa></cpu><clock """,
        1,
    )
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(xml)
        await domain.create()
        await booted(domain)
        assert await sh(domain, "cat /sys/devices/system/node/node0/cpulist") == "0,2"
        assert await sh(domain, "cat /sys/devices/system/node/node1/cpulist") == "1"
        assert await sh(domain, "cat /sys/devices/system/node/node0/distance") == "10 31"
        total = await sh(domain, "grep MemTotal /sys/devices/system/node/node1/meminfo")
        assert 100_000 < int(total.split()[-2]) <= 128 * 1024


@pytest.mark.qemu
async def test_memory_that_the_host_has_not(directory: Path) -> None:
    wanted = await document("vast", memory_kib=TWO_TB // 1024)
    xml = wanted.to_xml()
    async with opened(directory) as (hypervisor, _):
        for backing, text in (
            ("<locked/>", "cannot be locked: the host has"),
            ("<allocation mode='immediate'/>", "cannot be allocated at once: the host has"),
            ("<hugepages><page size='1' unit='GiB'/></hugepages>", "huge pages"),
        ):
            told = xml.replace("<vcpu", f"<memoryBacking>{backing}</memoryBacking><vcpu", 1)
            domain = await hypervisor.define(told)
            with pytest.raises(HostError, match=text):
                await domain.create()
            await domain.undefine()


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(900)
async def test_two_terabytes(directory: Path) -> None:
    wanted = await document("vast", memory_kib=TWO_TB // 1024)
    assert wanted.os.cmdline is not None
    wanted.os.cmdline += " mem=4G"  # what lies above is in the map, and no page of it is touched
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(wanted.to_xml())
        await domain.create()
        await patient(domain, 600)
        assert "46 bits physical" in await sh(domain, "grep -m1 'address sizes' /proc/cpuinfo")
        total = 0
        for line in (await sh(domain, "dmesg | grep 'BIOS-e820:.*usable'")).splitlines():
            span = line.partition("[mem ")[2].partition("]")[0]
            first, last = (int(end, 16) for end in span.split("-"))
            total += last - first + 1
        assert TWO_TB - (16 << 20) < total <= TWO_TB
        assert domain.info().max_memory == TWO_TB // 1024


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(1800)
async def test_a_hundred_and_sixty_vcpus(directory: Path) -> None:
    wanted = await document("wide", cpus=160, memory_kib=1024 * 1024)
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(wanted.to_xml())
        await domain.create()
        await patient(domain, 1500)
        answer = await agent(domain, "guest-get-vcpus")
        assert isinstance(answer, list)
        assert sum(bool(each["online"]) for each in answer) == 160
        assert await sh(domain, "nproc") == "160"
