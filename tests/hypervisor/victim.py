"""A daemon's part of a life, in a process of its own that dies by SIGKILL at a chosen instruction.

`victim.py DIRECTORY CACHE CALL POINT`: opens the hypervisor, runs CALL, and dies at POINT, which is `before` or `after`
and a function: `after Store.add_live`. Prints `acknowledged` when the call came back first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.hypervisor.life import document

from corral.constants import DomainCreateFlags
from corral.hypervisor import ending
from corral.hypervisor.events import EventBus
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.settings import Settings
from corral.hypervisor.store import Store
from corral.qemu.machine import Machine
from corral.qemu.process import Process

OWNERS = {
    "Store": Store,
    "Machine": Machine,
    "Process": Process,
    "EventBus": EventBus,
    "ending": ending,
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Make the function of `point` deadly."""
    when, _, path = point.partition(" ")
    owner_name, _, name = path.partition(".")
    owner: Any = OWNERS[owner_name]
    original = vars(owner)[name]
    function: Callable[..., Any] = original.__func__ if isinstance(original, classmethod) else original

    async def deadly_async(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = await function(*args, **kwargs)
        die()
        return result

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = function(*args, **kwargs)
        die()
        return result

    replacement: Any = deadly_async if asyncio.iscoroutinefunction(function) else deadly
    setattr(owner, name, classmethod(replacement) if isinstance(original, classmethod) else replacement)


async def main(directory: Path, cache: Path, call: str, point: str) -> None:
    hypervisor = await Hypervisor.open(replace(Settings.under(directory), cache=cache))
    paused, autodestroy = DomainCreateFlags.START_PAUSED, DomainCreateFlags.START_AUTODESTROY
    defined = call.endswith("defined")
    if defined:
        await hypervisor.define(document("a"))
    if call.startswith(("destroy", "undefine", "suspend", "resume")):
        flags = paused if call.startswith("resume") else 0
        if defined:
            await hypervisor.lookup_by_name("a").create(flags)
        else:
            await hypervisor.create_xml(document("a"), flags)
        domain = hypervisor.lookup_by_name("a")
    arm(point)
    match call.split()[0]:
        case "define":
            await hypervisor.define(document("a"))
        case "create":
            if defined:
                await hypervisor.lookup_by_name("a").create()
            else:
                await hypervisor.create_xml(document("a"))
        case "autodestroy":
            await hypervisor.create_xml(document("a"), autodestroy, owner=object())
        case "paused":
            await hypervisor.create_xml(document("a"), paused)
        case "destroy":
            await domain.destroy()
        case "undefine":
            await domain.undefine()
        case "suspend":
            await domain.suspend()
        case "resume":
            await domain.resume()
    print("acknowledged", flush=True)
    die()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
