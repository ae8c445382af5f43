"""perf on real machines: exits of one under KVM, however slow; stacks of one in emulation; events that are counted."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from corral.constants import DomainModificationImpact, DomainStatsTypes
from corral.errors import ArgumentUnsupported, HostError, InvalidArgument, OperationUnsupported
from corral.host import perf as host_perf
from corral.hypervisor.domain import Domain
from corral.hypervisor.figures import perf, perf_events
from corral.hypervisor.hypervisor import Hypervisor

from . import spinner
from .life import document, end_machines, opened, settings

pytestmark = pytest.mark.qemu

LIVE, CONFIG = DomainModificationImpact.LIVE, DomainModificationImpact.CONFIG


@pytest.fixture
def may_measure() -> None:
    try:
        host_perf.require(tracepoints=True)
    except (HostError, OperationUnsupported) as error:
        pytest.skip(f"perf: {error}")


async def test_exits_of_a_machine_under_kvm(short_path: Path, may_measure: None) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm cannot be opened")
    user = "root" if os.geteuid() == 0 else None
    hypervisor = await Hypervisor.open(replace(settings(short_path), allow_slow_kvm=True, qemu_user=user))
    try:
        domain = await hypervisor.create_xml(document("fast").replace("type='qemu'", "type='kvm'", 1))
        counted = await perf.stat(domain, 2.0)  # its firmware talks to devices in its first seconds
        assert counted["seconds"] == 2.0
        assert {row["kind"] for row in counted["exits"]} <= {"exit", "userspace"}
        io = next(row for row in counted["exits"] if row["reason"] in ("IO", "IO_INSTRUCTION"))
        assert io["count"] > 10
        assert 0 < io["min"] <= io["mean"] <= io["max"]
        await domain.destroy()
    finally:
        await hypervisor.close()
        end_machines(short_path)


async def test_stacks_of_a_machine_in_emulation(short_path: Path, may_measure: None) -> None:
    firmware, told, cpu = short_path / "spinner.rom", short_path / "told", max(os.sched_getaffinity(0))
    firmware.write_bytes(spinner.image())
    async with opened(short_path) as (hypervisor, _):
        domain = await hypervisor.create_xml(spinner.document("slow", "qemu", firmware, told, cpu=cpu))
        with pytest.raises(OperationUnsupported, match="software emulation"):
            await perf.stat(domain, 0.1)
        found = await perf.record(domain, 1.0, 499, symbols=True)
        assert found["samples"] == sum(count for _, count in found["stacks"])
        assert found["samples"] > 10  # of 499: it never rests, however many others want its CPU
        assert any(stack[0] == "CPU 0/TCG" for stack, _ in found["stacks"])
        assert found["no_symbols"]
        await domain.destroy()
        assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("corral-symbols-*"))  # noqa: ASYNC240


async def test_bounds(short_path: Path) -> None:
    async with opened(short_path) as (hypervisor, _):
        domain = await hypervisor.create_xml(document("bounds"))
        for seconds in (0.0, 1e9):
            with pytest.raises(InvalidArgument):
                await perf.record(domain, seconds, 99, symbols=False)
        with pytest.raises(InvalidArgument):
            await perf.record(domain, 1.0, 0, symbols=False)
        await domain.destroy()


def test_no_perf_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OperationUnsupported, match="perf is not installed") as caught:
        host_perf.require(tracepoints=True)
    assert "linux-perf" in str(caught.value.hint)


def test_no_permission_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/perf")
    monkeypatch.setattr(host_perf, "_may_measure", lambda: False)
    monkeypatch.setattr(host_perf, "_paranoid", lambda: 2)
    with pytest.raises(HostError, match=r"CAP_PERFMON.*perf_event_paranoid is 2"):
        host_perf.require(tracepoints=False)


async def figures(domain: Domain) -> dict[str, object]:
    return {name: value for name, _, value in await domain.stats(DomainStatsTypes.PERF)}


async def test_events_are_counted_and_kept(short_path: Path, may_measure: None) -> None:
    async with opened(short_path) as (hypervisor, _):
        domain = await hypervisor.define(document("counted"))
        await perf_events.change(domain, {"cpu_clock": True}, CONFIG)
        assert "<event name='cpu_clock' enabled='yes'/>" in domain.xml()
        await domain.create()
        assert perf_events.get(domain, LIVE)["cpu_clock"]
        first = await figures(domain)
        assert set(first) == {"perf.cpu_clock"}
        await perf_events.change(domain, {"context_switches": True, "cpu_clock": False}, LIVE)
        assert set(await figures(domain)) == {"perf.context_switches"}
        assert perf_events.get(domain, CONFIG)["cpu_clock"]
        with pytest.raises(ArgumentUnsupported, match="cmt"):
            await perf_events.change(domain, {"task_clock": True, "cmt": True}, LIVE)
        assert set(await figures(domain)) == {"perf.context_switches"}  # all of it or nothing
        await domain.destroy()
        assert hypervisor.perf._open == {}
