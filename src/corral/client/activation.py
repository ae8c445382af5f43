"""Starting one's own daemon on the first command.

Any number of commands may find nobody listening at once. One of them holds the lock and starts the daemon; the others
wait for the lock, look again, and find it. The daemon says that it is ready as it would say it to systemd
(sd_notify(3): both Corral's and libvirt's do), and a pipe that it inherits tells when it has died instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from corral.client.uri import Address
from corral.errors import NoConnect

if TYPE_CHECKING:
    from corral.client.connection import Connection

START_TIMEOUT = 60.0  # seconds; the first start of all asks QEMU what it can do: two alone, forty on a busy machine
RETREAT = 0.3  # seconds before the second attempt to start it
LOCK_INTERVAL = 0.02  # seconds between looks at the lock: flock(2) tells nobody when it comes free

Connect = Callable[[Path], Awaitable["Connection | None"]]


async def activate(address: Address, connect: Connect) -> Connection:
    """A connection to the daemon at `address`, which is started unless another command was faster."""
    assert address.launch is not None
    directory = address.sockets[-1].parent
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700 if address.session else 0o755)
    except OSError as error:
        raise NoConnect(f"cannot make {directory}: {error.strerror}") from error
    log = directory / "start.log"
    async with _exclusive(directory / "start.lock"):
        if connection := await _first(address.sockets, connect):
            return connection
        try:
            await _launch(address.launch, log)
        except NoConnect:  # the last daemon may not quite have ended, and still hold the state
            await asyncio.sleep(RETREAT)
            await _launch(address.launch, log)
        if connection := await _first(address.sockets, connect):
            return connection
    raise NoConnect(f"the daemon was started but does not listen at {address.sockets[-1]}", hint=f"see {log}")


async def _first(paths: tuple[Path, ...], connect: Connect) -> Connection | None:
    for path in paths:
        if connection := await connect(path):
            return connection
    return None


@asynccontextmanager
async def _exclusive(path: Path) -> AsyncIterator[None]:
    """Hold flock(2) on `path`; NoConnect when another command holds it for longer than a start may take."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = asyncio.get_running_loop().time() + 2 * START_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    raise NoConnect(f"another command has held {path} for too long") from None
                await asyncio.sleep(LOCK_INTERVAL)
        yield
    finally:
        os.close(descriptor)


async def _launch(command: tuple[str, ...], log: Path) -> None:
    """Run `command` in the background until it is ready; NoConnect with its last words when it fails or is slow."""
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    alive, held = os.pipe()
    try:
        ready.bind("")  # an abstract address that the kernel chooses
        os.set_inheritable(held, True)
        _spawn(_program(command), log, notify="@" + ready.getsockname()[1:].decode())
        os.close(held)
        held = -1
        async with asyncio.timeout(START_TIMEOUT):
            started = await _ready(ready, alive)
    except TimeoutError as error:
        raise NoConnect(f"the daemon was not ready within {START_TIMEOUT:g} s", hint=f"see {log}") from error
    finally:
        ready.close()
        os.close(alive)
        if held >= 0:
            os.close(held)
    if not started:
        raise NoConnect(f"the daemon could not start: {_last_line(log)}", hint=f"its output is in {log}")


async def _ready(notifications: socket.socket, alive: int) -> bool:
    """Whether READY=1 arrived (True) or the pipe's other end was closed (False)."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def notified() -> None:
        try:
            message = notifications.recv(4096)
        except BlockingIOError:
            return
        if b"READY=1" in message.split(b"\n") and not answer.done():
            answer.set_result(True)

    def died() -> None:
        loop.remove_reader(alive)
        notified()  # it may have been ready just before
        if not answer.done():
            answer.set_result(False)

    loop.add_reader(notifications, notified)
    loop.add_reader(alive, died)
    try:
        return await answer
    finally:
        loop.remove_reader(notifications)
        loop.remove_reader(alive)


def _program(command: tuple[str, ...]) -> list[str]:
    name, *options = command
    if name == "corral":  # the one that runs us, wherever it is installed
        return [sys.executable, "-P", "-m", "corral.cli", *options]
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise NoConnect(
            f"{name} is not installed", hint="install it, or use Corral's own daemon: --connect corral:///session"
        )
    return [path, *options]


def _spawn(program: list[str], log: Path, *, notify: str) -> None:
    """Start `program` in a session of its own, as nobody's child: a shell starts it and leaves."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CORRAL_", "LISTEN_"))}
    environment["NOTIFY_SOCKET"] = notify
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        shell = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'cd / && "$@" &', "sh", *program],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(output)
    os.waitpid(shell, 0)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace")[-4096:].split("\n")
    except OSError:
        return "it said nothing"
    return next((line.strip().removeprefix("corral: ") for line in reversed(lines) if line.strip()), "it said nothing")
