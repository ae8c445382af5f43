"""Records what the autoscaler was told and decided for a real guest, for `test_autoscaler.py` to decide again.

`PYTHONPATH=src:. python tests/hypervisor/traces/record.py NAME HOST-BOUND`: the tiny guest, one vCPU of at most two, is
busy for 20 seconds and then quiet, at a short pace. NAME.json is written beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.hypervisor.inside import guest, sh
from tests.hypervisor.life import end_machines
from tests.hypervisor.test_scaling import BUSY, CALM, keep
from tests.waiting import until

from corral.hypervisor.scaling import autoscaler

PACE = {"period": 1, "quiet": 15, "step": 3}


async def record(name: str, host_bound: int) -> None:
    """One guest, two minutes at most: until it has grown and shrunk again, or for 40 seconds of being host-bound."""
    rounds: list[dict[str, Any]] = []
    original = autoscaler.decide

    def decide(samples: Any, limits: Any, pace: Any, now: float, **options: Any) -> autoscaler.Decision:
        decision = original(samples, limits, pace, now, **options)
        if "allowed" in options:  # the other call asks what would be wanted without a budget
            outcomes = [asdict(each) for each in options["outcomes"]]
            rounds.append(
                {
                    "now": now,
                    "kept": len(samples),
                    "sample": asdict(samples[-1]),
                    "allowed": options["allowed"],
                    "outcomes": outcomes,
                }
                | {"verdict": decision.verdict, "amount": decision.amount, "reason": decision.reason}
            )
        return decision

    autoscaler.decide = decide
    with tempfile.TemporaryDirectory(prefix="cr") as directory:
        try:
            async with guest(Path(directory), most=2) as (domain, _):
                policy = {"min": 1, "max": 2, "target": 60}
                await keep(domain, vcpus=policy, host_bound=host_bound, **PACE)
                await sh(domain, BUSY)
                await asyncio.sleep(20)
                await sh(domain, CALM)
                with contextlib.suppress(TimeoutError):
                    grew = any(each["verdict"] == "up" for each in rounds)
                    await until(lambda: any(each["verdict"] == "down" for each in rounds), seconds=100 if grew else 20)
                await asyncio.sleep(3)
                limits, pace = asdict(autoscaler.Limits(1, 2, 60)), PACE | {"host_bound": host_bound}
        finally:
            end_machines(Path(directory))
    lines = ",\n".join(json.dumps(each) for each in rounds)
    text = f'{{"limits": {json.dumps(limits)}, "pace": {json.dumps(pace)}, "rounds": [\n{lines}\n]}}\n'
    Path(__file__).with_name(f"{name}.json").write_text(text)


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1], int(sys.argv[2])))
