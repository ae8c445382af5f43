"""A port of this computer whose every connection is carried by a command, such as ssh to another host."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

from corral.errors import NoConnect

FAREWELL = 2.0  # seconds for a carrying command to end


@contextlib.asynccontextmanager
async def tunnel(command: Sequence[str]) -> AsyncIterator[int]:
    """A port at 127.0.0.1: each connection to it is standard input and output of a `command` of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        carriers: list[asyncio.subprocess.Process] = []
        accepting = asyncio.create_task(_accept(listener, command, carriers))
        try:
            yield listener.getsockname()[1]
        finally:
            accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await accepting
            await asyncio.gather(*(_end(each) for each in carriers))


async def _accept(listener: socket.socket, command: Sequence[str], carriers: list[asyncio.subprocess.Process]) -> None:
    while True:
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
        with client:
            client.setblocking(True)  # the command's from now on
            end = client.fileno()
            try:
                carriers.append(await asyncio.create_subprocess_exec(*command, stdin=end, stdout=end))
            except OSError as error:
                raise NoConnect(f"{command[0]}: {error.strerror}", hint="install openssh-client") from error
        carriers[:] = [each for each in carriers if each.returncode is None]


async def _end(carrier: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        carrier.terminate()
        try:
            async with asyncio.timeout(FAREWELL):
                await carrier.wait()
        except TimeoutError:
            carrier.kill()
            await carrier.wait()
