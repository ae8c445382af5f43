"""Looking out for the next call: only after calls that came close together, and only for a moment."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from tests.daemon.fake import Client as Caller

from corral.daemon.lingering import CLOSE, REST, WINDOW, Lingering
from corral.daemon.server import Server

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on a single CPU it never does")


#: Seconds that arrivals are ahead of the clock, so that a machine with much to do does not end the polling early.
AHEAD = 0.5


class Client:
    """Both ends of a connection; `arrives` at a time after the test's start, and so does each byte that is read."""

    def __init__(self, lingering: Lingering) -> None:
        self.lingering = lingering
        self.ours, self.theirs = socket.socketpair()
        self.awaited = True
        self.reads = 0
        self.alone: list[bool] = []
        self.start = monotonic() + AHEAD

    def fileno(self) -> int:
        return self.ours.fileno()

    def arrives(self, after: float = 0.0) -> None:
        self.alone.append(self.lingering.arrived(self, self.start + after))

    def read(self) -> None:
        self.ours.recv(1)
        self.reads += 1
        self.arrives()


@pytest.fixture
async def lingering() -> Lingering:
    return Lingering(asyncio.get_running_loop())


@pytest.fixture
def client(lingering: Lingering) -> Iterator[Client]:
    client = Client(lingering)
    with client.ours, client.theirs:
        yield client


async def test_calls_far_apart_are_not_looked_out_for(lingering: Lingering, client: Client) -> None:
    for number in range(3):
        client.arrives(5 * CLOSE * number)
        await asyncio.sleep(0.001)
    assert lingering.turns == 0


async def test_calls_close_together_are_for_a_moment(lingering: Lingering, client: Client) -> None:
    client.arrives()
    client.arrives()
    await asyncio.sleep(AHEAD + 20 * WINDOW)
    polled = lingering.turns
    assert polled > 0
    await asyncio.sleep(0.05)
    assert lingering.turns == polled
    client.arrives(5 * CLOSE)  # the first after a pause
    await asyncio.sleep(0.01)
    assert lingering.turns == polled


async def test_calls_of_one_client_are_read_without_the_loop(lingering: Lingering, client: Client) -> None:
    client.theirs.send(b"abc")
    client.arrives()
    client.arrives()
    await asyncio.sleep(AHEAD)  # nothing in the loop reads the socket
    assert client.reads == 3
    assert all(client.alone)


async def test_a_client_whose_change_runs_is_not_polled(lingering: Lingering, client: Client) -> None:
    client.theirs.send(b"a")
    client.awaited = False
    client.arrives()
    client.arrives()
    await asyncio.sleep(AHEAD)
    assert client.reads == 0


async def test_a_client_that_is_gone_is_forgotten(lingering: Lingering, client: Client) -> None:
    """Nothing keeps it, and those who stay are looked out for as before."""
    other = Client(lingering)
    other.start = client.start
    with other.ours, other.theirs:
        other.arrives()
        lingering.forget(client)  # which did not talk last
        gone = weakref.ref(other)
        lingering.forget(other)
    del other
    assert gone() is None
    client.theirs.send(b"a")
    client.arrives(5 * CLOSE)
    client.arrives(5 * CLOSE)
    await asyncio.sleep(AHEAD)
    assert client.reads == 1


async def test_a_session_is_gone_with_its_client(served: tuple[Server, Path]) -> None:
    """Nobody else calls, and still nothing keeps it."""
    client = await Caller.connect(served[1])
    await client.call("connect_get_type")
    (gone,) = (weakref.ref(session) for session in served[0].sessions)
    client.close()
    for _ in range(200):
        await asyncio.sleep(0.01)
        gc.collect()
        if gone() is None:
            break
    assert gone() is None


async def test_everybody_else_gets_a_turn(lingering: Lingering, client: Client) -> None:
    client.theirs.send(bytes(20_000))
    client.arrives()
    client.arrives()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < client.reads < 20_000


async def test_a_neighbour_that_computes_has_the_daemon_sleep(
    lingering: Lingering, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_yield", lambda: time.sleep(2 * WINDOW))
    client.arrives()
    client.arrives()
    await asyncio.sleep(AHEAD + 20 * WINDOW)
    polled = lingering.turns
    client.awaited = False
    client.arrives(REST / 10)
    client.arrives(REST / 10)
    await asyncio.sleep(0.01)
    assert lingering.turns == polled > 0
    client.arrives(10 * REST)
    client.arrives(10 * REST)
    await asyncio.sleep(0.01)
    assert lingering.turns > polled


async def test_several_clients_are_known_from_one(lingering: Lingering, client: Client) -> None:
    other = Client(lingering)
    other.start = client.start
    with other.ours, other.theirs:
        client.arrives()
        other.arrives(0.2 * CLOSE)
        client.arrives(0.4 * CLOSE)
        assert (client.alone, other.alone) == ([True, False], [False])
        client.arrives(20 * CLOSE)
        assert client.alone[-1]
