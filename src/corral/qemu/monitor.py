"""QEMU's monitor (QMP) of one machine, through the QEMU project's own library, with deadlines and our errors.

Vocabulary and framing: QEMU's docs/interop/qmp-spec. A monitor that does not answer makes one call fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPError,
    Runstate,
)
from qemu.qmp.util import flush

from corral.errors import InternalError, InvalidArgument, OperationFailed, OperationTimeout
from corral.qemu.quiet import QuietClient

#: Seconds that a monitor command may take unless its caller says otherwise.
COMMAND_TIMEOUT = 30.0

#: The longest message taken from QEMU, in bytes.
MESSAGE_LIMIT = 16 * 1024 * 1024

#: Commands that may be under way at once: more wait only where QEMU has stopped answering.
PENDING_LIMIT = 64

_CLOSE_TIMEOUT = 2.0

# The library reports every end of a connection as an error of its own; ours are raised where somebody can act on them.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """An event as QEMU sent it: name (`SHUTDOWN`), data, and QEMU's own time of it."""

    name: str
    data: dict[str, Any]
    seconds: int
    microseconds: int


class MonitorCommandFailed(InternalError):
    """QEMU answered a command with an error; `error_class` is QMP's (GenericError, DeviceNotFound …)."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"unable to execute QEMU command '{command}': {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


class MonitorClosed(OperationFailed):
    """The monitor's connection ended, before or while the command ran."""


class _Client(QuietClient):
    """The library's client, which can send a descriptor from any event loop."""

    #: The command and the descriptor that goes with it, until it is sent or nobody waits for that any longer.
    carried: tuple[str, int] | None = None

    async def _send(self, msg: Message) -> None:
        """In the writer's turn: behind what was sent before, the message and its descriptor in one piece (SCM_RIGHTS).

        The library's own `send_fd_scm` needs a socket that uvloop does not give away, and does not wait for its turn.
        """
        if self.carried is None or self.carried[0] != msg.get("execute") or self._writer is None:
            await super()._send(msg)
            return
        transport = self._writer.transport
        while transport.get_write_buffer_size():
            await flush(self._writer)
            await asyncio.sleep(0)
        if self.carried is None:
            return
        (_, descriptor), self.carried = self.carried, None
        whole = bytes(self._cb_outbound(msg))
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as own:
            try:
                sent = socket.send_fds(own, [whole], [descriptor])
            except BlockingIOError as error:
                raise QMPError("QEMU reads nothing from its monitor") from error
        self._writer.write(whole[sent:])


