"""A directory for the state of a hypervisor with real machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .life import end_machines


@pytest.fixture
def directory(short_path: Path) -> Iterator[Path]:
    """Empty, only for its owner, and with a short name; machines that run in it at the end are killed."""
    assert short_path.stat().st_mode & 0o777 == 0o700
    yield short_path
    end_machines(short_path)
