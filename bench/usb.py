"""A storage stick in Python against QEMU's own usb-storage: the same controller, the same guest, files side by side.

python -m bench.usb [--rounds N]

Prints MB/s of 64 MiB written (with fsync) and read back past the guest's cache, the median of the rounds, the ratio,
of which the target is a half, and the share of the time that our process computed: the rest is the guest's, QEMU's and
the kernel's, which no other program at this socket would save. The two take turns, so that other work on the machine
hits both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import uvloop
from tests.usb.guestlab import EHCI, XHCI, Guest, booted

from corral import usb

SIZE = 64
"""MiB that are moved."""
TARGET = 0.5


async def seconds(guest: Guest, command: str) -> float:
    """How long a command takes in the guest, by its own clock."""
    script = f"echo 3 >/proc/sys/vm/drop_caches; read a b </proc/uptime; {command} 2>/dev/null; read c d </proc/uptime"
    start, end = (await guest.sh(f"{script}; echo $a $c", 300)).split()[-2:]
    return float(end) - float(start)


async def compare(guest: Guest, bus: str, directory: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Median MB/s of both on one bus: who → direction → figure; and "share": of the time that we computed."""
    names = {}
    for who in ("corral", "qemu"):
        path = directory / f"{who}-{bus}"
        with path.open("wb") as file:
            file.truncate((SIZE + 1) << 20)
        names[who] = path
    execute = guest.machine.monitor.execute
    node = f"n{bus.replace('.', '')}"
    await execute("blockdev-add", {"driver": "file", "node-name": node, "filename": str(names["qemu"])})
    await execute("device_add", {"driver": "usb-storage", "id": f"d{node}", "drive": node, "bus": bus})
    # The fastest that the controller has, as QEMU's own does.
    speed = usb.Speed.SUPER if bus == XHCI else usb.Speed.HIGH
    async with guest.plugged(usb.MassStorage(names["corral"], speed=speed), bus):
        disks = {"corral": await guest.disk("USB stick"), "qemu": await guest.disk("QEMU HARDDISK")}
        found: dict[str, dict[str, list[float]]] = {who: {"write": [], "read": []} for who in (*disks, "share")}
        for _ in range(rounds):
            for who, disk in disks.items():
                for way, command in (
                    ("write", f"dd if=/dev/zero of=/dev/{disk} bs=1M count={SIZE} conv=fsync"),
                    ("read", f"dd if=/dev/{disk} of=/dev/null bs=1M count={SIZE}"),
                ):
                    computed = time.process_time()
                    elapsed = await seconds(guest, command)
                    found[who][way].append(SIZE / elapsed)
                    if who == "corral":
                        found["share"][way].append((time.process_time() - computed) / elapsed)
    await execute("device_del", {"id": f"d{node}"})
    await guest.until("cat /sys/block/sd*/device/model 2>/dev/null || echo none", "none")
    return {who: {way: statistics.median(all) for way, all in ways.items()} for who, ways in found.items()}


async def main() -> None:
    """Both controllers in one guest."""
    parser = argparse.ArgumentParser(prog="bench.usb", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cb") as name:
        async with booted() as guest:
            for bus in (EHCI, XHCI):
                figures = await compare(guest, bus, Path(name), options.rounds)
                for way in ("write", "read"):
                    ours, theirs = figures["corral"][way], figures["qemu"][way]
                    verdict = "meets" if ours >= TARGET * theirs else "misses"
                    print(
                        f"{bus} {way}: {ours:.1f} MB/s, usb-storage {theirs:.1f} MB/s, ratio {ours / theirs:.2f}: "
                        f"{verdict} the target of {TARGET}; we computed {figures['share'][way]:.0%} of the time",
                        flush=True,
                    )


if __name__ == "__main__":
    # The loop that the daemon and the client use.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
