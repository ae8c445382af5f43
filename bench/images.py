"""How fast a guest's disks are: qcow2 (its clusters allocated) against raw, by I/O engine. `python -m bench.images`.

The tiny guest measures itself, with ioping past its cache: one request at a time, sequential ones of 256 KiB and random
ones of 4 KiB. Raw and qcow2 take turns, so that what else the host does hits both alike; the ratio is the
median of the rounds' own.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from corral.client import connect
from corral.client.domain import Domain
from corral.errors import OperationFailed
from corral.guests import tiny
from corral.host.io_engines import engines
from labs import corrald

SIZE = 64 << 20
TARGET = 0.9
KINDS = ("raw", "qcow2")
ENGINES: dict[str, str] = {
    "threads": "io='threads'",
    "io_uring": "io='io_uring'",
    "native": "io='native' cache='none'",
}
"""What the document says of each engine."""
WORK = {
    "sequential read": ("-L -s 256k", 4),
    "sequential write": ("-L -s 256k -WWW", 1),
    "random read": ("-s 4k", 8),
    "random write": ("-s 4k -WWW", 2),
}
"""ioping's options, and how many times as many requests as the slowest kind of work gets."""


@dataclass(frozen=True)
class Disk:
    """One disk of the guest: what it is, and its name there."""

    engine: str
    kind: str
    name: str


def missing() -> str | None:
    """Why this cannot be measured here, or None."""
    for program in ("ioping", "qemu-img"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install {program if program == 'ioping' else 'qemu-utils'})"
    return None


def make_images(directory: Path) -> list[Disk]:
    """A full raw and a full qcow2 image for each engine, of the same bytes."""
    content = random.Random(1).randbytes(SIZE)
    disks: list[Disk] = []
    for engine in ENGINES:
        first = directory / f"{engine}.raw"
        first.write_bytes(content)
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(first), str(directory / f"{engine}.qcow2")]
        subprocess.run(command, check=True, timeout=120)
        disks += [Disk(engine, kind, f"vd{chr(ord('a') + len(disks) + number)}") for number, kind in enumerate(KINDS)]
    return disks


def document(built: tiny.Tiny, disks: list[Disk], directory: Path) -> str:
    """The guest with all disks; each has an I/O thread of its own."""
    xml = tiny.document("images", tiny=built).to_xml()
    devices = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{disk.kind}' iothread='{number}' "
        f"{ENGINES[disk.engine]}/><source file='{directory / disk.engine}.{disk.kind}'/>"
        f"<target dev='{disk.name}' bus='virtio'/></disk>"
        for number, disk in enumerate(disks, 1)
    )
    threads = f"<iothreads>{len(disks)}</iothreads>"
    return xml.replace("<devices>", f"<devices>{devices}").replace("  <os>", f"  {threads}<os>", 1)


async def measure_all(vm: Domain, disks: Iterable[Disk], work: str, requests: int) -> dict[Disk, float]:
    """Bytes a second of each disk, one after another."""
    options, times = WORK[work]
    ioping = f"/tmp/ioping -q -B -D -i 0 -c {requests * times} -S {SIZE} {options}"
    order = list(disks)
    script = f"for name in {' '.join(disk.name for disk in order)}; do {ioping} /dev/$name || exit 1; done"
    result = await vm.exec(["sh", "-c", script], agent_timeout=120)
    if result.status:
        raise OperationFailed(f"ioping failed in the guest: {result.stderr.decode()}")
    return {disk: float(line.split()[3]) for disk, line in zip(order, result.text.splitlines(), strict=True)}


Rates = dict[tuple[str, str, str], list[float]]
"""Engine, kind, work → bytes a second of each round."""


async def measure(requests: int, rounds: int) -> Rates:
    """The rates of every disk at every kind of work."""
    built = await tiny.build()
    # Direct I/O does not work everywhere that temporary files may be.
    with tempfile.TemporaryDirectory(prefix="cb", dir="/var/tmp") as name, corrald.running(Path(name)) as daemon:
        directory = Path(name)
        await asyncio.to_thread(directory.chmod, 0o755)
        disks = await asyncio.to_thread(make_images, directory)
        async with connect(daemon.uri) as host:
            vm = await host.create(document(built, disks, directory))
            try:
                await vm.wait_for_agent(120)
                ioping = Path(str(shutil.which("ioping")))
                await vm.write_file("/tmp/ioping", await asyncio.to_thread(ioping.read_bytes))
                await vm.exec(["chmod", "755", "/tmp/ioping"])
                found: Rates = {}
                for turn in range(rounds):
                    for work in WORK:
                        order = disks[turn % len(disks) :] + disks[: turn % len(disks)]
                        order = order if turn % 4 < 2 else order[::-1]
                        for disk, rate in (await measure_all(vm, order, work, requests)).items():
                            found.setdefault((disk.engine, disk.kind, work), []).append(rate)
            finally:
                await vm.destroy()
    return found


def table(rates: Rates) -> Table:
    """A row for each engine and kind of work: both rates, and qcow2's share of raw's."""
    title = f"a guest's disks, MiB/s; qcow2 shall reach {TARGET} of raw; unless told this host uses {engines()[0]}"
    shown = Table(title=title, title_justify="left")
    for heading in ("engine", "work", *KINDS, "ratio", ""):
        shown.add_column(heading, justify="left" if heading in ("engine", "work", "") else "right")
    for engine in ENGINES:
        for work in WORK:
            raw, qcow2 = (rates[engine, kind, work] for kind in KINDS)
            ratio = statistics.median(ours / theirs for ours, theirs in zip(qcow2, raw, strict=True))
            cells = (f"{statistics.median(each) / (1 << 20):.1f}" for each in (raw, qcow2))
            shown.add_row(engine, work, *cells, f"{ratio:.2f}", "met" if ratio >= TARGET else "MISSED")
    return shown


def measured(*, quick: bool) -> Table:
    """The table of a new measurement: two minutes, or half of one."""
    return table(asyncio.run(measure(20, 3) if quick else measure(100, 12)))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.images", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that the bench works")
    options = parser.parse_args()
    if reason := missing():
        print(f"the guest's disks are not measured: {reason}")
        return 0
    Console(width=120).print(measured(quick=options.quick))
    return 0


if __name__ == "__main__":
    sys.exit(main())
