"""`corral console` on a real terminal pair and on a pipe."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Corral
from tests.client.peer import Peer

from corral.cli.console import control_key
from corral.errors import InvalidArgument
from labs import corrald


def echo(session: Any, event: Any) -> None:
    if b"bye" in event.data:
        session.wire.send_stream_end(event.serial, event.procedure)
    else:
        session.wire.send_stream_data(event.serial, event.procedure, b"<" + event.data + b">")


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "corral.cli", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        self.seen = b""

    def until(self, text: bytes, deadline: float = 60.0) -> None:
        end = time.monotonic() + deadline
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], end - time.monotonic())
            assert ready, self.seen
            self.seen += os.read(self.master, 65536)

    def until_raw(self) -> None:
        """Wait until the program hears each key: what was typed before is thrown away."""
        end = time.monotonic() + 60
        while termios.tcgetattr(self.slave)[3] & termios.ICANON:
            assert time.monotonic() < end
            time.sleep(0.01)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def close(self) -> int:
        status = self.process.wait(60)
        assert termios.tcgetattr(self.slave) == self.before  # as we found it
        os.close(self.master)
        os.close(self.slave)
        return status


def test_a_terminal(peer: Peer, uri: str) -> None:
    peer.add("web", running=True)
    peer.on_stream = echo
    terminal = Terminal("console", "web", "-c", uri)
    terminal.until(b"Connected to web. Ctrl-] leaves.")
    terminal.until_raw()
    terminal.type(b"ls\r")
    terminal.until(b"<ls\r>")
    terminal.type(b"\x03")  # Ctrl-C is the guest's
    terminal.until(b"<\x03>")
    terminal.process.send_signal(28)  # SIGWINCH: the window was resized
    terminal.type(b"still here")
    terminal.until(b"<still here>")
    terminal.type(b"\x1d")
    terminal.until(b"Left web.")
    assert terminal.close() == 0
    assert peer.domains["web"]["id"] > 0


def test_the_guest_ends_it(peer: Peer, uri: str) -> None:
    peer.add("web", running=True)
    peer.on_stream = echo
    terminal = Terminal("console", "web", "-c", uri, "--escape", "^A")
    terminal.until(b"Ctrl-A leaves.")
    terminal.until_raw()
    terminal.type(b"\x1dbye")
    terminal.until(b"web closed the console.")
    assert terminal.close() == 0


def test_a_pipe(peer: Peer, uri: str) -> None:
    peer.add("web", running=True)
    peer.on_stream = echo
    result = subprocess.run(
        [sys.executable, "-m", "corral.cli", "console", "web", "-c", uri],
        input=b"uname\n",
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"<uname\n>", b"")


def test_a_machine_that_is_off(peer: Peer, corral_: Corral) -> None:
    peer.add("web")
    result = corral_("console", "web")
    assert result.status == 1
    assert "web is not running\n        corral start web" in result.err


@pytest.mark.parametrize(("text", "byte"), [("^]", 0x1D), ("^a", 1), ("^A", 1), ("^@", 0), ("^_", 0x1F)])
def test_escape_keys(text: str, byte: int) -> None:
    assert control_key(text) == byte


@pytest.mark.parametrize("text", ["", "]", "^", "^^^", "^1", "^é"])
def test_escape_keys_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        control_key(text)


@pytest.mark.qemu
def test_a_console_that_is_taken_over(short_path: Path) -> None:
    """The second is told how, and the first, when it is done, that it has lost it."""
    xml = (
        "<domain type='qemu'><name>web</name><memory unit='MiB'>32</memory>"
        "<os><type machine='q35'>hvm</type></os><devices><console type='pty'/></devices></domain>"
    )
    with corrald.running(short_path) as daemon:
        call = [sys.executable, "-m", "corral.cli", "-c", daemon.uri]
        subprocess.run([*call, "define", "-"], input=xml, text=True, check=True, timeout=60)
        subprocess.run([*call, "start", "--paused", "web"], check=True, timeout=60)
        first = Terminal("console", "web", "-c", daemon.uri)
        first.until(b"Connected to web.")
        refused = subprocess.run([*call, "console", "web"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        assert refused.returncode == 1
        assert b"Active console session exists for this domain\n        --force takes it over" in refused.stderr
        second = Terminal("console", "web", "--force", "-c", daemon.uri)
        second.until(b"Connected to web.")
        first.until(b"web closed the console.")
        first.close()
        second.type(b"\x1d")
        second.until(b"Left web.")
        assert second.close() == 0
