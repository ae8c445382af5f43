"""A file of the guest's through its agent: read whole, bounded, closed whatever the guest answers."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest

from corral.errors import AgentCommandFailed
from corral.hypervisor.guest import guest_files
from corral.qemu.agent import FACTS_LIMIT, Agent


class Guest:
    """An agent with one file, or with nonsense instead."""

    def __init__(self, content: bytes, nonsense: object = None) -> None:
        self.content, self.nonsense = content, nonsense
        self.open = 0

    async def execute(self, command: str, arguments: dict[str, Any], *, timeout: float) -> Any:
        if command == "guest-file-open":
            self.open += 1
            return 7
        if command == "guest-file-close":
            self.open -= 1
            return {}
        if self.nonsense is not None:
            return self.nonsense
        part, self.content = self.content[: arguments["count"]], self.content[arguments["count"] :]
        text = base64.b64encode(part).decode()
        assert len(text) < FACTS_LIMIT, "the agent's answer would be refused"
        return {"count": len(part), "buf-b64": text, "eof": not self.content}


async def read(guest: Guest, limit: int = 4 << 20) -> bytes:
    return await guest_files.read(cast(Agent, guest), "/proc/cpuinfo", limit=limit)


async def test_a_file_of_several_pieces() -> None:
    content = bytes(range(256)) * 8192
    guest = Guest(content)
    assert await read(guest) == content
    assert not guest.open


async def test_a_file_without_end() -> None:
    guest = Guest(bytes(8 << 20))
    assert len(await read(guest, limit=1 << 20)) == 1 << 20
    assert not guest.open


@pytest.mark.parametrize("nonsense", [[], "text", 7, {}, {"buf-b64": 7}, {"buf-b64": "a"}, {"buf-b64": None}])
async def test_nonsense(nonsense: object) -> None:
    guest = Guest(b"", nonsense)
    with pytest.raises(AgentCommandFailed, match="makes no sense"):
        await read(guest)
    assert not guest.open
