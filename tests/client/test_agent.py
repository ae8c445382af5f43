"""Programs in the guest, through an agent that answers as the test says."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from tests.client.peer import Peer, serving

from corral.client import connect
from corral.errors import AgentCommandFailed, InvalidArgument, OperationTimeout


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.add("a", running=True)
    return peer


async def test_status_and_both_outputs(peer: Peer, short_path: Path) -> None:
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        result = await (await host.domain("a")).exec(["ls", "-l"], stdin=b"in")
    assert (result.status, result.stdout, result.stderr, result.text) == (3, b"out\n", b"err\n", "out")
    request = peer.agent_calls[0]["arguments"]
    assert (request["path"], request["arg"], request["capture-output"]) == ("ls", ["-l"], True)
    assert base64.b64decode(request["input-data"]) == b"in"


async def test_a_signal_is_128_and_more(peer: Peer, short_path: Path) -> None:
    peer.agent["guest-exec-status"] = {"exited": True, "signal": 9, "out-truncated": True}
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        result = await (await host.domain("a")).exec(["x"])
    assert (result.status, result.truncated) == (137, True)


async def test_what_takes_too_long_is_told_to_end(peer: Peer, short_path: Path) -> None:
    peer.agent["guest-exec-status"] = {"exited": False}
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        with pytest.raises(OperationTimeout, match=r"sleep in a has not ended after 0\.1 s"):
            await (await host.domain("a")).exec(["sleep", "9"], timeout=0.1)
    assert peer.agent_calls[-1]["arguments"] == {"path": "kill", "arg": ["-TERM", "7"]}


async def test_cancelled_means_told_to_end(peer: Peer, short_path: Path) -> None:
    peer.agent["guest-exec-status"] = {"exited": False}
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        task = asyncio.create_task((await host.domain("a")).exec(["sleep", "9"]))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert peer.agent_calls[-1]["arguments"]["path"] == "kill"


async def test_no_such_program(peer: Peer, short_path: Path) -> None:
    peer.agent["guest-exec"] = AgentCommandFailed("Failed to execute child process (No such file or directory)")
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        domain = await host.domain("a")
        with pytest.raises(AgentCommandFailed, match="No such file"):
            await domain.exec(["nope"])
        with pytest.raises(InvalidArgument):
            await domain.exec([])
        with pytest.raises(InvalidArgument, match="standard input has"):
            await domain.exec(["cat"], stdin=bytes(3 << 20))


async def test_addresses(peer: Peer, short_path: Path) -> None:
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        assert await (await host.domain("a")).addresses() == ["10.0.2.15"]
