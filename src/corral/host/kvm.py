"""Whether this machine's KVM is there, may be used, and is fast.

On some machines `/dev/kvm` opens and creates machines, but runs them in software a thousand times too slow. So KVM is
not assumed: a short-lived process (`kvm_loop.py`, run by path) counts 20,000 turns of a loop in a 64-bit virtual CPU
and times them. A hang or a crash of that process harms nobody; it is killed at its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import stat
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from corral.host.cpu import read_cpu
from corral.host.pmu import PMU, from_cpuid
from corral.host.tsc import TSC

DEVICE = Path("/dev/kvm")
TURNS = 20_000
FAST_SECONDS = 0.001
"""The longest time for `TURNS` turns that counts as fast.

Real hardware takes about 10 µs, software emulation of the instructions 10 ms or far more: the limit lies between."""
HARDWARE_SECONDS = 0.00001
DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class KVM:
    """What the probe found.

    `present`: the device node exists. `usable`: a machine could be made and its CPU ran. `fast`: it ran at the
    hardware's speed. `loop_seconds`: the time of 20,000 turns, None when they never ended. `reason`: one sentence
    that says why type kvm is offered or not, for a person.
    `max_vcpus`, `x2apic` (interrupts reach APIC ids beyond 255), `tsc`, `pmu` (what a guest can have) and
    `pmu_capability` (KVM_CAP_PMU_CAPABILITY: 0 where the module has no PMU or has it switched off) are the kernel's
    own answers, known when a machine could be made.
    """

    present: bool
    usable: bool
    fast: bool
    loop_seconds: float | None
    reason: str
    max_vcpus: int = 0
    x2apic: bool = False
    tsc: TSC = field(default_factory=TSC)
    pmu: PMU = field(default_factory=PMU)
    pmu_capability: int = 0

    def offered(self, *, allow_slow: bool = False) -> bool:
        """Whether domains of type kvm may run here; `allow_slow` accepts a KVM that works but is slow."""
        return self.usable and (self.fast or allow_slow)

    def vcpus(self, most: int) -> int:
        """How many vCPUs a machine that can have `most` gets of this kernel."""
        return min(most, self.max_vcpus) if self.max_vcpus else most


async def probe(cache_dir: Path | None = None, *, device: Path = DEVICE, deadline: float = DEADLINE) -> KVM:
    """Find out about KVM; an answer of a CPU that ran is kept in `cache_dir` until the next boot.

    Never raises for what KVM does; waits at most `deadline` seconds.
    """
    obstacle = _obstacle(device)
    if obstacle is not None:
        return obstacle
    cache = cache_dir / "kvm.json" if cache_dir is not None else None
    key = _key(device)
    if cache is not None and (known := _cached(cache, key)) is not None:
        return known
    kvm = judge(device, await _measure(device, deadline))
    if cache is not None and kvm.usable:
        _keep(cache, key, kvm)
    return kvm


def _obstacle(device: Path) -> KVM | None:
    """What can be said without opening a machine: no node, no right, no such CPU to emulate."""
    try:
        mode = device.stat().st_mode
    except FileNotFoundError:
        reason = f"{device} does not exist: virtualization is off in the firmware, or the module kvm is not loaded"
        return KVM(False, False, False, None, reason)
    except OSError as error:
        return KVM(False, False, False, None, f"{device}: {error.strerror}")
    if not stat.S_ISCHR(mode):
        return KVM(False, False, False, None, f"{device} is not a character device")
    if platform.machine() != "x86_64":
        return KVM(True, False, False, None, f"Corral can test KVM on x86_64 only, this is {platform.machine()}")
    if not os.access(device, os.R_OK | os.W_OK):
        able = not {"vmx", "svm"}.isdisjoint(read_cpu().flags)
        remedy = "on Debian: join the group kvm" if able else "which would be slow: this processor shows no vmx or svm"
        return KVM(True, False, False, None, f"this user may not open {device} ({remedy})")
    return None


async def _measure(device: Path, deadline: float) -> dict[str, Any]:
    """Run the counting program; its answer, or an `error` of ours in the same shape."""
    program = Path(__file__).with_name("kvm_loop.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", str(program), str(device), str(TURNS)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(deadline):
            output, _ = await process.communicate()
    except TimeoutError:
        return {"error": f"the virtual CPU did not count to {TURNS:,} within {deadline:g} seconds", "seconds": None}
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        answer = json.loads(output)
    except ValueError:
        return {"error": f"the test program ended with status {process.returncode}", "seconds": None}
    return answer if isinstance(answer, dict) else {"error": "the test program answered nonsense", "seconds": None}


def judge(device: Path, answer: dict[str, Any]) -> KVM:
    """The verdict on the counting program's answer."""
    if answer.get("error") is not None:
        return KVM(True, False, False, None, f"{device} is there, but {answer['error']}")
    seconds = float(answer["seconds"])
    fast = seconds <= FAST_SECONDS
    if fast:
        reason = f"{device} ran {TURNS:,} turns of a loop in {seconds * 1e6:.0f} µs"
    else:
        times = round(seconds / HARDWARE_SECONDS, -2)
        reason = (
            f"{device} opens, but runs machines in software: {TURNS:,} turns of a loop took {seconds * 1e3:.1f} ms, "
            f"some {times:,.0f} times as long as on a processor that virtualizes"
        )
    return KVM(
        present=True,
        usable=True,
        fast=fast,
        loop_seconds=seconds,
        reason=reason,
        max_vcpus=int(answer.get("max_vcpus", 0)),
        x2apic=bool(answer.get("x2apic_api")),
        tsc=TSC(int(answer.get("tsc_khz", 0)), answer.get("tsc_scaling", 0) > 0),
        pmu=from_cpuid(answer.get("cpuid", ())),
        pmu_capability=int(answer.get("pmu_capability", 0)),
    )


def _key(device: Path) -> str:
    """What must be the same for an old answer to hold: this boot, this device node (made anew with the module)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    facts = device.stat()
    return f"{boot}:{facts.st_rdev}:{facts.st_ino}:{facts.st_ctime_ns}"


def _cached(cache: Path, key: str) -> KVM | None:
    try:
        stored = json.loads(cache.read_bytes())
        facts = stored["kvm"]
        facts |= {"tsc": TSC(**facts["tsc"]), "pmu": PMU(**facts["pmu"])}
        return KVM(**facts) if stored["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(cache: Path, key: str, kvm: KVM) -> None:
    """Write the answer, whole or not at all; a full disk only costs the next start a new measurement."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, prefix=cache.name, delete=False) as file:
            json.dump({"key": key, "kvm": asdict(kvm)}, file)
        Path(file.name).replace(cache)
