"""The guest agent on its virtio port: one command at a time, each with a deadline, each synchronised beforehand.

The protocol has no ids that every agent knows: an answer that comes late, or twice, would be taken for the next
command's. Before each command `guest-sync-delimited` is sent, and everything up to its 0xFF byte and our own number is
thrown away (QEMU Guest Agent Protocol Reference, guest-sync-delimited). A guest is not trusted: what it sends is
bounded while we read (a line, a synchronisation) and while we do not (the connection's own buffer).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.errors import (
    AgentCommandFailed,
    AgentCommandTimeout,
    AgentUnresponsive,
    InternalError,
    OperationTimeout,
)

#: Seconds that an agent may take to answer `guest-sync-delimited` (libvirt's own default), and the longest that it
#: may, whatever was chosen for the guest: it waits for nothing but the agent itself.
SYNC_TIMEOUT = 5.0
#: Seconds that a command may take unless its caller says otherwise.
COMMAND_TIMEOUT = 5.0
#: Seconds that a command waits for those before it (libvirt's patience for a lock).
TURN_TIMEOUT = 30.0
#: The longest answer taken from an agent, in bytes, when its content is the caller's (a file, a program's output), and
#: when it is parsed here: parsing holds the event loop.
ANSWER_LIMIT = 16 * 1024 * 1024
FACTS_LIMIT = 1024 * 1024
#: Bytes that an agent may send before it answers the synchronisation.
FLOOD_LIMIT = 2 * ANSWER_LIMIT
#: Bytes that wait in a connection that nobody reads from.
_BUFFER = 64 * 1024
#: Bytes that the answer to the synchronisation has at most.
_SYNC_ANSWER = 200

#: The longest text of an error that is passed on, in characters.
TEXT_LIMIT = 1000

_SENTINEL = b"\xff"


class AgentCommandUnknown(AgentCommandFailed):
    """The agent has no such command, or it is switched off in the guest."""


class AgentGone(AgentUnresponsive):
    """The agent's end closed while a command waited for its answer: it may have been carried out."""


