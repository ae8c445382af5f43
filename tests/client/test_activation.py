"""The daemon that starts by itself: once, however many commands want it, and with its last words when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.client import activation
from corral.client.host import Host
from corral.client.transport import dial
from corral.client.uri import Address
from corral.errors import NoConnect

DAEMON = """
import asyncio, os, sys, time
from pathlib import Path
from corral.daemon.activation import notify
from tests.client.peer import Peer, serving

async def main(socket, starts, delay, answers):
    with open(starts, "a") as file:
        file.write(f"{os.getpid()}\\n")
    await asyncio.sleep(delay)
    peer = Peer("a")
    if answers == "second" and len(Path(starts).read_text().split()) == 1:  # as one that has just gone idle
        peer.answers["auth_list"] = lambda session, args: os._exit(0)
    async with serving(peer, Path(socket)):
        notify("READY=1")
        await asyncio.sleep(60)

socket, starts, delay, answers = sys.argv[1:]
Path(socket).unlink(missing_ok=True)
asyncio.run(main(socket, starts, float(delay), answers))
"""


@pytest.fixture
def starts(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with the pid of every daemon that was started; they are ended afterwards."""
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root}:{root / 'src'}")
    path = short_path / "starts"
    path.touch()
    yield path
    for pid in pids(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pids(starts: Path) -> list[int]:
    return [int(line) for line in starts.read_text().split()]


def parent_and_session(pid: int) -> tuple[int, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[1]), int(fields[3])


def address(directory: Path, starts: Path, *, delay: float = 0.3, answers: str = "yes") -> Address:
    (directory / "daemon.py").write_text(DAEMON)
    socket = directory / "run" / "sock"
    command = (sys.executable, str(directory / "daemon.py"), str(socket), str(starts), str(delay), answers)
    return Address("corral:///session", "qemu:///session", True, (socket,), launch=command)


async def test_many_commands_at_once_start_one_daemon(short_path: Path, starts: Path) -> None:
    where = address(short_path, starts)
    connections = await asyncio.gather(*(dial(where) for _ in range(8)))
    assert len(pids(starts)) == 1
    for connection in connections:
        assert (await connection.call("connect_get_type")).type == "QEMU"
        await connection.close()


async def test_many_processes_at_once_start_one_daemon(short_path: Path, starts: Path) -> None:
    where = address(short_path, starts)
    code = f"""
import asyncio
from pathlib import Path
from corral.client.transport import dial
from corral.client.uri import Address
async def main():
    sockets = (Path({str(where.sockets[0])!r}),)
    connection = await dial(Address({where.uri!r}, {where.name!r}, True, sockets, launch={where.launch!r}))
    print((await connection.call("connect_get_type")).type)
    await connection.close()
asyncio.run(main())
"""
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        for _ in range(4)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    assert [output for output, _ in outputs] == [b"QEMU\n"] * 4
    assert len(pids(starts)) == 1


async def test_the_daemon_is_nobodys_child_and_hears_no_ctrl_c(short_path: Path, starts: Path) -> None:
    connection = await dial(address(short_path, starts))
    (pid,) = pids(starts)
    assert parent_and_session(pid)[0] != os.getpid()
    assert parent_and_session(pid)[1] != os.getsid(0)
    await connection.close()


async def test_one_that_cannot_start_is_quoted(short_path: Path) -> None:
    command = ("/bin/sh", "-c", "echo 'corral: the store is damaged' >&2; exit 1")
    where = Address("corral:///session", "", True, (short_path / "sock",), launch=command)
    begun = time.monotonic()
    with pytest.raises(NoConnect, match="could not start: the store is damaged"):
        await dial(where)
    assert time.monotonic() - begun < 5


async def test_one_that_never_gets_ready(short_path: Path, starts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "START_TIMEOUT", 0.5)
    with pytest.raises(NoConnect, match=r"not ready within 0\.5 s"):
        await dial(address(short_path, starts, delay=30))


async def test_a_stale_socket_is_not_a_daemon(short_path: Path, starts: Path) -> None:
    import socket

    where = address(short_path, starts, delay=0)
    where.sockets[0].parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(where.sockets[0]))
    connection = await dial(where)
    assert (await connection.call("connect_get_type")).type == "QEMU"
    await connection.close()


async def test_a_daemon_that_leaves_as_we_come_is_started_again(
    short_path: Path, starts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = address(short_path, starts, delay=0, answers="second")
    monkeypatch.setattr("corral.client.host.parse", lambda uri, readonly: where)
    host = await Host.open("corral:///session")
    assert [domain.name for domain in await host.domains()] == ["a"]
    assert len(pids(starts)) == 2
    await host.close()


async def test_a_program_that_is_not_installed(short_path: Path) -> None:
    where = Address("qemu:///session", "", True, (short_path / "sock",), launch=("no-such-libvirtd",))
    with pytest.raises(NoConnect, match="no-such-libvirtd is not installed"):
        await dial(where)


async def test_over_a_command(short_path: Path) -> None:
    """What ssh does, done by a program in its place: bytes from its standard input and output to the socket."""
    from tests.client.peer import Peer, serving

    from corral.client import connect

    script = short_path / "ssh"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, select, socket, sys\n"
        f"assert sys.argv[-2] == 'far', sys.argv\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({str(short_path / 's')!r})\n"
        "while True:\n"
        "    for ready in select.select([0, s], [], [])[0]:\n"
        "        data = os.read(0, 65536) if ready == 0 else s.recv(65536)\n"
        "        if not data: sys.exit()\n"
        "        s.sendall(data) if ready == 0 else os.write(1, data)\n"
    )
    script.chmod(0o755)
    async with serving(Peer("a"), short_path / "s"), connect(f"qemu+ssh://far/system?command={script}") as host:
        assert [domain.name for domain in await host.domains()] == ["a"]
        helper = host.connection.helper
    assert helper is not None
    assert helper.returncode is not None


async def test_a_command_that_fails_is_quoted(short_path: Path) -> None:
    script = short_path / "ssh"
    script.write_text("#!/bin/sh\necho 'ssh: connect to host far port 22: Connection refused' >&2; exit 255\n")
    script.chmod(0o755)
    with pytest.raises(NoConnect, match="could not be reached: ssh: connect to host far port 22: Connection refused"):
        await Host.open(f"qemu+ssh://far/system?command={script}")
