"""Typing on a keyboard made here until the guest has taken every key, which its lamps tell.

A guest polls a keyboard before it listens: Linux drops what comes in the first 50 ms, and a keyboard that leaves takes
what QEMU has fetched of it along. Only one thing that a device can see comes from whoever reads the keys: the lamp that
Num Lock switches (HID 1.11, 7.2.2 and appendix C). So Num Lock is pressed before the text and after it, twice each
time, and every press is to be answered; one that is not was not heard, and is made again.

QEMU's UHCI and EHCI, other than its xHCI, have the polling stopped when a busy guest is late, and what was fetched is
lost. The device is told of that: then it is not certain that all keys arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from corral.errors import OperationTimeout
from corral.usb.hid import Keyboard, unnoticed
from corral.usb.keys import NUM_LOCK

FETCH_TIMEOUT: Final = 30.0
"""Seconds in which a guest fetches nothing before it is given up."""
FIRST_KNOCK: Final = 0.25
"""Seconds that the first press of Num Lock has for its answer; each further one has twice as many."""
KNOCKS: Final = 5
"""Presses without an answer, after almost eight seconds of which the guest has no lamps: firmware and boot loaders."""
LINGER: Final = 2.0
"""Seconds for such a guest to take what QEMU holds for it."""


async def type_text(keyboard: Keyboard, text: str) -> bool:
    """Type on a keyboard that was plugged in; whether the guest's lamps say that it took all of it.

    False for a guest that lights no lamps, or did not after the text, or stopped fetching in the midst of it: it has
    fetched the keys, and no more is known.
    OperationTimeout when it does not even fetch them.
    """
    changed = asyncio.Event()
    keyboard.noticed = changed.set
    try:
        await _fetched(keyboard, changed, lambda: keyboard.polled)
        answered = await _knock(keyboard, changed) and await _knock(keyboard, changed)
        interrupted = keyboard.interrupted
        keyboard.type(text)
        await _fetched(keyboard, changed, lambda: not keyboard.waiting)
        if answered and await _knock(keyboard, changed) and await _knock(keyboard, changed):
            return keyboard.interrupted == interrupted
        await asyncio.sleep(LINGER)
        return False
    finally:
        keyboard.noticed = unnoticed


async def _fetched(keyboard: Keyboard, changed: asyncio.Event, true: Callable[[], bool]) -> None:
    """Wait for what the guest brings about by fetching reports."""
    while not true():
        if not await _soon(changed, FETCH_TIMEOUT):
            raise OperationTimeout("the guest does not fetch what the keyboard types", hint="has it booted?")


async def _knock(keyboard: Keyboard, changed: asyncio.Event) -> bool:
    """Press Num Lock, and let it go, until its lamp answers."""
    before = keyboard.lamps & 1
    for attempt in range(KNOCKS):
        keyboard.press(0, NUM_LOCK)
        keyboard.release()
        deadline = asyncio.get_running_loop().time() + FIRST_KNOCK * 2**attempt
        while keyboard.lamps & 1 == before or keyboard.waiting:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or not await _soon(changed, left):
                break
        else:
            return True
    return False


async def _soon(changed: asyncio.Event, seconds: float) -> bool:
    """Whether the keyboard notices something in time."""
    changed.clear()
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return False
    return True
