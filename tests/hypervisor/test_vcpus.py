"""vCPUs and pinning of machines without a guest: documents, threads, what a definition and a start make of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.constants import DomainVcpuFlags
from corral.errors import InvalidArgument, OperationInvalid, OperationTimeout, XMLError
from corral.hypervisor import events
from corral.hypervisor.cpus import vcpus
from corral.hypervisor.domain import Domain
from corral.hypervisor.hypervisor import Hypervisor

from .life import Heard, document, opened

CONFIG, LIVE, MAXIMUM = DomainVcpuFlags.CONFIG, DomainVcpuFlags.LIVE, DomainVcpuFlags.MAXIMUM
VCPUS = "<vcpu current='1'>4</vcpu><iothreads>2</iothreads>"
HOST = frozenset(os.sched_getaffinity(0))
SINGLE = """<vcpu current='2'>4</vcpu><vcpus>
  <vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='no' hotpluggable='yes'/>
  <vcpu id='2' enabled='yes' hotpluggable='yes'/><vcpu id='3' enabled='no' hotpluggable='yes'/></vcpus>"""

pytestmark = pytest.mark.qemu


@pytest.fixture
async def world(directory: Path) -> AsyncIterator[tuple[Hypervisor, Heard]]:
    async with opened(directory) as (hypervisor, heard):
        yield hypervisor, heard


def threads(domain: Domain) -> dict[str, set[int]]:
    """The host CPUs of each thread of the machine, by its name."""
    run = domain.require_run()
    assert run.process is not None
    tasks = Path(f"/proc/{run.process.pid}/task")
    return {(task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name)) for task in tasks.iterdir()}


async def test_a_definitions_count(world: tuple[Hypervisor, Heard]) -> None:
    domain = await world[0].define(document("d", extra=VCPUS))
    await domain.set_vcpus(3)
    assert domain.vcpus() == (3, 4)
    with pytest.raises(InvalidArgument, match="greater than max allowable vcpus for the persistent domain: 5 > 4"):
        await domain.set_vcpus(5, CONFIG)
    with pytest.raises(OperationInvalid, match="domain is not running"):
        await domain.set_vcpus(2, LIVE)
    await domain.set_vcpus(2, CONFIG | MAXIMUM)
    assert domain.vcpus() == (2, 2)
    await domain.set_vcpus(6, CONFIG | MAXIMUM)
    assert domain.vcpus() == (2, 6)
    await domain.set_vcpu("4", True, CONFIG)
    assert domain.vcpus() == (3, 6)
    assert "<vcpu id='4' enabled='yes' hotpluggable='yes'/>" in domain.xml()
    with pytest.raises(InvalidArgument, match="vcpu '4' is already in requested state"):
        await domain.set_vcpu("4", True, CONFIG)
    with pytest.raises(XMLError, match="Failed to parse bitmap"):
        await domain.set_vcpu("four", True, CONFIG)


async def test_single_vcpus_from_the_start(world: tuple[Hypervisor, Heard]) -> None:
    domain = await world[0].define(document("single", extra=SINGLE))
    await domain.create()
    machine = domain.require_run().require_machine()
    assert sorted(machine.vcpu_threads) == [0, 2]
    assert "<vcpu id='2' enabled='yes' hotpluggable='yes' order='2'/>" in domain.xml()
    await domain.set_vcpu("1,3", True, LIVE)
    assert sorted(machine.vcpu_threads) == [0, 1, 2, 3]
    assert domain.info().vcpus == 4
    assert domain.vcpus(CONFIG) == (2, 4)


async def test_a_guest_that_does_not_answer(world: tuple[Hypervisor, Heard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vcpus, "UNPLUG_TIMEOUT", 0.3)
    domain = await world[0].define(document("mute", extra=SINGLE.replace("<features>", "")))
    await domain.create(1)  # paused: nobody there to let go
    with pytest.raises((OperationTimeout, Exception), match=r"timed out|not supported device type"):
        await domain.set_vcpu("2", False, LIVE)
    assert domain.info().vcpus == 2


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (SINGLE.replace("id='0' enabled='yes'", "id='0' enabled='no'"), "vCPU 0 can't be offline"),
        (SINGLE.replace("id='3'", "id='2'"), "listed twice"),
        (SINGLE.replace("id='3'", "id='7'"), "out of range"),
        (VCPUS + "<cputune><vcpupin vcpu='0' cpuset='zero'/></cputune>", "Failed to parse bitmap 'zero'"),
        (VCPUS + "<cputune><iothreadpin iothread='9' cpuset='0'/></cputune>", "Cannot find 'iothread' : 9"),
    ],
)
async def test_refused_definitions(world: tuple[Hypervisor, Heard], extra: str, text: str) -> None:
    with pytest.raises(XMLError, match=text):
        await world[0].define(document("bad", extra=extra))


@pytest.mark.skipif(len(HOST) < 2, reason="one host CPU leaves nothing to choose")
async def test_threads_run_where_they_are_pinned(world: tuple[Hypervisor, Heard]) -> None:
    hypervisor, heard = world
    first, second = sorted(HOST)[:2]
    tune = f"""<cputune><vcpupin vcpu='0' cpuset='{first}'/><vcpupin vcpu='1' cpuset='{second}'/>
      <emulatorpin cpuset='{second}'/><iothreadpin iothread='1' cpuset='{first}'/></cputune>"""
    domain = await hypervisor.define(document("pinned", extra=VCPUS + tune))
    await domain.create()
    placed = threads(domain)
    assert placed["CPU 0/TCG"] == {first}
    assert placed["IO iothread1"] == {first}
    assert placed["IO iothread2"] == HOST
    assert placed["qemu-system-x86"] == {second}
    await domain.set_vcpus(3)
    assert threads(domain)["CPU 1/TCG"] == {second}
    assert threads(domain)["CPU 2/TCG"] == HOST

    await domain.pin_vcpu(0, frozenset({second}), LIVE | CONFIG)
    await domain.pin_emulator(frozenset({first}), LIVE)
    await domain.pin_iothread(2, frozenset({first}))
    placed = threads(domain)
    assert (placed["CPU 0/TCG"], placed["qemu-system-x86"], placed["IO iothread2"]) == ({second}, {first}, {first})
    assert domain.vcpu_pins(LIVE)[:2] == [{second}, {second}]
    assert domain.emulator_pin(CONFIG) == {second}
    assert domain.iothread_pins(LIVE) == {1: {first}, 2: {first}}
    told = [event.params[0] for event in heard if isinstance(event, events.Tunable)]
    assert [(name, value) for name, _, value in told] == [
        ("cputune.vcpupin0", str(second)),
        ("cputune.emulatorpin", str(first)),
        ("cputune.iothreadpin2", str(first)),
    ]
    with pytest.raises(InvalidArgument, match="vcpu 9 is out of range of live cpu count 3"):
        await domain.pin_vcpu(9, frozenset({first}))
    with pytest.raises(InvalidArgument, match="Empty cpu list for pinning"):
        await domain.pin_vcpu(0, frozenset({9999}))
