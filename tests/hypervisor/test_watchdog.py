"""A watchdog whose action is a dump, in a machine without an operating system: the monitor writes to its port."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import uuid4

import pytest
from tests.hypervisor.life import document, opened
from tests.waiting import until

from corral.constants import DomainPausedReason, DomainState
from corral.errors import HostError
from corral.hypervisor import dumps, ending
from corral.hypervisor.domain import Domain
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.run import Run
from corral.qemu.machine import Machine

RUNNING, PAUSED = DomainState.RUNNING, DomainState.PAUSED
BITTEN = (PAUSED, DomainPausedReason.WATCHDOG)

#: The port of an ib700, and the value with which it bites at once.
BITE = "o /b 0x443 0xf"
DOG = "<watchdog model='ib700' action='dump'/>"


async def start(hypervisor: Hypervisor) -> Domain:
    domain = await hypervisor.define(document("a", devices=DOG))
    await domain.create()
    return domain


def kept(hypervisor: Hypervisor) -> list[Path]:
    return sorted(hypervisor.settings.dumps.glob("*"))


def on_a_full_disk(path: Path) -> int:
    """A file on a disk that is full when QEMU writes."""
    path.touch(exist_ok=False)
    return os.open("/dev/full", os.O_WRONLY)


async def gone_on(domain: Domain) -> None:
    """Wait until the guest was let go on."""
    await until(lambda: domain.state()[0] == RUNNING and domain.jobs.holder is None)
    assert await domain.require_run().require_machine().status() == "running"


@pytest.mark.qemu
async def test_a_dump_is_kept_if_it_was_written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room, and when QEMU fails, nothing is left of it, and the guest goes on."""
    async with opened(directory) as (hypervisor, heard):
        domain = await start(hypervisor)

        async def bite() -> None:
            before = len(heard.lifecycle())
            await domain.monitor_command(BITE, 1)
            await until(lambda: len(heard.lifecycle()) == before + 2)  # suspended, resumed
            await gone_on(domain)

        await bite()
        (first,) = kept(hypervisor)
        assert first.read_bytes()[:4] == b"\x7fELF"
        with monkeypatch.context() as patched:
            patched.setattr(dumps, "MARGIN", 1 << 60)
            await bite()
        assert kept(hypervisor) == [first]
        with monkeypatch.context() as patched:
            patched.setattr(dumps, "_create", on_a_full_disk)
            await bite()
        assert kept(hypervisor) == [first]
        await domain.destroy()


@pytest.mark.qemu
async def test_a_pause_that_was_asked_for_meanwhile_stays(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, done = asyncio.Event(), asyncio.Event()

    async def write(domain: Domain, run: Run) -> None:
        under_way.set()
        await done.wait()

    monkeypatch.setattr(dumps, "write", write)
    async with opened(directory) as (hypervisor, _):
        domain = await start(hypervisor)
        await domain.monitor_command(BITE, 1)
        await under_way.wait()
        pause = asyncio.create_task(domain.suspend())
        await until(lambda: domain.jobs._waiting)
        done.set()
        await pause
        assert domain.state() == (PAUSED, DomainPausedReason.USER)
        assert await domain.require_run().require_machine().status() == "paused"
        await domain.destroy()


@pytest.mark.qemu
async def test_the_next_daemon_finishes_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that was bitten while no daemon ran is dumped and goes on; one whose dump was under way goes on."""
    async with opened(directory) as (hypervisor, _):
        domain = await start(hypervisor)
        run = domain.require_run()
        process = run.require_machine().process
    machine = await Machine.reattach(process.pid, process.start_time, run.monitor_path, name="a", log=run.log)
    await machine.monitor.human(BITE)
    while await machine.status() != "watchdog":  # noqa: ASYNC110 (the test's own deadline)
        await asyncio.sleep(0.01)
    await machine.close()

    async def dies(*_: object, **__: object) -> None:
        """A daemon that comes no further."""

    async with opened(directory) as (hypervisor, _):
        (domain,) = hypervisor.domains()
        await gone_on(domain)
        assert len(kept(hypervisor)) == 1
        with monkeypatch.context() as patched:
            patched.setattr(ending, "dump_and_go_on", dies)
            await domain.monitor_command(BITE, 1)
            await until(lambda: domain.state() == BITTEN)
    async with opened(directory) as (hypervisor, _):
        (domain,) = hypervisor.domains()
        await gone_on(domain)
        assert len(kept(hypervisor)) == 1
        await domain.destroy()


def test_the_last_ones_of_each_domain_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = uuid4(), uuid4()

    def write(uuid: object, size: int = 1) -> None:
        path = dumps.place(tmp_path, "a", one if uuid is one else other, size)
        path.write_bytes(b"x")

    for uuid in (one, other, one, one):
        write(uuid)
    names = [f"a-{one}-2.core", f"a-{one}-3.core", f"a-{other}-1.core"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    with pytest.raises(HostError, match="MiB left"):
        write(one, 1 << 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