class Monitor:
    """A connection to QEMU's monitor, negotiated, that sends commands and hands on events."""

    def __init__(self, qmp: _Client, name: str) -> None:
        self.name = name
        #: Done when the connection has ended, whoever ended it.
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._qmp = qmp
        self._pending = 0
        self._passed = 0
        self._closing = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._watch = asyncio.create_task(self._watch_connection(), name=f"monitor of {name}")

    @classmethod
    async def connect(
        cls,
        path: Path,
        *,
        name: str,
        on_event: Callable[[MonitorEvent], None] | None = None,
        timeout: float = COMMAND_TIMEOUT,
    ) -> Monitor:
        """Connect to QEMU's socket and negotiate; `name` is the domain's, for texts and logs.

        `on_event` is called in the order of the wire, also in relation to replies.
        Raises MonitorClosed when nobody listens or QEMU hangs up, OperationTimeout when it says nothing.
        """
        qmp = _Client(name, readbuflen=MESSAGE_LIMIT)
        if on_event is not None:
            qmp.register_listener(_direct(on_event))
        try:
            async with asyncio.timeout(timeout):
                await qmp.connect(str(path))
        except TimeoutError as error:
            raise OperationTimeout(f"the monitor of '{name}' did not answer in {timeout:g} s") from error
        except ConnectError as error:
            raise MonitorClosed(f"cannot reach the monitor of '{name}': {_reason(error)}") from error
        return cls(qmp, name)

    @property
    def version(self) -> tuple[int, int, int]:
        """The version of QEMU that the greeting told."""
        greeting = self._qmp.greeting
        version = greeting.QMP.version.get("qemu") if greeting is not None else None
        if not isinstance(version, dict):
            return 0, 0, 0
        return version.get("major", 0), version.get("minor", 0), version.get("micro", 0)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float = COMMAND_TIMEOUT,
        oob: bool = False,
        descriptor: int | None = None,
    ) -> Any:
        """Run one command and give what it returns; `descriptor` goes with it (`add-fd`, `getfd`) and stays ours.

        Raises MonitorCommandFailed, MonitorClosed or OperationTimeout; after the last the command may still happen.
        """
        message = QuietClient.make_execute_msg(command, arguments, oob=oob)
        try:
            if descriptor is None:
                return await self._issue(command, message, timeout)
            async with self._sending:  # QEMU keeps one descriptor that no command has taken yet
                self._qmp.carried = (command, descriptor)
                try:
                    return await self._issue(command, message, timeout)
                finally:
                    self._qmp.carried = None
        except ExecuteError as error:
            raise MonitorCommandFailed(command, error.error_class, str(error)) from error

    async def human(self, line: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run one command of the human monitor and give its output as it is."""
        output = await self.execute("human-monitor-command", {"command-line": line}, timeout=timeout)
        return str(output)

    async def passthrough(self, text: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a whole QMP message given as JSON text; QEMU's whole reply as JSON text, also when it is an error.

        Compact and with an `id`, the caller's or one as libvirt gives, for that is what scripts see there. Raises
        InvalidArgument for what is no QMP message.
        """
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"cannot parse json {text[:200]}: {error}") from error
        command = given.get("execute", given.get("exec-oob")) if isinstance(given, dict) else None
        if not isinstance(command, str):
            raise InvalidArgument("a monitor command is a JSON object with a member 'execute'")
        self._passed += 1
        identity = {"id": given.pop("id", f"libvirt-{self._passed}")}
        try:
            reply: dict[str, Any] = {"return": await self._issue(command, Message(given), timeout)}
        except ExecuteError as error:
            reply = {"error": error.received["error"]}
        return json.dumps(reply | identity, separators=(",", ":"), ensure_ascii=False)

    async def close(self) -> None:
        """End the connection; QEMU runs on and listens again."""
        await self._close()
        await asyncio.wait((self._watch,), timeout=_CLOSE_TIMEOUT)

    async def _issue(self, command: str, message: Message, timeout: float) -> object:
        if self.closed.done() or self._qmp.runstate is not Runstate.RUNNING:
            raise MonitorClosed(f"the monitor of '{self.name}' is closed")
        if self._pending >= PENDING_LIMIT:
            raise OperationTimeout(f"the monitor of '{self.name}' has not answered the last {self._pending} commands")
        self._pending += 1
        try:
            async with asyncio.timeout(timeout):
                return await self._qmp.execute_msg(message)
        except TimeoutError as error:
            raise OperationTimeout(
                f"the monitor of '{self.name}' did not answer '{command}' in {timeout:g} s"
            ) from error
        except ExecuteError:
            raise
        except ExecInterruptedError as error:
            raise MonitorClosed(f"the monitor of '{self.name}' closed while '{command}' ran") from error
        except (QMPError, OSError) as error:
            raise MonitorClosed(f"the monitor of '{self.name}' failed at '{command}': {error}") from error
        finally:
            self._pending -= 1

    async def _watch_connection(self) -> None:
        """Notice the end of the connection: the library tells it only to those who ask."""
        while self._qmp.runstate is Runstate.RUNNING:
            await self._qmp.runstate_changed()
        await self._close()

    async def _close(self) -> None:
        async with self._closing:
            if self.closed.done():
                return
            # Why it ended is of no use here: whoever waits for a reply is told, and the process says the rest.
            with contextlib.suppress(QMPError, OSError, EOFError, ValueError, RecursionError, TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._qmp.disconnect()
            self.closed.set_result(None)


def _direct(on_event: Callable[[MonitorEvent], None]) -> EventListener:
    """A listener whose filter is the receiver: called by the reader itself, before it looks at the next message."""

    def receive(message: Message) -> bool:
        try:
            data, time = message.get("data"), message.get("timestamp")
            on_event(
                MonitorEvent(
                    str(message["event"]),
                    data if isinstance(data, dict) else {},
                    int(time.get("seconds", 0)) if isinstance(time, dict) else 0,
                    int(time.get("microseconds", 0)) if isinstance(time, dict) else 0,
                )
            )
        except Exception:
            _log.exception("an event of QEMU's was not taken: %s", message)
        return False

    return EventListener(event_filter=receive)


def _reason(error: ConnectError) -> str:
    """What lies at the bottom of a failed connection."""
    cause = error.exc
    if isinstance(cause, EOFError):
        return "QEMU hung up"
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
