"""A domain under the host's `perf`: exits counted, stacks sampled, with the guest's own symbols by its agent."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.errors import CorralError, InvalidArgument, OperationInvalid, OperationUnsupported
from corral.host import perf
from corral.host.perf import Symbols
from corral.host.perf_output import most_frequent
from corral.hypervisor.guest import guest_files

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain

#: Bounds of what a client may ask for.
LONGEST = 600.0
FREQUENCY_MAX = 9999
#: Bytes of a file of the guest's that are fetched at most.
FILE_MAX = 48 << 20
#: Seconds that the fetching may take, and one piece of it.
FETCHING, PIECE_TIMEOUT = 60.0, 20.0
#: Characters of stacks that one answer carries; a string on the wire has 4 MiB at most.
STACKS_MAX = 3 << 20


async def stat(domain: Domain, seconds: float) -> dict[str, Any]:
    """The domain's exits by reason over so many seconds."""
    if domain.definition.document.type != "kvm":
        raise OperationUnsupported(
            f"{domain.name} runs in software emulation (type '{domain.definition.document.type}'): it has no exits",
            hint="corral perf record shows where its time goes",
        )
    counted = await perf.stat(_pid(domain, seconds), seconds)
    by_time = sorted(counted.spans.items(), key=lambda each: (each[0][0], -each[1].total, -each[1].count))
    rows = [
        {
            "kind": kind,
            "reason": reason,
            "count": span.count,
            "total": round(span.total, 9),
            "min": round(span.shortest, 9),
            "max": round(span.longest, 9),
            "mean": round(span.total / span.timed, 9) if span.timed else 0.0,
        }
        for (kind, reason), span in by_time
    ]
    return {"seconds": seconds, "exits": rows, "events": dict(counted.events.most_common())}


async def record(domain: Domain, seconds: float, frequency: int, *, symbols: bool) -> dict[str, Any]:
    """Where the domain's time goes over so many seconds: stacks of host and guest, the most frequent first."""
    if not 1 <= frequency <= FREQUENCY_MAX:
        raise InvalidArgument(f"a frequency is 1 to {FREQUENCY_MAX} a second, not {frequency}")
    pid = _pid(domain, seconds)
    perf.require(tracepoints=False)
    with tempfile.TemporaryDirectory(prefix="corral-symbols-") as directory:
        found, why_not = None, "not asked for"
        if symbols and domain.definition.document.type != "kvm":
            why_not = "the guest runs in software emulation, where its code is QEMU's"
        elif symbols:
            found, why_not = await fetch_symbols(domain, Path(directory))
        sampled = await perf.record(pid, seconds, frequency, found)
    kept, left_out = await asyncio.to_thread(most_frequent, sampled, STACKS_MAX)
    return {
        "seconds": seconds,
        "samples": sampled.samples,
        "guest_samples": sampled.guest,
        "left_out": left_out,
        "guest_symbols": found is not None,
        "no_symbols": why_not,
        "stacks": kept,
    }


def _pid(domain: Domain, seconds: float) -> int:
    if not 0.01 <= seconds <= LONGEST:
        raise InvalidArgument(f"the time must be 0.01 to {LONGEST:g} s, not {seconds:g}")
    run = domain.require_run()
    if run.process is None:
        raise OperationInvalid("domain is still being started")
    return run.process.pid


async def fetch_symbols(domain: Domain, directory: Path) -> tuple[Symbols | None, str]:
    """The guest's symbols in files below `directory`, or why there are none."""
    agent = domain.require_run().agent
    if agent is None:
        return None, "the machine has no guest agent"
    files = Symbols(directory / "kallsyms", directory / "modules")
    try:
        async with asyncio.timeout(FETCHING):
            for path in (files.kallsyms, files.modules):
                content = await guest_files.read(agent, f"/proc/{path.name}", limit=FILE_MAX, timeout=PIECE_TIMEOUT)
                await asyncio.to_thread(path.write_bytes, content)
    except TimeoutError:
        return None, f"the guest agent has not sent them within {FETCHING:g} s"
    except CorralError as error:
        return None, str(error)
    return files, ""
