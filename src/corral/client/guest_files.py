"""Files of the guest, read and written through its agent in pieces (QEMU's guest agent protocol: guest-file-*)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from corral.client.execution import plain
from corral.errors import AgentCommandFailed, CorralError

if TYPE_CHECKING:
    from corral.client.domain import Domain

PIECE = 1 << 20  # bytes in one command
TIMEOUT = 30.0  # seconds for one piece: the guest may write it to a slow disk


async def read(domain: Domain, path: str) -> AsyncIterator[bytes]:
    """The content of the guest's file `path`, piece by piece; AgentCommandFailed with the guest's reason."""
    async with _opened(domain, path, "r") as handle:
        while True:
            answer = await _ask(domain, path, "guest-file-read", {"handle": handle, "count": PIECE})
            if data := base64.b64decode(answer.get("buf-b64", "")):
                yield data
            if answer.get("eof") or not data:
                return


async def write(domain: Domain, path: str, pieces: Iterable[bytes]) -> int:
    """Make the guest's file `path` of `pieces`, in place of what it had; how many bytes that were.

    AgentCommandFailed with the guest's reason; the file is then incomplete.
    """
    written = 0
    async with _opened(domain, path, "w") as handle:
        waiting = iter(pieces)
        while piece := await asyncio.to_thread(next, waiting, b""):  # where they come from may let us wait
            for start in range(0, len(piece), PIECE):
                data = piece[start : start + PIECE]
                while data:
                    text = base64.b64encode(data).decode()
                    answer = await _ask(domain, path, "guest-file-write", {"handle": handle, "buf-b64": text})
                    data = data[int(answer["count"]) :]
                    written += int(answer["count"])
        await _ask(domain, path, "guest-file-flush", {"handle": handle})
    return written


@contextlib.asynccontextmanager
async def _opened(domain: Domain, path: str, mode: str) -> AsyncIterator[int]:
    handle = int(await _ask(domain, path, "guest-file-open", {"path": path, "mode": mode}))
    try:
        yield handle
    except BaseException:
        with contextlib.suppress(CorralError):
            await domain.agent("guest-file-close", {"handle": handle})
        raise
    await _ask(domain, path, "guest-file-close", {"handle": handle})


async def _ask(domain: Domain, about: str, command: str, arguments: dict[str, Any]) -> Any:
    try:
        return await domain.agent(command, arguments, timeout=TIMEOUT)
    except AgentCommandFailed as error:
        reason = plain(error).detail
        text = reason if about in reason else f"{about}: {reason}"
        raise AgentCommandFailed(f"{domain.name}: {text}") from error
