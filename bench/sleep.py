"""How long a guest takes to fall asleep in memory and to wake: `python -m bench.sleep`, with the tiny guest.

A guest that sleeps twice in one run is at the mercy of its firmware, so each figure has a guest of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from corral.client import connect
from corral.guests import tiny
from labs import corrald

PM = "<pm><suspend-to-mem enabled='yes'/></pm>"
TARGET_MS = 50.0


async def _once(uri: str, document: str) -> tuple[float, float]:
    """(milliseconds until it sleeps, milliseconds until it runs again) of one guest."""
    async with connect(uri) as host:
        domain = await host.create(document)
        try:
            await domain.wait_for_agent(120)
            began = time.perf_counter()
            await domain.sleep("mem")
            asleep = time.perf_counter()
            await domain.wake()
            return (asleep - began) * 1000, (time.perf_counter() - asleep) * 1000
        finally:
            await domain.destroy()


async def _measure(repeats: int) -> None:
    guest = await tiny.build()
    document = tiny.document("sleeper", tiny=guest).to_xml().replace("<devices>", f"{PM}<devices>")
    with tempfile.TemporaryDirectory(prefix="cb") as directory, corrald.running(Path(directory)) as daemon:
        figures = [await _once(daemon.uri, document) for _ in range(repeats)]
    asleep, awake = (statistics.median(column) for column in zip(*figures, strict=True))
    print(f"falls asleep in {asleep:.0f} ms, wakes in {awake:.1f} ms (target {TARGET_MS:g} ms), {repeats} guests, TCG")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.sleep", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    asyncio.run(_measure(parser.parse_args().repeats))


if __name__ == "__main__":
    main()
