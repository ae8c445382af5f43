"""Whether an address is free for a card that other guests connect to."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from corral.errors import HostError
from corral.network import listening


def test_a_place_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(HostError, match=f"cannot listen at 127.0.0.1:{port} .*: Address already in use"):
            listening.refuse_taken([("127.0.0.1", port)], as_root=True)


def test_one_place_for_two_cards() -> None:
    with socket.socket() as finder:  # bound and not listening: nobody else is given the port, and it may be shared
        finder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        finder.bind(("127.0.0.1", 0))
        place = finder.getsockname()
        listening.refuse_taken([place], as_root=True)
        with pytest.raises(HostError, match="Address already in use"):
            listening.refuse_taken([place, place], as_root=True)


def test_a_low_port_without_rights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """QEMU is not root where the daemon is."""
    lowest = tmp_path / "lowest"
    lowest.write_text("1024\n")
    monkeypatch.setattr(listening, "_PRIVILEGED", lowest)
    with pytest.raises(HostError, match="only root may listen"):
        listening.refuse_taken([("127.0.0.1", 80)], as_root=False)
