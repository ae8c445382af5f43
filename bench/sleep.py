"""How long a guest takes to fall asleep in memory and to wake: `python -m bench.sleep`, with the tiny guest."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from corral.client import connect
from corral.client.domain import Domain
from corral.guests import tiny
from labs import corrald

PM = "<pm><suspend-to-mem enabled='yes'/></pm>"
TARGET_MS = 50.0


async def _measure(repeats: int) -> None:
    guest = await tiny.build()
    document = tiny.document("sleeper", tiny=guest).to_xml().replace("<devices>", f"{PM}<devices>")
    figures = []
    with tempfile.TemporaryDirectory(prefix="cb") as directory, corrald.running(Path(directory)) as daemon:
        async with connect(daemon.uri) as host:
            domain = await host.create(document)
            for _ in range(repeats):
                await domain.wait_for_agent(120)
                figures.append(await _once(domain))
            await domain.destroy()
    asleep, awake = (statistics.median(column) for column in zip(*figures, strict=True))
    print(f"falls asleep in {asleep:.0f} ms, wakes in {awake:.1f} ms (target {TARGET_MS:g} ms), {repeats} times, TCG")


async def _once(domain: Domain) -> tuple[float, float]:
    """(milliseconds until it sleeps, milliseconds until it runs again)."""
    began = time.perf_counter()
    await domain.sleep("mem")
    asleep = time.perf_counter()
    await domain.wake()
    return (asleep - began) * 1000, (time.perf_counter() - asleep) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.sleep", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    asyncio.run(_measure(parser.parse_args().repeats))


if __name__ == "__main__":
    main()
