"""QEMU's monitor (QMP) of one machine, through the QEMU project's own library, with deadlines and our errors.

Vocabulary and framing: QEMU's docs/interop/qmp-spec. A monitor that does not answer makes one call fail.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.errors import InternalError, OperationFailed

#: Seconds that a monitor command may take unless its caller says otherwise.
COMMAND_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """An event as QEMU sent it: name (`SHUTDOWN`), data, and QEMU's own time of it."""

    name: str
    data: dict[str, Any]
    seconds: int
    microseconds: int


class MonitorCommandFailed(InternalError):
    """QEMU answered a command with an error; `error_class` is QMP's (GenericError, DeviceNotFound, CommandNotFound …)."""

    command: str
    error_class: str
    description: str


class MonitorClosed(OperationFailed):
    """The monitor's connection ended, before or while the command ran."""


class Monitor:
    """A connection to QEMU's monitor, negotiated, that sends commands and hands on events."""

    #: Done when the connection has ended, whoever ended it.
    closed: asyncio.Future[None]

    @classmethod
    async def connect(
        cls,
        address: Path | socket.socket,
        *,
        name: str,
        on_event: Callable[[MonitorEvent], None] | None = None,
        timeout: float = COMMAND_TIMEOUT,
    ) -> Monitor:
        """Connect (or take a connected socket) and negotiate; `name` is the domain's, for texts and logs.

        `on_event` is called in the order of the wire, also in relation to replies.
        """
        raise NotImplementedError

    @property
    def version(self) -> tuple[int, int, int]:
        """The version of QEMU that the greeting told."""
        raise NotImplementedError

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float = COMMAND_TIMEOUT,
        oob: bool = False,
    ) -> Any:
        """Run one command and give what it returns; MonitorCommandFailed, MonitorClosed or OperationTimeout."""
        raise NotImplementedError

    async def human(self, line: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run one command of the human monitor and give its output as it is."""
        raise NotImplementedError

    async def passthrough(self, text: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a whole QMP message given as JSON text; QEMU's whole reply as JSON text, errors too (the caller's `id` kept)."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the connection; QEMU runs on and listens again."""
        raise NotImplementedError
