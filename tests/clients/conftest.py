"""One daemon of ours for each file of tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs import corrald


@pytest.fixture(scope="module")
def daemon() -> Iterator[corrald.Daemon]:
    """Our daemon with everything under a directory of its own, `daemon.state.parent`."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon
