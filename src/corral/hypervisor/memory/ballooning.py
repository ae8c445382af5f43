"""The guest's memory made smaller or larger by its balloon, believed when the guest has done it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from corral.errors import OperationFailed
from corral.hypervisor.events import BalloonChange, Event
from corral.hypervisor.memory import memory_devices

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain

#: Seconds without any movement of the balloon after which the guest is taken to refuse.
PATIENCE = 10.0


async def resize(domain: Domain, kib: int) -> int:
    """Ask for `kib` KiB and wait while the guest moves towards it; what it has then.

    OperationFailed when it does not move at all: the wish is then taken back.
    """
    return await domain.change("set memory", lambda: inflate(domain, kib))


async def inflate(domain: Domain, kib: int) -> int:
    """The same inside a change; what virtio-mem devices give comes on top and is not counted."""
    run = domain.require_run()
    machine = run.require_machine()

    def has() -> int:
        return run.balloon - memory_devices.growing_kib(run.live.document)

    before = has()
    moved = asyncio.Event()

    def heard(event: Event) -> None:
        if isinstance(event, BalloonChange) and event.dom.uuid == domain.uuid:
            moved.set()

    unsubscribe = domain.hypervisor.events.subscribe(heard)
    try:
        await machine.monitor.execute("balloon", {"value": kib * 1024})
        while has() != kib:
            moved.clear()
            async with asyncio.timeout(PATIENCE):
                await moved.wait()
    except TimeoutError as error:
        if has() == before:
            await machine.monitor.execute(
                "balloon", {"value": before * 1024}
            )  # or a guest that is late would do it yet
            raise OperationFailed(f"the guest's balloon stays at {before} KiB") from error
    finally:
        unsubscribe()
    return has()