class Agent:
    """A guest's agent behind a UNIX socket of QEMU's; connects at its first command, reconnects after a loss.

    `port_open` is what the monitor says of the guest's end (VSERPORT_CHANGE, query-chardev's frontend-open): True,
    False, or None when unknown. False makes every command fail at once, also the one that waits for its answer.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self.path = path
        self.name = name
        #: Seconds for every command and for the synchronisation, when somebody has chosen them for this guest.
        self.response_timeout: float | None = None
        self._port_open: bool | None = None
        self._turn = asyncio.Lock()
        self._running = ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def port_open(self) -> bool | None:
        return self._port_open

    @port_open.setter
    def port_open(self, is_open: bool) -> None:
        self._port_open = is_open
        if not is_open:
            self._drop()

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = COMMAND_TIMEOUT
    ) -> Any:
        """Run one command and give what it returns.

        `timeout` counts from when the command is sent (`response_timeout`, where it is set, goes before); the turns of
        earlier callers and the synchronisation have their own. AgentUnresponsive when nobody is there or the agent
        does not answer the synchronisation, AgentCommandTimeout when it does not answer the command,
        AgentCommandFailed when it answers with an error, AgentCommandUnknown when that says it has no such command.
        """
        chosen = self.response_timeout
        answer = await self._ask(_message(command, arguments), timeout if chosen is None else chosen, FACTS_LIMIT)
        return _returned(command, answer)

    async def passthrough(self, text: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a whole message given as JSON text and give the whole answer as JSON text.

        Raises as `execute`, and InternalError (libvirt's code for it) for what is not JSON; what is JSON and yet no
        command, the agent refuses by itself.
        """
        if self._port_open is False:
            raise AgentUnresponsive("QEMU guest agent is not connected")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InternalError(f"failed to parse JSON: {error}") from error
        answer = await self._ask(message, timeout, ANSWER_LIMIT)
        _returned(_name(message), answer)
        return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)

    async def tell(self, command: str, arguments: Mapping[str, object] | None = None, *, patience: float = 1.0) -> None:
        """Send a command that gives no answer when it succeeds (guest-shutdown).

        An error that comes within `patience` seconds is raised as AgentCommandFailed.
        """
        try:
            await self.execute(command, arguments, timeout=patience)
        except (AgentCommandTimeout, AgentGone):
            return

    async def close(self) -> None:
        """End the connection; the next command connects again."""
        self._drop()

    async def _ask(self, message: object, timeout: float, limit: int) -> dict[str, Any]:
        command = _name(message)
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                await self._turn.acquire()
        except TimeoutError as error:
            held = f"held by {self._running}" if self._running else "held"
            raise OperationTimeout(f"cannot acquire state change lock ({held})") from error
        self._running = command
        try:
            line = await self._exchange(message, command, timeout, limit)
            return _parsed(line)
        except ValueError as error:
            self._drop()
            raise AgentUnresponsive(f"the answer to '{command}' is not JSON") from error
        except (OSError, EOFError) as error:
            self._drop()
            raise AgentGone("Guest agent disappeared while executing command") from error
        except BaseException:
            self._drop()
            raise
        finally:
            self._running = ""
            self._turn.release()

    async def _exchange(self, message: object, command: str, timeout: float, limit: int) -> bytes:
        """The line that answers the message."""
        reader, writer = await self._synchronised()
        try:
            async with asyncio.timeout(timeout):
                writer.write(json.dumps(message).encode() + b"\n")
                await writer.drain()
                return await _line(reader, limit)
        except TimeoutError as error:
            raise AgentCommandTimeout(
                f"guest agent didn't respond to command within '{timeout:g}' seconds", hint=f"it was {command}"
            ) from error
        except _TooLong as error:
            raise AgentUnresponsive(f"the answer to '{command}' is longer than {limit} bytes") from error

    async def _synchronised(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which the agent has answered our own number, so that what follows answers what we ask."""
        if self._port_open is False:
            raise AgentUnresponsive("QEMU guest agent is not connected")
        seconds = SYNC_TIMEOUT if self.response_timeout is None else min(self.response_timeout, SYNC_TIMEOUT)
        try:
            async with asyncio.timeout(seconds):
                if self._streams is None or self._streams[0].at_eof():
                    self._drop()
                    self._streams = await asyncio.open_unix_connection(self.path, limit=_BUFFER)
                await _synchronise(*self._streams)
        except TimeoutError as error:
            raise AgentUnresponsive(
                f"guest agent didn't respond to synchronization within '{seconds:g}' seconds"
            ) from error
        except _TooLong as error:
            raise AgentUnresponsive(f"guest agent sent {FLOOD_LIMIT} bytes and did not synchronize") from error
        except (OSError, EOFError) as error:
            raise AgentUnresponsive("QEMU guest agent is not connected") from error
        if self._streams is None:  # the port closed in the meantime
            raise AgentUnresponsive("QEMU guest agent is not connected")
        return self._streams

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class _TooLong(Exception):
    """More bytes than there may be."""


async def _line(reader: asyncio.StreamReader, limit: int) -> bytes:
    """What comes up to the next end of a line, and nothing after it."""
    line = bytearray()
    while True:
        try:
            return bytes(line) + await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            line += await reader.readexactly(error.consumed)
            if len(line) > limit:
                raise _TooLong from error


async def _synchronise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask for our own number back, and throw away what comes before it."""
    number = int.from_bytes(os.urandom(4)) >> 1
    # The 0xFF before makes the agent forget a command that was cut off half-way.
    writer.write(_SENTINEL + json.dumps(_message("guest-sync-delimited", {"id": number})).encode() + b"\n")
    await writer.drain()
    left = FLOOD_LIMIT
    while True:
        line = await _line(reader, left)
        left -= len(line)
        if left < 0:
            raise _TooLong
        _stale, sentinel, fresh = line.rpartition(_SENTINEL)
        if sentinel and len(fresh) < _SYNC_ANSWER:
            with contextlib.suppress(ValueError):
                if _parsed(fresh).get("return") == number:
                    return


def _message(command: str, arguments: Mapping[str, object] | None) -> dict[str, object]:
    return {"execute": command} | ({"arguments": dict(arguments)} if arguments else {})


def _name(message: object) -> str:
    """The command in a message."""
    command = message.get("execute") if isinstance(message, dict) else None
    return command if isinstance(command, str) else "<unknown>"


def _parsed(line: bytes) -> dict[str, Any]:
    """The JSON object in a line; ValueError for anything else, deep nesting included."""
    try:
        answer = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer


def _returned(command: str, answer: dict[str, Any]) -> Any:
    if "error" in answer:
        error = answer["error"]
        said = error.get("desc", error) if isinstance(error, dict) else error
        unknown = isinstance(error, dict) and error.get("class") in ("CommandNotFound", "CommandDisabled")
        kind = AgentCommandUnknown if unknown else AgentCommandFailed
        raise kind(f"unable to execute QEMU agent command '{command}': {str(said)[:TEXT_LIMIT]}")
    if "return" not in answer:
        raise AgentCommandFailed(f"QEMU agent command '{command}' returned neither error nor success")
    return answer.get("return")
