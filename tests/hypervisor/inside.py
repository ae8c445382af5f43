"""What a guest itself says: its agent asked through the daemon, and commands run in it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from corral.errors import AgentUnresponsive
from corral.guests import tiny
from corral.hypervisor.domain import Domain

from .life import Heard, opened

T = TypeVar("T")


async def agent(domain: Domain, command: str, **arguments: object) -> Any:
    """What the agent answers to one of its commands, within 20 seconds."""
    text = await domain.agent_command(json.dumps({"execute": command, "arguments": arguments}), 20)
    return json.loads(text)["return"]


async def booted(domain: Domain) -> None:
    """Wait until the guest's agent answers: a guest announces its agent's port, not its readiness."""
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(AgentUnresponsive):
                await agent(domain, "guest-ping")
                return
            await asyncio.sleep(0.1)


async def sh(domain: Domain, script: str) -> str:
    """What a shell in the guest prints, within a minute."""
    started = await agent(domain, "guest-exec", **{"path": "/bin/sh", "arg": ["-c", script], "capture-output": True})
    async with asyncio.timeout(60):
        while True:
            status = await agent(domain, "guest-exec-status", pid=started["pid"])
            if status["exited"]:
                return base64.b64decode(status.get("out-data", "")).decode().strip()
            await asyncio.sleep(0.05)


async def settled(ask: Callable[[], Awaitable[T]], wanted: Callable[[T], object]) -> T:
    """Ask a guest until its answer is as wanted, at most a minute: what it is given takes it a moment."""
    answer = await ask()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while not wanted(answer):
                await asyncio.sleep(0.1)
                answer = await ask()
    assert wanted(answer), answer
    return answer


async def emulates_x2apic(domain: Domain) -> bool:
    """Whether the software emulation is of this age: that of QEMU 7.2 can do less."""
    binary = await domain.hypervisor.offer.binary(domain.definition.document.devices.emulator)
    return "x2apic" in binary.available_features("tcg")


@contextlib.asynccontextmanager
async def guest(
    directory: Path, *, cpus: int = 1, most: int = 4, cmdline: str = ""
) -> AsyncIterator[tuple[Domain, Heard]]:
    """A tiny guest whose agent answers; skips where its Linux takes no vCPUs that are plugged."""
    files = await tiny.build()
    document = tiny.document("grows", tiny=files, cpus=cpus, max_cpus=most)
    document.os.cmdline = f"{document.os.cmdline} {cmdline}".strip()
    async with opened(directory) as (hypervisor, heard):
        domain = await hypervisor.define(document.to_xml())
        await domain.create()
        await booted(domain)
        if most > cpus and await sh(domain, "cat /sys/devices/system/cpu/possible") in ("0", f"0-{cpus - 1}"):
            pytest.skip("the guest's Linux takes no vCPU in software emulation")
        yield domain, heard
