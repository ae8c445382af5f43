"""Stolen time: what a vCPU waited for a CPU of the host, as the host counts it and as the guest itself does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

from corral.client import connect
from corral.client.host import Host
from corral.constants import DomainStatsTypes
from corral.errors import ConfigUnsupported
from labs import corrald

from . import spinner

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]

SECONDS = 2.0
OFF = "<cpu mode='host-passthrough'><feature policy='disable' name='kvm-steal-time'/></cpu>"


@pytest.fixture
def daemon(short_path: Path) -> Iterator[corrald.Daemon]:
    """A daemon that uses KVM even where that is slow; /dev/kvm may be root's alone."""
    root = ("--qemu-user", "root") if os.geteuid() == 0 else ()
    with corrald.running(short_path, "--allow-slow-kvm", *root) as daemon:
        yield daemon


async def top(daemon: corrald.Daemon) -> dict[str, Mapping[str, Any]]:
    """What `corral top --guests` shows of each machine over SECONDS."""
    command = (sys.executable, "-m", "corral.cli", "-c", daemon.uri)
    command += ("top", "--guests", "--delay", f"{SECONDS:g}", "--format", "json")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return {load["name"]: load for load in json.loads(output)}


async def delays(host: Host) -> dict[str, int]:
    """Nanoseconds that each machine's vCPU has waited, from the bulk statistics."""
    answer = await host.call("connect_get_all_domain_stats", doms=[], stats=DomainStatsTypes.VCPU, flags=0)
    return {
        str(record.dom.name): next(param.value[1] for param in record.params if param.field == "vcpu.0.delay")
        for record in answer.retStats
    }


def undisturbed(name: str) -> None:
    """Let a machine's vCPU wait for its like only, and not for this host's other work, as far as we may."""
    for task in Path("/proc").glob("[0-9]*/task/*"):
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().startswith("CPU 0/") and f"guest={name},".encode() in (
                task / "cmdline"
            ).read_bytes():
                os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


@contextlib.asynccontextmanager
async def busy(host: Host, directory: Path, kind: str, *names: str, processor: str = "") -> AsyncIterator[list[Path]]:
    """Machines that never rest, all on one CPU of the host; where each tells of its stolen time."""
    firmware, cpu = directory / "spinner.rom", max(os.sched_getaffinity(0))
    firmware.write_bytes(spinner.image())
    told = [directory / name for name in names]
    domains = [
        await host.create(spinner.document(path.name, kind, firmware, path, cpu=cpu, processor=processor))
        for path in told
    ]
    await until(lambda: all(path.exists() and b"\n" in path.read_bytes() for path in told), seconds=60)
    for domain in domains:
        undisturbed(domain.name)
    yield told
    for domain in domains:
        await domain.destroy()


@pytest.mark.parametrize("kind", ["kvm", "qemu"])
async def test_two_guests_on_one_cpu_wait_half_of_their_time_and_a_lone_one_hardly(
    kind: str, daemon: corrald.Daemon, short_path: Path
) -> None:
    if kind == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm cannot be opened")
    async with connect(daemon.uri) as host:
        async with busy(host, short_path, kind, "one", "other") as told:
            before, counted = await delays(host), [spinner.stolen(path) for path in told]
            shown = await top(daemon)
            after, counts = await delays(host), [spinner.stolen(path) for path in told]
            for load in shown.values():
                assert load["steal"] > 35, shown  # what this machine does beside can only make it more
                assert load["steal"] + load["each_vcpu"][0]["use"] > 85, shown  # it ran or it waited
                assert load["each_vcpu"][0]["halted"] is False
                assert load["guest_steal_untold"] is (kind == "qemu")
            for path, then, now in zip(told, counted, counts, strict=True):
                waited = after[path.name] - before[path.name]
                assert waited > 0.35 * SECONDS * 1e9
                if kind == "kvm":
                    assert then is not None and now is not None
                    assert abs(now - then - waited) < 0.25 * waited  # the guest's own count says the same
                else:
                    assert now is None  # software emulation tells a guest nothing
        async with busy(host, short_path, kind, "lone"):
            # This machine has others' work to do as well: one undisturbed moment is enough.
            async with asyncio.timeout(90):
                while (load := (await top(daemon))["lone"])["steal"] > 10 or load["each_vcpu"][0]["use"] <= 70:
                    pass


async def test_stolen_time_can_be_kept_from_a_guest(daemon: corrald.Daemon, short_path: Path) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm cannot be opened")
    async with connect(daemon.uri) as host, busy(host, short_path, "kvm", "untold", processor=OFF) as (told,):
        assert spinner.stolen(told) is None
        for policy in ("require", "optional"):
            asked = spinner.document("asks", "kvm", told, told, cpu=0, processor=OFF.replace("disable", policy))
            with pytest.raises(ConfigUnsupported, match=f"service of KVM's: .*'{policy}' means nothing"):
                await host.create(asked)
