"""Looking out for the next call: only after calls that came close together, and only for a moment."""

from __future__ import annotations

import asyncio
import os
from time import monotonic

import pytest

from corral.daemon.lingering import CLOSE, WINDOW, Lingering

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on a single CPU it never does")


async def test_calls_far_apart_are_not_looked_out_for() -> None:
    lingering = Lingering(asyncio.get_running_loop())
    for _ in range(3):
        lingering.arrived(monotonic())
        await asyncio.sleep(5 * CLOSE)
    assert lingering.turns == 0


async def test_calls_close_together_are_for_a_moment() -> None:
    lingering = Lingering(asyncio.get_running_loop())
    lingering.arrived(monotonic())
    lingering.arrived(monotonic())
    await asyncio.sleep(20 * WINDOW)
    polled = lingering.turns
    assert polled > 0
    await asyncio.sleep(0.05)
    assert lingering.turns == polled
    lingering.arrived(monotonic())  # the first after a pause
    await asyncio.sleep(0.01)
    assert lingering.turns == polled
