"""Handed-over sockets, readiness, and sockets of our own making."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from corral.daemon import activation
from corral.daemon.server import bind
from corral.errors import HostError, ResourceBusy

TAKE = """
import os, sys
from corral.daemon import activation
os.environ["LISTEN_PID"] = str(os.getpid())
for name, listeners in activation.inherited().items():
    for listener in listeners:
        inheritable = os.get_inheritable(listener.fileno())
        print(name, listener.getsockname(), activation.is_readonly(name, listener), inheritable)
print(sorted(variable for variable in os.environ if variable.startswith("LISTEN")))
"""


def test_sockets_are_taken_over_and_the_variables_with_them(short_path: Path) -> None:
    listeners = []
    for name in ("a", "b-ro"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(short_path / name))
        listener.listen()
        listeners.append(listener)

    def hand_over() -> None:
        copies = [os.dup(listener.fileno()) for listener in listeners]
        for number, copy in enumerate(copies, 3):
            os.dup2(copy, number)

    environment = {**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "corral:other"}
    out = subprocess.run(
        [sys.executable, "-c", TAKE],
        env=environment,
        preexec_fn=hand_over,
        pass_fds=(3, 4),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.splitlines() == [
        f"corral {short_path / 'a'} False False",
        f"other {short_path / 'b-ro'} True False",
        "[]",
    ]


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert activation.inherited(environment) == {}
    assert environment == {}
    assert activation.inherited({}) == {}


def test_readiness_is_told(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        activation.notify("READY=1", "STATUS=here")
        assert manager.recv(100) == b"READY=1\nSTATUS=here"
        activation.notify_reloading()
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    activation.notify("READY=1")  # nobody listens any more, and that is nobody's problem
    monkeypatch.delenv("NOTIFY_SOCKET")
    activation.notify("READY=1")


def test_a_socket_of_our_own(short_path: Path) -> None:
    path = short_path / "s"
    with bind(path, mode=0o600) as listener:
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ResourceBusy, match="another daemon listens"):
            bind(path, mode=0o600)
        assert listener.getblocking() is False
    assert path.exists()
    bind(path, mode=0o660).close()  # nobody listens on what was left behind
    assert path.stat().st_mode & 0o777 == 0o660


def test_a_socket_that_cannot_be(short_path: Path) -> None:
    with pytest.raises(HostError, match="longer than 107 bytes"):
        bind(short_path / ("x" * 107), mode=0o600)
    with pytest.raises(HostError, match="cannot listen on"):
        bind(short_path / "none" / "s", mode=0o600)
    (short_path / "file").write_text("mine")
    with pytest.raises((HostError, ResourceBusy)):
        bind(short_path / "file", mode=0o600)
    assert (short_path / "file").read_text() == "mine"
