"""A guest's load, routes and memory blocks: by the commands of a new agent; what makes no sense is told as such."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from tests.client.peer import Peer, serving

from corral.client import connect
from corral.client.guest_facts import Load, MemoryBlock, Route
from corral.errors import AgentCommandFailed

#: As the QEMU Guest Agent Protocol Reference has them.
NEW: dict[str, Any] = {
    "guest-get-load": {"load1m": 0.5, "load5m": 0.25, "load15m": 1},
    "guest-network-get-route": [
        {"iface": "e", "destination": "0.0.0.0", "mask": "0.0.0.0", "gateway": "10.0.2.2", "metric": 7, "version": 4},
        {"iface": "e", "destination": "10.0.2.0", "mask": "255.255.255.0", "metric": 0, "version": 4},
        {"iface": "e", "destination": "::", "desprefixlen": "0", "nexthop": "fe80::2", "metric": 1024, "version": 6},
    ],
    "guest-get-memory-blocks": [
        {"phys-index": 0, "online": True, "can-offline": False},
        {"phys-index": 3, "online": False},
    ],
    "guest-set-memory-blocks": [{"phys-index": 0, "response": "operation-failed", "error-code": 16}],
}
UNKNOWN = AgentCommandFailed("unable to execute QEMU agent command 'x': The command x has not been found")
LOAD, ROUTES = "guest-get-load", "guest-network-get-route"


@pytest.fixture
def peer() -> Peer:
    peer = Peer()
    peer.add("a", running=True)
    return peer


async def test_a_new_agent(peer: Peer, short_path: Path) -> None:
    peer.agent |= NEW
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        vm = await host.domain("a")
        assert await vm.load() == Load(0.5, 0.25, 1.0, LOAD)
        found = await vm.routes()
        assert found.source == ROUTES
        assert found.routes == (
            Route("0.0.0.0/0", "10.0.2.2", "e", 7),
            Route("10.0.2.0/24", None, "e", 0),
            Route("::/0", "fe80::2", "e", 1024),
        )
        assert await vm.memory_blocks() == (MemoryBlock(0, True, False), MemoryBlock(3, False, True))
        with pytest.raises(AgentCommandFailed, match=r"a: memory block 0: operation-failed \(errno 16\)"):
            await vm.set_memory_blocks([0], online=False)


NONSENSE = {
    "guest-file-open": 5,
    "guest-file-read": {"count": 15, "buf-b64": base64.b64encode(b"Iface\nnonsense\n").decode(), "eof": True},
    "guest-file-close": {},
}


@pytest.mark.parametrize(
    "answers",
    [
        {LOAD: {}, ROUTES: [{}]},
        {LOAD: [], ROUTES: {"x": 1}},
        {LOAD: {"load1m": "x", "load5m": 1, "load15m": 1}, ROUTES: [{"version": 4, "destination": "x"}]},
        {LOAD: UNKNOWN, ROUTES: UNKNOWN, **NONSENSE},
    ],
)
async def test_what_makes_no_sense(peer: Peer, short_path: Path, answers: dict[str, Any]) -> None:
    peer.agent |= answers
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        vm = await host.domain("a")
        for ask in (vm.load, vm.routes):
            with pytest.raises(AgentCommandFailed, match="makes no sense"):
                await ask()
