"""Programs in the guest, through an agent that answers as the test says."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from tests.client.peer import Peer, serving
from tests.waiting import until

from corral.client import connect
from corral.errors import AgentCommandFailed, InvalidArgument, OperationTimeout


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.add("a", running=True)
    return peer


def is_kill(call: dict[str, Any]) -> bool:
    """Whether the guest's shell is told to end process 7 and its group."""
    script, pid = call["arguments"]["arg"][1:3]
    return "end TERM" in script and bool(pid == "7")


async def test_status_and_both_outputs(peer: Peer, short_path: Path) -> None:
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        result = await (await host.domain("a")).exec(["ls", "-l"], stdin=b"in")
    assert (result.status, result.stdout, result.stderr, result.text) == (3, b"out\n", b"err\n", "out")
    request = peer.agent_calls[0]["arguments"]
    assert (request["path"], request["arg"][-2:], request["capture-output"]) == ("/bin/sh", ["ls", "-l"], True)
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
    assert is_kill(peer.agent_calls[-1])


async def test_cancelled_means_told_to_end(peer: Peer, short_path: Path) -> None:
    peer.agent["guest-exec-status"] = {"exited": False}
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        task = asyncio.create_task((await host.domain("a")).exec(["sleep", "9"]))
        await until(lambda: any(call["execute"] == "guest-exec-status" for call in peer.agent_calls))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert is_kill(peer.agent_calls[-1])


async def test_no_such_program(peer: Peer, short_path: Path) -> None:
    inner = "Failed to execute child process (No such file or directory)"
    said = f"unable to execute QEMU agent command 'guest-exec': Guest agent command failed, error was '{inner}'"
    peer.agent["guest-exec"] = AgentCommandFailed(said)
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        domain = await host.domain("a")
        with pytest.raises(AgentCommandFailed, match=r"failed: Failed to execute child process \(No such file[^']*$"):
            await domain.exec(["nope"])  # no shell in that guest either: the last call is the program's own
        assert [call["arguments"]["path"] for call in peer.agent_calls] == ["/bin/sh", "nope"]
        with pytest.raises(TypeError, match="a list"):
            await domain.exec("ls -l")
        with pytest.raises(InvalidArgument):
            await domain.exec([])
        with pytest.raises(InvalidArgument, match="has no shell: its programs take 2 MiB"):
            await domain.exec(["cat"], stdin=bytes(3 << 20))


async def test_addresses(peer: Peer, short_path: Path) -> None:
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        assert await (await host.domain("a")).addresses() == ["10.0.2.15"]
