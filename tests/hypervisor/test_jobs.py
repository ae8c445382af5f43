"""One change at a time, in order, with a deadline that names who is in the way."""

from __future__ import annotations

import asyncio

import pytest

from corral.errors import OperationTimeout
from corral.hypervisor.jobs import JobSlot


async def test_changes_run_one_after_another_in_the_order_of_asking() -> None:
    slot, order, inside = JobSlot(), [], 0

    async def change(number: int) -> None:
        nonlocal inside
        async with slot.hold(f"change {number}"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    await asyncio.gather(*(change(number) for number in range(20)))
    assert order == list(range(20))
    assert slot.holder is None


async def test_a_stuck_change_makes_the_next_fail_naming_it() -> None:
    slot = JobSlot()
    async with slot.hold("start"):
        with pytest.raises(OperationTimeout, match=r"cannot acquire state change lock \(held by start for 0 s\)"):
            async with slot.hold("destroy", patience=0.02):
                pass
        assert slot.holder is not None and slot.holder.what == "start"
    async with slot.hold("destroy", patience=0.02):
        assert slot.holder.what == "destroy"


async def test_a_waiter_that_gives_up_does_not_keep_the_slot() -> None:
    slot = JobSlot()

    async def wait() -> None:
        async with slot.hold("waits"):
            raise AssertionError("cancelled before its turn")

    async with slot.hold("first"):
        waiters = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
    async with slot.hold("next", patience=0.02):
        pass


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_hands_it_on() -> None:
    slot = JobSlot()
    done = []

    async def change(name: str) -> None:
        async with slot.hold(name, patience=1):
            done.append(name)

    async with slot.hold("first"):
        unlucky = asyncio.create_task(change("unlucky"))
        lucky = asyncio.create_task(change("lucky"))
        await asyncio.sleep(0)
    unlucky.cancel()  # its turn has been granted, it has not run yet
    await asyncio.gather(unlucky, lucky, return_exceptions=True)
    assert done == ["lucky"]
    assert slot.holder is None


async def test_the_slot_is_free_after_a_change_that_failed() -> None:
    slot = JobSlot()
    with pytest.raises(ValueError, match="broken"):
        async with slot.hold("fails"):
            raise ValueError("broken")
    assert slot.holder is None
