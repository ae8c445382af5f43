"""The guest agent: one answer for one question, whatever came late, half or never."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.waiting import until

from corral.errors import AgentCommandFailed, AgentCommandTimeout, AgentUnresponsive, InternalError
from corral.qemu import agent as agent_module
from corral.qemu.agent import Agent


class FakeGuest:
    """An agent that answers `guest-sync-delimited` and what the test lays down in `answers`; None is silence."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | None] = {}
        self.before_sync = b""
        self.silent = False
        self.syncs = 0
        self.heard: list[str] = []
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        while line := await reader.readline():
            message = json.loads(line.rpartition(b"\xff")[2])
            self.heard.append(message["execute"])
            if self.silent:
                continue
            if message["execute"] == "guest-sync-delimited":
                self.syncs += 1
                writer.write(self.before_sync)
                writer.write(b"\xff" + json.dumps({"return": message["arguments"]["id"]}).encode() + b"\n")
            elif (answer := self.answers.get(message["execute"], b'{"return": {}}')) is not None:
                writer.write(answer + b"\n")
        writer.close()


@asynccontextmanager
async def guest(path: Path) -> AsyncIterator[FakeGuest]:
    fake = FakeGuest()
    server = await asyncio.start_unix_server(fake.serve, path)
    try:
        yield fake
    finally:
        server.close()


async def test_answers_and_errors(short_path: Path) -> None:
    async with guest(short_path / "ga") as fake:
        fake.answers["guest-get-time"] = b'{"return": 17}'
        fake.answers["guest-bad"] = b'{"error": {"class": "GenericError", "desc": "no such thing"}}'
        agent = Agent(short_path / "ga", name="web")
        assert await agent.execute("guest-ping") == {}
        assert await agent.execute("guest-get-time") == 17
        with pytest.raises(AgentCommandFailed, match="'guest-bad': no such thing"):
            await agent.execute("guest-bad")
        assert json.loads(await agent.passthrough('{"execute":"guest-get-time"}')) == {"return": 17}
        assert fake.syncs == 4, "before each command"
        await agent.close()


async def test_a_late_answer_is_not_taken_for_the_next(short_path: Path) -> None:
    async with guest(short_path / "ga") as fake:
        fake.answers["guest-slow"] = None
        agent = Agent(short_path / "ga", name="web")
        with pytest.raises(AgentCommandTimeout, match=r"didn't respond to command within '0\.05' seconds"):
            await agent.execute("guest-slow", timeout=0.05)
        # QEMU keeps what the agent says until somebody connects: the old answer comes first, cut or whole.
        fake.before_sync = b'{"return": "old"}\n{"retu\xff{"return": 3}\n'
        fake.answers["guest-get-time"] = b'{"return": "new"}'
        assert await agent.execute("guest-get-time") == "new"
        assert fake.syncs == 2
        await agent.close()


async def test_callers_take_turns(short_path: Path) -> None:
    async with guest(short_path / "ga") as fake:
        fake.answers = {f"guest-{n}": json.dumps({"return": n}).encode() for n in range(20)}
        agent = Agent(short_path / "ga", name="web")
        assert await asyncio.gather(*(agent.execute(f"guest-{n}") for n in range(20))) == list(range(20))
        await agent.close()


async def test_a_cancelled_caller_leaves_no_answer_behind(short_path: Path) -> None:
    async with guest(short_path / "ga") as fake:
        fake.answers = {"guest-slow": None, "guest-get-time": b'{"return": 1}'}
        agent = Agent(short_path / "ga", name="web")
        task = asyncio.create_task(agent.execute("guest-slow"))
        await until(lambda: "guest-slow" in fake.heard)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await agent.execute("guest-get-time") == 1
        assert fake.syncs == 2
        await agent.close()


async def test_nobody_there(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SYNC_TIMEOUT", 0.05)
    agent = Agent(short_path / "ga", name="web")
    with pytest.raises(AgentUnresponsive, match="QEMU guest agent is not connected"):
        await agent.execute("guest-ping")
    async with guest(short_path / "ga") as fake:
        fake.silent = True
        with pytest.raises(AgentUnresponsive, match="didn't respond to synchronization within"):
            await agent.execute("guest-ping")
        fake.silent = False
        monkeypatch.setattr(agent_module, "SYNC_TIMEOUT", 30)
        await agent.execute("guest-ping")
        agent.port_open = False
        with pytest.raises(AgentUnresponsive, match="not connected"):
            await agent.execute("guest-ping")
        agent.port_open = True
        await agent.execute("guest-ping")
        await agent.close()


async def test_a_port_that_closes_ends_the_wait(short_path: Path) -> None:
    async with guest(short_path / "ga") as fake:
        fake.answers = {"guest-slow": None, "guest-shutdown": None}
        agent = Agent(short_path / "ga", name="web")
        waiting = asyncio.create_task(agent.execute("guest-slow", timeout=60))
        telling = asyncio.create_task(agent.tell("guest-shutdown", patience=60))
        await until(lambda: "guest-slow" in fake.heard)
        agent.port_open = False
        async with asyncio.timeout(20):
            with pytest.raises(AgentUnresponsive):
                await waiting
            with pytest.raises(AgentUnresponsive):  # it was never sent: the port closed before its turn
                await telling
        agent.port_open = True
        telling = asyncio.create_task(agent.tell("guest-shutdown", patience=60))
        await until(lambda: "guest-shutdown" in fake.heard)
        agent.port_open = False
        async with asyncio.timeout(20):
            await telling


async def test_a_guest_that_goes_away_is_found_again(short_path: Path) -> None:
    async with guest(short_path / "ga") as fake:
        agent = Agent(short_path / "ga", name="web")
        await agent.execute("guest-ping")
        assert fake.writer is not None
        fake.writer.close()
        await asyncio.sleep(0.02)
        await agent.execute("guest-ping")
        await agent.close()


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"[]", b"17", b"[" * 100_000, b'{"return": ' * 50_000])
async def test_nonsense_is_an_error_and_no_more(short_path: Path, answer: bytes) -> None:
    async with guest(short_path / "ga") as fake:
        fake.answers["guest-odd"] = answer
        agent = Agent(short_path / "ga", name="web")
        with pytest.raises(AgentUnresponsive, match="not JSON"):
            await agent.execute("guest-odd")
        assert await agent.execute("guest-ping") == {}
        await agent.close()


async def test_an_endless_answer_is_cut_off(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "FACTS_LIMIT", 1 << 16)
    async with guest(short_path / "ga") as fake:
        fake.answers["guest-file-read"] = b"x" * (1 << 18)
        agent = Agent(short_path / "ga", name="web")
        with pytest.raises(AgentUnresponsive, match="longer than 65536 bytes"):
            await agent.execute("guest-file-read")
        assert await agent.execute("guest-ping") == {}
        await agent.close()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
async def test_bad_passthrough(short_path: Path, text: str) -> None:
    with pytest.raises(InternalError, match="failed to parse JSON"):
        await Agent(short_path / "ga", name="web").passthrough(text)
