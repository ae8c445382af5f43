"""Scaling by itself with a real guest and shortened times: its own `nproc` counts. And the same loop without guests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.waiting import until

from corral.constants import DomainJobOperation, DomainMetadataType, DomainModificationImpact
from corral.hypervisor.domain import Domain
from corral.hypervisor.events import Autoscale
from corral.hypervisor.figures import perf
from corral.hypervisor.scaling import policy

from . import test_guest_modules as modules
from .inside import guest, settled, sh
from .life import Heard, opened
from .life import document as machine

BUSY = "(timeout 300 sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $! > /tmp/busy)"
CALM = "kill $(cat /tmp/busy); killall timeout; true"
LIVE = DomainModificationImpact.LIVE


async def keep(domain: Domain, **fields: object) -> None:
    xml = policy.to_xml(policy.from_fields(fields))
    await domain.set_metadata(DomainMetadataType.ELEMENT, xml, policy.PREFIX, policy.NAMESPACE, LIVE)


def decisions(heard: Heard) -> list[dict[str, object]]:
    return [json.loads(event.details) for event in heard if isinstance(event, Autoscale)]


@pytest.mark.guest
@pytest.mark.timeout(300)
async def test_a_busy_loop_brings_a_vcpu_and_quiet_takes_it(directory: Path) -> None:
    async with guest(directory, most=2) as (domain, heard):
        assert await sh(domain, "nproc") == "1"
        # A low target up and a high one down, and no word of the host's shortness: it may be busy with other tests.
        either: dict[str, object] = {"period": 1, "step": 2, "host_bound": 100}
        await keep(domain, vcpus={"min": 1, "max": 2, "target": 10}, quiet=600, **either)
        assert await sh(domain, f"{BUSY}; echo busy") == "busy"
        await until(lambda: len(domain.require_run().require_machine().vcpu_threads) == 2, seconds=60)
        await until(lambda: any(each.get("result") == "done: 2" for each in decisions(heard)), seconds=60)
        assert await sh(domain, "nproc") == "2"
        await sh(domain, CALM)
        await keep(domain, vcpus={"min": 1, "max": 2, "target": 90}, quiet=6, **either)
        await until(lambda: any(each.get("result") == "done: 1" for each in decisions(heard)), seconds=150)
        assert await sh(domain, "nproc") == "1"
        up = next(each for each in decisions(heard) if each["verdict"] == "up")
        assert up["inputs"]["use"] > 10  # type: ignore[index]


@pytest.mark.guest
@pytest.mark.timeout(300)
async def test_a_guest_tells_its_symbols(directory: Path, tmp_path: Path) -> None:
    """Its agent hands them over, for the flame graph."""
    async with guest(directory) as (domain, _):
        symbols, why_not = await perf.fetch_symbols(domain, tmp_path)
        assert why_not == ""
        assert symbols is not None
        assert b" T _text\n" in symbols.kallsyms.read_bytes() or b" _text\n" in symbols.kallsyms.read_bytes()
        assert b"virtio" in symbols.modules.read_bytes()


@pytest.mark.qemu
async def test_no_policy_no_timer(short_path: Path) -> None:
    async with opened(short_path) as (hypervisor, _heard):
        scaling = hypervisor.autoscaling
        domain = await hypervisor.create_xml(machine("idle"))
        assert scaling._timer is None
        await keep(domain, vcpus={"min": 1, "max": 1}, period=0.1, quiet=0, dry_run=True)
        assert scaling._timer is not None
        await until(lambda: scaling.show(domain)["vcpus"]["decision"])
        assert scaling.show(domain)["policy"]["dry_run"] is True
        await domain.set_metadata(DomainMetadataType.ELEMENT, None, None, policy.NAMESPACE, LIVE)
        assert scaling._timer is None
        assert scaling.show(domain) == {"policy": None}
        await keep(domain, vcpus={"min": 1, "max": 1}, period=0.1)
        assert scaling._timer is not None
        await domain.destroy()
        assert scaling._timer is None


@pytest.mark.qemu
async def test_a_dry_run_only_tells(short_path: Path) -> None:
    async with opened(short_path) as (hypervisor, heard):
        domain = await hypervisor.create_xml(machine("told").replace("<os>", "<vcpu current='1'>4</vcpu><os>"))
        await keep(domain, vcpus={"min": 2, "max": 4}, period=0.1, dry_run=True)
        await until(lambda: decisions(heard))
        assert decisions(heard)[0]["verdict"] == "up"
        assert decisions(heard)[0]["amount"] == 2
        await asyncio.sleep(0.5)
        assert len(decisions(heard)) == 1
        assert len(domain.require_run().require_machine().vcpu_threads) == 1
        await domain.destroy()


@pytest.mark.qemu
async def test_paused_is_frozen(short_path: Path) -> None:
    async with opened(short_path) as (hypervisor, heard):
        domain = await hypervisor.create_xml(machine("still").replace("<os>", "<vcpu current='1'>4</vcpu><os>"))
        await domain.suspend()
        await keep(domain, vcpus={"min": 2, "max": 4}, period=0.1)
        await until(lambda: decisions(heard))
        assert [each["verdict"] for each in decisions(heard)] == ["frozen"]
        await domain.destroy()


@pytest.mark.qemu
async def test_the_budget_is_kept_and_a_broken_policy_hurts_nobody(short_path: Path) -> None:
    async with opened(short_path) as (hypervisor, _):
        await hypervisor.autoscaling.set_budget({"overcommit": 2.5, "reserve": 1})
        domain = await hypervisor.create_xml(machine("broken"))
        await domain.set_metadata(
            DomainMetadataType.ELEMENT, "<policy><vcpus min='9'/></policy>", "a", policy.NAMESPACE, LIVE
        )
        assert hypervisor.autoscaling.watches == {}
        await domain.destroy()
    async with opened(short_path) as (hypervisor, _):
        assert hypervisor.autoscaling.budget.overcommit == 2.5
        assert hypervisor.autoscaling.budget.reserve == 1


@pytest.mark.guest
@pytest.mark.timeout(300)
async def test_a_guest_in_need_of_memory_gets_it_and_gives_it_back(directory: Path) -> None:
    """What a guest needs beyond 512 MiB is given by virtio-mem, as its own count shows, and taken when it is idle."""
    async with modules.guest(directory, modules.GROWING, mib=512) as (domain, heard):
        total = await modules.total(domain)
        await sh(domain, "mkdir /h; mount -t tmpfs -o size=90% h /h; dd if=/dev/zero of=/h/hog bs=1M count=250")
        # 4 GiB is more than the machine can have: it is scaled up to what it can.
        bounds = {"min": 448 << 10, "max": 4 << 20, "target": 75}
        await keep(domain, memory=bounds, period=1, quiet=4, step=1)
        await until(lambda: any("done" in str(each.get("result")) for each in decisions(heard)), seconds=60)
        given = domain.require_run().balloon
        assert given >= (512 + 64) << 10
        run = domain.require_run()  # it may be given still more
        await settled(
            lambda: modules.total(domain), lambda now: abs(now - total - (run.balloon - (512 << 10)) // 1024) <= 16
        )
        up = next(each for each in decisions(heard) if each["verdict"] == "up")
        assert up["inputs"]["use"] > 75  # type: ignore[index]
        await sh(domain, "rm /h/hog")
        # What virtio-mem gave goes first; what is below the memory of the start the balloon takes.
        await until(lambda: domain.require_run().balloon == 448 << 10, seconds=120)
        await modules.counts(domain, total - 64, around=16)
        assert "<current unit='KiB'>0</current>" in domain.xml()


@pytest.mark.qemu
async def test_frozen_while_a_long_job_holds_the_domain_and_when_the_agent_is_lost(short_path: Path) -> None:
    """Whatever job moves, saves or copies a domain, which are those that libvirt has a word for."""
    long = (DomainJobOperation.SAVE, DomainJobOperation.SNAPSHOT, DomainJobOperation.MIGRATION_OUT)
    async with opened(short_path) as (hypervisor, _):
        channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        text = machine("held", devices=channel).replace("<os>", "<vcpu current='1'>4</vcpu><os>")
        domain = await hypervisor.create_xml(text)
        await keep(domain, vcpus={"min": 1, "max": 4}, period=0.1, dry_run=True)

        def reason() -> str:
            decision = hypervisor.autoscaling.show(domain)["vcpus"]["decision"]
            return f"{decision['verdict']}: {decision['reason']}" if decision else ""

        for operation in long:
            async with domain.jobs.hold("copy", operation=operation):
                await until(lambda: reason() == "frozen: copy is under way")
                assert domain.job_info().operation == operation
            await until(lambda: reason().startswith("hold: "))
        async with domain.jobs.hold("save a setting"):  # one that is soon over does not count
            for _ in range(6):  # some rounds
                await asyncio.sleep(0.05)
                assert not reason().startswith("frozen: ")
        agent = domain.require_run().agent
        assert agent is not None
        agent.port_open = True
        await until(lambda: hypervisor.autoscaling.watches[domain.uuid].agent_seen)
        agent.port_open = False
        await until(lambda: reason() == "frozen: its guest agent is gone")
        await domain.destroy()
