"""A guest's agent that delays, floods, lies and cuts off: every call ends in its deadline, and nobody else notices.

The agent is a script on the domain's channel, in the place of QEMU's socket; the domain and its QEMU are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from corral.errors import AgentCommandFailed, AgentCommandTimeout, AgentUnresponsive, CorralError
from corral.hypervisor.domain import Domain
from corral.hypervisor.guest import guest_agent
from corral.qemu import agent as agent_module

from .life import document, opened

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]

CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
Script = Callable[[asyncio.StreamWriter, str], Coroutine[Any, Any, None]]


class Guest:
    """Answers the synchronisation, unless `mute`; what else it does is the test's `script`."""

    def __init__(self) -> None:
        self.script: Script = answer({})
        self.mute = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                message = json.loads(line.rpartition(b"\xff")[2])
                if self.mute:
                    continue
                if message["execute"] == "guest-sync-delimited":
                    writer.write(b"\xff" + json.dumps({"return": message["arguments"]["id"]}).encode() + b"\n")
                else:
                    await self.script(writer, message["execute"])
        writer.close()


def answer(returned: object) -> Script:
    return say(json.dumps({"return": returned}).encode() + b"\n")


def say(data: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter, command: str) -> None:
        writer.write(data)

    return script


async def flood(writer: asyncio.StreamWriter, command: str) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def flood_afterwards(writer: asyncio.StreamWriter, command: str) -> None:
    writer.write(b'{"return": {"host-name": "x"}}\n')
    await flood(writer, command)


async def trickle(writer: asyncio.StreamWriter, command: str) -> None:
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.01)


async def cut_off(writer: asyncio.StreamWriter, command: str) -> None:
    writer.write(b'{"return": [{"na')
    writer.close()


async def never(writer: asyncio.StreamWriter, command: str) -> None:
    await asyncio.sleep(60)


@contextlib.asynccontextmanager
async def guest(directory: Path) -> AsyncIterator[tuple[Domain, Guest]]:
    """A running domain whose channel is answered by a script."""
    async with opened(directory) as (hypervisor, _heard):
        domain = await hypervisor.define(document("odd", devices=CHANNEL))
        await domain.create()
        assert domain.run is not None and domain.run.agent is not None
        path = domain.run.agent.path
        path.unlink()
        fake = Guest()
        server = await asyncio.start_unix_server(fake.serve, path)
        domain.run.agent.port_open = True
        try:
            yield domain, fake
        finally:
            server.close()
            await domain.destroy()


async def fails(error: type[CorralError], match: str, work: Coroutine[Any, Any, Any], within: float) -> None:
    start = time.monotonic()
    with pytest.raises(error, match=match):
        await work
    assert time.monotonic() - start < within


async def test_it_is_late_and_its_answer_meets_no_other_question(directory: Path) -> None:
    async with guest(directory) as (domain, fake):
        await guest_agent.set_response_timeout(domain, 1)
        late: list[asyncio.StreamWriter] = []

        async def delay(writer: asyncio.StreamWriter, command: str) -> None:
            late.append(writer)

        fake.script = delay
        text = "didn't respond to command within '1' seconds"
        await fails(AgentCommandTimeout, text, guest_agent.get_time(domain), 3)
        fake.script = answer({"host-name": "right"})
        late[0].write(b'{"return": {"host-name": "late"}}\n')
        assert await domain.hostname() == "right"
        # An answer too many: it comes while nobody has asked anything.
        fake.script = say(b'{"return": {"host-name": "right"}}\n{"return": 1}\n{"return": 2}\n')
        assert await domain.hostname() == "right"
        fake.script = answer(7_000_000_003)
        assert await guest_agent.get_time(domain) == (7, 3)


async def test_it_floods(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "FLOOD_LIMIT", 1 << 20)
    async with guest(directory) as (domain, fake):
        fake.script = flood
        await fails(AgentUnresponsive, "longer than 1048576 bytes", guest_agent.filesystems(domain), 5)
        fake.script = trickle
        await guest_agent.set_response_timeout(domain, 1)
        await fails(AgentCommandTimeout, "didn't respond to command", guest_agent.filesystems(domain), 3)
        fake.script = flood_afterwards
        assert await domain.hostname() == "x"
        fake.script = answer({"host-name": "again"})
        with contextlib.suppress(AgentUnresponsive):  # what waits in the socket is thrown away first
            await domain.hostname()
        assert await domain.hostname() == "again"


