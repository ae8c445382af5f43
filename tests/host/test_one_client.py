"""What waits in a directory that somebody else owns is ended, and what was planted there leads nowhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.host import one_client


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A socket of somebody's, and who listens at it."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "fs0.sock"
    with listening(path) as server:
        yield path, server


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    server.setblocking(False)
    return server


def test_its_client_comes_and_goes(run: Path) -> None:
    with listening(run / "fs0.sock") as server:
        one_client.dismiss(run / "fs0.sock")
        client, _ = server.accept()
        with client:
            assert client.recv(1) == b""
    assert not list(run.iterdir())


def test_a_name_that_is_too_long_for_a_socket(run: Path) -> None:
    deep = run / ("d" * 120)
    deep.mkdir()
    with pytest.raises(OSError, match="path too long"):
        listening(deep / "fs0.sock")
    directory = os.open(deep, os.O_PATH)
    try:
        with listening(Path(f"/proc/self/fd/{directory}/fs0.sock")) as server:
            one_client.dismiss(deep / "fs0.sock")
            server.accept()[0].close()
    finally:
        os.close(directory)
    assert not list(deep.iterdir())


def test_a_planted_link_is_not_followed(run: Path, elsewhere: tuple[Path, socket.socket]) -> None:
    path, server = elsewhere
    (run / "fs0.sock").symlink_to(path)
    one_client.dismiss(run / "fs0.sock")
    with pytest.raises(BlockingIOError):
        server.accept()
    assert path.is_socket()
    assert not list(run.iterdir())


def test_a_planted_directory_is_not_entered(run: Path, elsewhere: tuple[Path, socket.socket]) -> None:
    path, server = elsewhere
    (run / "ua-x").symlink_to(path.parent)
    one_client.dismiss(run / "ua-x" / path.name)
    with pytest.raises(BlockingIOError):
        server.accept()
    assert path.is_socket()


def test_what_is_no_socket_is_taken_away_and_not_met(run: Path) -> None:
    os.mkfifo(run / "fs0.sock")  # to open it would wait for a writer
    one_client.dismiss(run / "fs0.sock")
    assert not list(run.iterdir())
    one_client.dismiss(run / "fs0.sock")
