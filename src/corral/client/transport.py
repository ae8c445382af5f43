"""Reaching the daemon: its UNIX socket, starting it when it is one's own and nobody listens, or ssh to another host."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from corral.client.connection import Connection
from corral.client.uri import Address
from corral.errors import AuthFailed, CorralError, InvalidConnection, NoConnect

CONNECT_TIMEOUT = 10.0  # seconds for a listening daemon to take us
NOBODY = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


async def dial(address: Address) -> Connection:
    """A connection whose transport is up; nothing has been said on it yet. NoConnect and AuthFailed say what to do."""
    if address.command:
        return await _over_command(address.command)
    for path in address.sockets:
        if connection := await _over_socket(path):
            return connection
    if not address.launch:
        raise _nobody(address)
    from corral.client.activation import activate

    return await activate(address, _over_socket)


async def _over_socket(path: Path) -> Connection | None:
    """A connection over the socket at `path`, or None when nobody listens there."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, connection = await loop.create_unix_connection(Connection, str(path))
    except NOBODY:
        return None
    except PermissionError as error:
        raise AuthFailed(
            f"no permission to use {path}", hint="join the group that owns the socket, or use sudo"
        ) from error
    except TimeoutError as error:
        raise NoConnect(f"the daemon at {path} took no connection within {CONNECT_TIMEOUT:g} s") from error
    except OSError as error:
        raise NoConnect(f"{path}: {error.strerror or error}") from error
    return connection


def _nobody(address: Address) -> NoConnect:
    where = " or ".join(str(path) for path in address.sockets)
    if "socket=" in address.uri:  # whose daemon that is to be, the URI does not say
        hint = f"a daemon of Corral's listens there after `corral daemon --socket {address.sockets[0]}`"
    elif address.uri.startswith("corral:"):
        hint = (
            "root starts the system's daemon: `sudo corral daemon`, or `sudo systemctl start corral` where that "
            "service is installed; your own is at --connect corral:///session"
        )
    else:
        hint = "start libvirtd, for example with `sudo systemctl start libvirtd`"
    return NoConnect(f"no daemon listens at {where}", hint=hint)


async def _over_command(command: tuple[str, ...]) -> Connection:
    """A connection over the standard input and output of `command`, which is ssh or something in its place."""
    ours, theirs = socket.socketpair()
    try:
        helper = await asyncio.create_subprocess_exec(
            *command,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=asyncio.subprocess.PIPE,
            start_new_session=not os.isatty(2),
        )
    except OSError as error:
        ours.close()
        raise NoConnect(f"{command[0]}: {error.strerror}", hint="install openssh-client") from error
    finally:
        theirs.close()
    ours.setblocking(False)
    _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, sock=ours)
    connection.helper = helper
    return connection


async def last_words(connection: Connection, error: CorralError) -> CorralError:
    """`error`, or a better one with what the carrying command said when it ended the connection."""
    helper = connection.helper
    if helper is None or helper.stderr is None or not isinstance(error, InvalidConnection):
        return error
    try:
        async with asyncio.timeout(2.0):
            text = (await helper.stderr.read(4096)).decode(errors="replace").strip()
    except TimeoutError:
        return error
    return NoConnect(f"the remote end could not be reached: {text.splitlines()[-1]}") if text else error
