"""The guest agent on its virtio port: one command at a time, each with a deadline, resynchronised after any doubt.

The protocol has no ids: an answer that comes late would be taken for the next command's. After connecting and after any
time-out `guest-sync-delimited` is sent, and everything up to its 0xFF byte and our own number is thrown away
(QEMU Guest Agent Protocol Reference, guest-sync-delimited).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Seconds that an agent may take to answer `guest-sync-delimited` (libvirt's own default).
SYNC_TIMEOUT = 5.0
#: Seconds that a command may take unless its caller says otherwise.
COMMAND_TIMEOUT = 5.0
#: The longest answer taken from an agent, in bytes.
ANSWER_LIMIT = 16 * 1024 * 1024


class Agent:
    """A guest's agent behind a UNIX socket of QEMU's; connects at its first command, reconnects after a loss.

    `port_open` is what the monitor says of the guest's end (VSERPORT_CHANGE, query-chardev's frontend-open): True,
    False, or None when unknown. False makes every command fail at once.
    """

    port_open: bool | None

    def __init__(self, path: Path, *, name: str) -> None: ...

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = COMMAND_TIMEOUT
    ) -> Any:
        """Run one command and give what it returns.

        AgentUnresponsive when nobody is there or the agent does not answer the synchronisation, AgentCommandTimeout
        when it does not answer the command, AgentCommandFailed when it answers with an error.
        """
        raise NotImplementedError

    async def passthrough(self, text: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a whole message given as JSON text and give the whole answer as JSON text."""
        raise NotImplementedError

    async def tell(self, command: str, arguments: Mapping[str, object] | None = None) -> None:
        """Send a command that gives no answer when it succeeds (guest-shutdown), without waiting for one."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the connection; the next command connects again."""
        raise NotImplementedError
