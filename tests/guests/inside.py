"""What tests ask of a tiny guest through its agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from corral.client.domain import Domain
from corral.client.host import Host


class Inside:
    """A guest that runs, and its client."""

    def __init__(self, host: Host, vm: Domain) -> None:
        self.host, self.vm = host, vm

    async def sh(self, script: str) -> str:
        """What a script prints in the guest."""
        result = await self.vm.exec(["sh", "-c", script], agent_timeout=30)
        return (result.stdout + result.stderr).decode().strip()

    async def until(self, script: str, condition: Callable[[str], bool], seconds: float = 20) -> str:
        """Ask the guest until its answer is as wanted: what is plugged takes it a moment."""
        end = time.monotonic() + seconds
        while not condition(said := await self.sh(script)):
            assert time.monotonic() < end, f"{script}: {said}"
            await asyncio.sleep(0.05)
        return said
