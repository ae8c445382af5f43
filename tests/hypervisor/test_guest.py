"""A domain with a real guest: its agent, its console, and its own view of being shut down and booted again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from tests.waiting import until

from corral.constants import DomainRebootFlags, DomainShutdownFlags
from corral.errors import AgentUnresponsive
from corral.guests import tiny
from corral.hypervisor import events
from corral.hypervisor.domain import Domain
from labs import corrald

from .inside import booted
from .life import Heard, opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

PING = json.dumps({"execute": "guest-ping"})


def connections(heard: Heard) -> list[int]:
    """The agent's comings (1) and goings (2)."""
    return [event.state for event in heard if isinstance(event, events.AgentLifecycle)]


async def answers(domain: Domain) -> bool:
    """Whether the agent answers now."""
    try:
        return json.loads(await domain.agent_command(PING, -1)) == {"return": {}}
    except AgentUnresponsive:
        return False


async def test_a_guest_through_two_daemons(directory: Path) -> None:
    files = await tiny.build()
    document = tiny.document("guest", tiny=files).to_xml()
    async with opened(directory) as (hypervisor, heard):
        domain = await hypervisor.define(document)
        await domain.create()
        with pytest.raises(AgentUnresponsive, match="QEMU guest agent is not connected"):
            await domain.agent_command(PING, -1)
        await booted(domain)
        assert connections(heard) == [1]
        assert "state='connected'" in domain.xml()
        assert await domain.hostname() == "guest"
        identity = (domain.id, domain.uuid, domain.xml())
    async with opened(directory) as (hypervisor, heard):
        domain = hypervisor.lookup_by_name("guest")
        assert (domain.id, domain.uuid, domain.xml()) == identity
        assert await answers(domain)
        console = await domain.open_console()
        await console.write(b"echo $((6*7))-from-the-guest\n")
        output = b""
        async with asyncio.timeout(60):
            while b"42-from-the-guest" not in output:
                output += await console.read()
        pid = domain.run and domain.run.process and domain.run.process.pid
        heard.clear()
        async with asyncio.timeout(60):  # the button is heard only once the guest has gone so far as to listen
            while "Reboot" not in heard.other():
                await domain.reboot(DomainRebootFlags.ACPI_POWER_BTN)
                with contextlib.suppress(TimeoutError):
                    await until(lambda: "Reboot" in heard.other(), seconds=2)
        assert heard.lifecycle() == [], "a reboot behind the power button is no shutdown"
        await until(lambda: connections(heard)[-1:] == [1], seconds=60)
        await booted(domain)
        assert domain.run and domain.run.process and domain.run.process.pid == pid
        await domain.shutdown(DomainShutdownFlags.GUEST_AGENT)
        await until(lambda: not domain.active, seconds=60)
        assert heard.lifecycle() == [("shutdown", 1), ("stopped", 0)]
        assert domain.state() == (5, 1)
        assert corrald.machines(directory) == []
