"""The daemon's tests run on uvloop, as the daemon does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop: the daemon's own."""
    return {"uvloop": uvloop.new_event_loop}
