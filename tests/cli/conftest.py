"""The program, called as a user calls it, against a daemon that answers as a test says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.client.peer import Peer, serving_thread

import corral.cli


@dataclass
class Result:
    """What a command gave back."""

    status: int
    out: str
    err: str


Corral = Callable[..., Result]


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def uri(peer: Peer, short_path: Path) -> Iterator[str]:
    with serving_thread(peer, short_path / "s") as uri:
        yield uri


@pytest.fixture
def corral_(uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Corral:
    """Call `corral` with these words; `uri` is its daemon."""
    monkeypatch.setenv("CORRAL_URI", uri)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["corral", *words])
        capfd.readouterr()
        status = corral.cli.main()
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return call
