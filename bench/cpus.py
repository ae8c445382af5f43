"""What changing vCPUs and watching machines costs: `python -m bench.cpus`, with the tiny guest and idle machines.

From `setvcpus` to the vCPU being online in the guest (the call returns then; the guest's own count is checked), and
what `corral top` costs the daemon while it reads many machines every two seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import domains
from bench.measures import START_PAUSED, STATS_ALL
from corral.client import connect
from corral.guests import tiny
from labs import corrald
from labs.wire import Wire

MACHINES = 100
DELAY = 2.0
TARGET_PERCENT = 5.0
_TICK = os.sysconf("SC_CLK_TCK")


async def _plug(daemon: corrald.Daemon, count: int) -> list[float]:
    """Milliseconds for each of `count` vCPUs, plugged one after the other into one guest."""
    document = tiny.document("grows", tiny=await tiny.build(), cpus=1, max_cpus=1 + count).to_xml()
    times = []
    async with connect(daemon.uri) as host:
        domain = await host.create(document)
        await domain.wait_for_agent(120)
        for wanted in range(2, 2 + count):
            began = time.perf_counter()
            await domain.set_vcpus(wanted)
            times.append((time.perf_counter() - began) * 1000)
            counted = int((await domain.exec(["nproc"])).stdout)
            if counted != wanted:
                raise SystemExit(f"the guest counts {counted} CPUs instead of {wanted}")
        await domain.destroy()
    return times


def _spent(pid: int) -> float:
    """Seconds of CPU that a process has used (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _top(daemon: corrald.Daemon, directory: Path, machines: int, seconds: float) -> tuple[float, float]:
    """(percent of a core that the daemon uses while `corral top` reads, the same while nobody does)."""
    driver = "qemu:///system" if os.geteuid() == 0 else "qemu:///session"
    wire = Wire(daemon.socket, driver)
    for number in range(machines):
        wire.call("domain_create_xml", xml_desc=domains.document(number, directory), flags=START_PAUSED)
    # Its first answer is the dearest, and comes when all that the starts have left to do is done.
    wire.call("connect_get_all_domain_stats", doms=[], stats=STATS_ALL, flags=0)
    idle = _share(daemon.pid, lambda: time.sleep(seconds))
    command = [sys.executable, "-m", "corral.cli", "-c", daemon.uri, "top", "--format", "json"]
    command += ["--delay", f"{DELAY:g}", "--count", str(max(1, round(seconds / DELAY)))]
    busy = _share(daemon.pid, lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    wire.call_all("domain_destroy", [{"dom": domains.reference(number)} for number in range(machines)])
    wire.close()
    return busy, idle


def _share(pid: int, work: Callable[[], object]) -> float:
    before, began = _spent(pid), time.perf_counter()
    work()
    return 100 * (_spent(pid) - before) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.cpus", description=__doc__)
    parser.add_argument("--plugs", type=int, default=5)
    parser.add_argument("--machines", type=int, default=MACHINES)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cb") as directory, corrald.running(Path(directory)) as daemon:
        times = asyncio.run(_plug(daemon, options.plugs))
        print(
            f"a vCPU is online in the guest {statistics.median(times):.0f} ms after setvcpus "
            f"({min(times):.0f} to {max(times):.0f} ms, {len(times)} times, TCG)"
        )
        busy, idle = _top(daemon, Path(directory), options.machines, options.seconds)
        verdict = "met" if busy < TARGET_PERCENT else "MISSED"
        print(
            f"corral top with {options.machines} machines every {DELAY:g} s: the daemon uses {busy:.1f} % of a core, "
            f"{idle:.1f} % without it (target below {TARGET_PERCENT:g} %: {verdict})"
        )


if __name__ == "__main__":
    main()