async def test_a_flood_takes_no_more_memory_than_an_answer_may(directory: Path) -> None:
    """An endless line as a question's answer, as a message's that is passed through, and when nobody asks."""
    status = Path("/proc/self/status")

    def resident(what: str) -> int:
        """Bytes: VmRSS now, VmHWM at most since the last mark."""
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(what)) * 1024

    async with guest(directory) as (domain, fake):
        fake.script = answer({"host-name": "x"})
        await domain.hostname()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # noqa: ASYNC240
        fake.script = flood
        await fails(AgentUnresponsive, "longer than", guest_agent.filesystems(domain), 20)
        await fails(AgentUnresponsive, "longer than", domain.agent_command('{"execute":"guest-info"}', 60), 60)
        fake.script = flood_afterwards
        assert await domain.hostname() == "x"
        await asyncio.sleep(1)  # it floods all the time
        assert resident("VmHWM") - before < 4 * agent_module.ANSWER_LIMIT


@pytest.mark.parametrize(
    "lie",
    [
        17,
        "text",
        None,
        [],
        {},
        {"host-name": 3},
        [{"name": "eth0", "ip-addresses": [{"ip-address-type": "ipv9", "ip-address": "x", "prefix": 1}]}],
        [{"name": "sda", "mountpoint": "/", "type": "ext4", "total-bytes": -1, "disk": []}],
        [{"name": "sda", "mountpoint": "/", "type": "ext4", "disk": [{"bus": 1 << 70}]}],
        [{"user": "x", "login-time": 1e308}],
        {"keys": [1]},
    ],
)
async def test_it_lies(directory: Path, lie: object) -> None:
    async with guest(directory) as (domain, fake):
        fake.script = answer(lie)
        calls: list[Coroutine[Any, Any, Any]] = [
            guest_agent.get_time(domain),
            guest_agent.filesystems(domain),
            guest_agent.ssh_keys(domain, "root"),
            guest_agent.interface_addresses(domain, 1),
            guest_agent.facts(domain, 1),
            guest_agent.facts(domain, 32),
            guest_agent.freeze(domain, []),
            domain.hostname(),
        ]
        for call in calls:
            with contextlib.suppress(AgentCommandFailed):  # [] and 17 are right answers to some of them
                await call
        await guest_agent.facts(domain, 0)


@pytest.mark.parametrize("script", [cut_off, say(b"\xff\xfe nonsense\n"), say(b"[" * 100_000 + b"\n"), say(b"{}\n")])
async def test_it_cuts_off_and_talks_nonsense(directory: Path, script: Script) -> None:
    async with guest(directory) as (domain, fake):
        fake.script = script
        with pytest.raises((AgentUnresponsive, AgentCommandFailed)):
            await guest_agent.filesystems(domain)
        fake.script = answer({"host-name": "well"})
        assert await domain.hostname() == "well"


async def test_a_mute_agent_delays_nobody_else(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SYNC_TIMEOUT", 5.0)
    monkeypatch.setattr(agent_module, "TURN_TIMEOUT", 5.5)
    async with guest(directory) as (domain, fake):
        fake.mute = True
        start = time.monotonic()
        calls = [asyncio.ensure_future(guest_agent.get_time(domain)) for _ in range(10)]
        await asyncio.sleep(0.05)
        assert domain.state()[0] == 1
        await domain.suspend()
        await domain.resume()
        assert not any(call.done() for call in calls), "a stuck agent is not in the way of the machine's own calls"
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, CorralError) for result in results)
        assert time.monotonic() - start < 40, "who waits for a stuck agent has a deadline, too"
        fake.mute = False
        fake.script = answer(1)
        assert await guest_agent.get_time(domain) == (0, 1)


async def test_a_freeze_without_an_answer_is_thawed(directory: Path) -> None:
    async with guest(directory) as (domain, fake):
        await guest_agent.set_response_timeout(domain, 1)
        asked: list[str] = []

        async def freezing(writer: asyncio.StreamWriter, command: str) -> None:
            asked.append(command)
            if command.endswith("thaw"):
                writer.write(b'{"return": 1}\n')

        fake.script = freezing
        await fails(AgentCommandTimeout, "didn't respond to command", guest_agent.freeze(domain, []), 4)
        assert asked == ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]


async def test_a_chosen_deadline_outlives_stops_and_daemons(directory: Path) -> None:
    def chosen(domain: Domain) -> float | None:
        agent = domain.require_run().agent
        assert agent is not None
        return agent.response_timeout

    async with opened(directory) as (hypervisor, _heard):
        domain = await hypervisor.define(document("odd", devices=CHANNEL))
        await guest_agent.set_response_timeout(domain, 3)
        await domain.create()
        assert chosen(domain) == 3
        await guest_agent.set_response_timeout(domain, 4)
        await domain.destroy()
        await domain.create()
        assert chosen(domain) == 4
    async with opened(directory) as (hypervisor, _heard):
        domain = hypervisor.lookup_by_name("odd")
        assert chosen(domain) == 4
        await guest_agent.set_response_timeout(domain, -1)
        assert chosen(domain) is None
        await domain.destroy()
