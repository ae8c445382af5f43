"""The daemon's tests run on uvloop, as the daemon does, over a socket, with a hypervisor of records behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from tests.daemon.fake import Client, FakeHypervisor, daemon

from corral.daemon.server import Server


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop: the daemon's own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    return FakeHypervisor()


@pytest.fixture
async def served(hypervisor: FakeHypervisor) -> AsyncIterator[tuple[Server, Path]]:
    async with daemon(hypervisor) as server_and_path:
        yield server_and_path


@pytest.fixture
async def client(served: tuple[Server, Path]) -> AsyncIterator[Client]:
    client = await Client.connect(served[1])
    yield client
    client.close()
