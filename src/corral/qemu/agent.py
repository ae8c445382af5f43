"""The guest agent on its virtio port: one command at a time, each with a deadline, resynchronised after any doubt.

The protocol has no ids: an answer that comes late would be taken for the next command's. After connecting and after any
time-out `guest-sync-delimited` is sent, and everything up to its 0xFF byte and our own number is thrown away
(QEMU Guest Agent Protocol Reference, guest-sync-delimited).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.errors import AgentCommandFailed, AgentCommandTimeout, AgentUnresponsive, InvalidArgument

#: Seconds that an agent may take to answer `guest-sync-delimited` (libvirt's own default).
SYNC_TIMEOUT = 5.0
#: Seconds that a command may take unless its caller says otherwise.
COMMAND_TIMEOUT = 5.0
#: The longest answer taken from an agent, in bytes.
ANSWER_LIMIT = 16 * 1024 * 1024

_SENTINEL = b"\xff"


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
        self._port_open: bool | None = None
        self._turn = asyncio.Lock()
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

        `timeout` counts from when the command is sent; the turns of earlier callers and the synchronisation have
        their own. AgentUnresponsive when nobody is there or the agent does not answer the synchronisation,
        AgentCommandTimeout when it does not answer the command, AgentCommandFailed when it answers with an error.
        """
        answer = await self._ask(_message(command, arguments), timeout)
        return _returned(command, answer)

    async def passthrough(self, text: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a whole message given as JSON text and give the whole answer as JSON text.

        Raises as `execute`, and InvalidArgument for what is no message.
        """
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"cannot parse json {text[:200]}: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("execute"), str):
            raise InvalidArgument("an agent command is a JSON object with a member 'execute'")
        answer = await self._ask(message, timeout)
        _returned(message["execute"], answer)
        return json.dumps(answer)

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

    async def _ask(self, message: Mapping[str, object], timeout: float) -> dict[str, Any]:
        command = message["execute"]
        async with self._turn:
            if self._streams is not None and self._streams[0].at_eof():
                self._drop()
            reader, writer = self._streams or await self._synchronised()
            try:
                async with asyncio.timeout(timeout):
                    writer.write(json.dumps(message).encode() + b"\n")
                    await writer.drain()
                    return _parsed(await reader.readuntil(b"\n"))
            except TimeoutError as error:
                self._drop()
                raise AgentCommandTimeout(f"'{command}' was not answered in {timeout:g} s") from error
            except asyncio.LimitOverrunError as error:
                self._drop()
                raise AgentUnresponsive(f"the answer to '{command}' is longer than {ANSWER_LIMIT} bytes") from error
            except ValueError as error:
                self._drop()
                raise AgentUnresponsive(f"the answer to '{command}' is not JSON") from error
            except (OSError, EOFError) as error:
                self._drop()
                raise AgentGone("guest agent disappeared while executing command") from error
            except asyncio.CancelledError:
                self._drop()
                raise

    async def _synchronised(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which the agent has answered our own number, so that what follows answers what we ask."""
        if self._port_open is False:
            raise AgentUnresponsive("QEMU guest agent is not connected")
        try:
            async with asyncio.timeout(SYNC_TIMEOUT):
                self._streams = await asyncio.open_unix_connection(self.path, limit=ANSWER_LIMIT)
                await self._synchronise(*self._streams)
        except TimeoutError as error:
            self._drop()
            raise AgentUnresponsive("guest agent is not available for now: it does not answer") from error
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            self._drop()
            raise AgentUnresponsive("QEMU guest agent is not connected") from error
        except asyncio.CancelledError:
            self._drop()
            raise
        assert self._streams is not None
        return self._streams

    async def _synchronise(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = secrets.randbelow(1 << 31)
        # The 0xFF before makes the agent forget a command that was cut off half-way.
        writer.write(_SENTINEL + json.dumps(_message("guest-sync-delimited", {"id": number})).encode() + b"\n")
        await writer.drain()
        while True:
            line = await reader.readuntil(b"\n")
            _stale, sentinel, fresh = line.rpartition(_SENTINEL)
            if sentinel:
                try:
                    if _parsed(fresh).get("return") == number:
                        return
                except ValueError:
                    continue

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def _message(command: str, arguments: Mapping[str, object] | None) -> dict[str, object]:
    return {"execute": command} | ({"arguments": dict(arguments)} if arguments else {})


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
        raise AgentCommandFailed(f"unable to execute QEMU agent command '{command}': {said}")
    return answer.get("return")
