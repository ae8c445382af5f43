"""A file of the guest's, read through its agent (guest-file-*, QEMU Guest Agent Protocol Reference)."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

from corral.errors import AgentCommandFailed, CorralError
from corral.qemu.agent import COMMAND_TIMEOUT

if TYPE_CHECKING:
    from corral.qemu.agent import Agent

#: Bytes that are asked for at once: an answer is a third larger, and bounded (`agent.FACTS_LIMIT`).
PIECE = 1 << 19


async def read(agent: Agent, path: str, *, limit: int, timeout: float = COMMAND_TIMEOUT) -> bytes:
    """What the file has, and of a longer one its first `limit` bytes or some more; `timeout` is that of each command.

    AgentCommandFailed with the guest's reason, and for answers that make no sense.
    """
    handle = await agent.execute("guest-file-open", {"path": path, "mode": "r"}, timeout=timeout)
    content = bytearray()
    try:
        while len(content) < limit:
            request = {"handle": handle, "count": min(PIECE, limit)}
            part, last = _part(await agent.execute("guest-file-read", request, timeout=timeout))
            content += part
            if last:
                break
        return bytes(content)
    finally:
        with contextlib.suppress(CorralError):
            await agent.execute("guest-file-close", {"handle": handle}, timeout=timeout)


def _part(answer: Any) -> tuple[bytes, bool]:
    """The bytes of an answer, and whether they were the last."""
    try:
        part = base64.b64decode(answer["buf-b64"])
        return part, bool(answer.get("eof")) or not part
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AgentCommandFailed(f"guest-file-read makes no sense: {error!r}") from error
