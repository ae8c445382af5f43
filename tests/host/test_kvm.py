"""The KVM probe: what each kind of machine is told, and what this one is."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from corral.host import kvm
from corral.host.cpu import read_cpu

USABLE = {"error": None, "max_vcpus": 1024, "x2apic_api": 3, "tsc_khz": 2_600_000, "tsc_scaling": 1}
USABLE |= {"pmu_capability": 1, "cpuid": [[0xA, 0x07300802, 0, 0, 0x8603]]}


def test_hardware_is_offered() -> None:
    verdict = kvm.judge(kvm.DEVICE, USABLE | {"seconds": 0.000009})
    assert verdict.fast
    assert verdict.offered()
    assert "9 µs" in verdict.reason


def test_software_in_disguise_is_refused_and_says_why() -> None:
    verdict = kvm.judge(kvm.DEVICE, USABLE | {"seconds": 0.0103})
    assert verdict.usable
    assert not verdict.fast
    assert not verdict.offered()
    assert verdict.offered(allow_slow=True)
    assert "in software" in verdict.reason
    assert "10.3 ms" in verdict.reason


def test_a_machine_that_cannot_run_is_never_offered() -> None:
    verdict = kvm.judge(kvm.DEVICE, {"error": "the virtual CPU stopped with failed entry", "seconds": None})
    assert verdict.present
    assert not verdict.offered(allow_slow=True)
    assert "failed entry" in verdict.reason


async def test_no_device(tmp_path: Path) -> None:
    found = await kvm.probe(tmp_path, device=tmp_path / "kvm")
    assert not found.present
    assert "does not exist" in found.reason


async def test_not_a_device(tmp_path: Path) -> None:
    impostor = tmp_path / "kvm"
    impostor.write_text("")
    found = await kvm.probe(tmp_path, device=impostor)
    assert not found.present
    assert "not a character device" in found.reason


@pytest.mark.parametrize(("flags", "said"), [({"vmx"}, "join the group kvm"), ({"fpu"}, "shows no vmx or svm")])
async def test_no_right_to_open_it(monkeypatch: pytest.MonkeyPatch, flags: set[str], said: str) -> None:
    """Nobody is sent to a group that would not help."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(kvm, "read_cpu", lambda: replace(read_cpu(), flags=frozenset(flags)))
    answer = await kvm.probe(device=Path("/dev/null"))
    assert (answer.present, answer.usable) == (True, False)
    assert answer.reason.startswith("this user may not open /dev/null") and said in answer.reason


async def test_another_device_is_not_kvm(tmp_path: Path) -> None:
    found = await kvm.probe(tmp_path, device=Path("/dev/null"))
    assert found.present
    assert not found.usable
    assert not (tmp_path / "kvm.json").exists(), "a failure is asked again next time, not remembered"


async def test_a_hang_ends_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counting process is killed, and nothing waits for it."""
    stuck = tmp_path / "python"
    stuck.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(kvm.sys, "executable", str(stuck))
    start = time.monotonic()
    found = await kvm.probe(device=Path("/dev/null"), deadline=0.5)
    assert time.monotonic() - start < 5
    assert not found.usable
    assert "within 0.5 seconds" in found.reason
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def wait_for_text(path: Path) -> None:
    """Until another process has written the file, at most five seconds."""
    for _ in range(500):
        if path.exists() and path.read_text():
            return
        time.sleep(0.01)


async def test_cancelling_kills_the_counting_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = tmp_path / "python"
    stuck.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(kvm.sys, "executable", str(stuck))
    probe = asyncio.create_task(kvm.probe(device=Path("/dev/null")))
    await asyncio.to_thread(wait_for_text, tmp_path / "pid")
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_program_that_prints_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.sys, "executable", "/bin/echo")
    found = await kvm.probe(tmp_path, device=Path("/dev/null"))
    assert not found.usable
    assert "status 0" in found.reason


@pytest.mark.skipif(not os.access(kvm.DEVICE, os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened here")
async def test_this_machine_counts_in_64_bit_mode(tmp_path: Path) -> None:
    """The loop really runs: every turn is counted in a 64-bit register, in a time that fits the verdict."""
    found = await kvm.probe(tmp_path)
    if not found.usable:
        pytest.skip(found.reason)
    assert found.loop_seconds is not None
    assert found.loop_seconds > 1e-6, "20,000 turns take a 20 GHz processor a microsecond"
    assert found.fast == (found.loop_seconds <= kvm.FAST_SECONDS)
    assert found.max_vcpus > 0


@pytest.mark.skipif(not os.access(kvm.DEVICE, os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened here")
async def test_the_answer_is_kept_for_this_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await kvm.probe(tmp_path)
    if not found.usable:
        pytest.skip(found.reason)
    monkeypatch.setattr(kvm.sys, "executable", "/bin/false")
    assert await kvm.probe(tmp_path) == found
    cache = tmp_path / "kvm.json"
    stored = json.loads(cache.read_text())
    cache.write_text(json.dumps(stored | {"key": "another boot"}))
    assert not (await kvm.probe(tmp_path)).usable, "an answer of another boot is not believed"
    cache.write_text("{ damaged")
    assert not (await kvm.probe(tmp_path)).usable
