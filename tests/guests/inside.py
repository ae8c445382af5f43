"""What tests ask of a tiny guest through its agent."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from corral.client import connect
from corral.client.domain import Domain
from corral.client.host import Host
from corral.guests import tiny
from labs import corrald


class Inside:
    """A guest that runs, and its client."""

    def __init__(self, host: Host, vm: Domain) -> None:
        self.host, self.vm = host, vm

    async def sh(self, script: str) -> str:
        """What a script prints in the guest."""
        result = await self.vm.exec(["sh", "-c", script], agent_timeout=30)
        return (result.stdout + result.stderr).decode().strip()

    async def until(self, script: str, condition: Callable[[str], bool], seconds: float = 60) -> str:
        """Ask the guest until its answer is as wanted: what is plugged takes it a moment."""
        end = time.monotonic() + seconds
        while not condition(said := await self.sh(script)):
            assert time.monotonic() < end, f"{script}: {said}"
            await asyncio.sleep(0.05)
        return said


@contextlib.asynccontextmanager
async def running(
    name: str, devices: Callable[[Path], str], *, more: str = ""
) -> AsyncIterator[tuple[Host, Domain, Path]]:
    """A tiny guest that runs, of a daemon of its own, and the directory for which `devices` made its further ones.

    QEMU may open what is in the directory; `more` are elements beside <devices>.
    """
    built = await tiny.build()
    with tempfile.TemporaryDirectory(prefix="ci") as base, corrald.running(Path(base)) as daemon:
        directory = Path(base)
        directory.chmod(0o755)  # noqa: ASYNC240
        xml = tiny.document(name, tiny=built, cpus=2).to_xml()
        async with connect(daemon.uri) as host:
            vm = await host.define(xml.replace("<devices>", f"{more}<devices>{devices(directory)}"))
            await vm.start()
            await vm.wait_for_agent(timeout=120)
            yield host, vm, directory
