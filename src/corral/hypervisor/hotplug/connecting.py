"""Network back ends that are still connecting when they are to be taken out.

QEMU connects in a thread of its own, which knows nothing of the back end's end: it ends QEMU by SIGSEGV (seen with
QEMU 10.0, where a plug of a card on passt was refused and undone at once).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

from corral.errors import CorralError

if TYPE_CHECKING:
    from corral.qemu.machine import Machine

#: Seconds that we wait at most: one whose other side is away tries again and again, and seldom is in the middle of it.
PATIENCE = 1.0
#: Seconds between two looks. QEMU has an event for those that connect, but none for those that cannot.
_LOOK = 0.01


async def settled(machine: Machine, name: str) -> None:
    """Wait until the back end has connected or failed to; at once for one that connects to nothing; never raises."""
    pending = re.compile(rf"^[\s\\]*{re.escape(name)}: .*,(connecting|initializing)\s*$", re.MULTILINE)
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    with contextlib.suppress(CorralError):
        while clock() < end:
            if not pending.search(await machine.monitor.human("info network")):
                return
            await asyncio.sleep(_LOOK)
