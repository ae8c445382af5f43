"""What the guest agent does for a client: programs run in the guest, and its addresses.

Commands and their fields: QEMU's guest agent protocol reference (qga/qapi-schema.json).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from corral.errors import AgentCommandFailed, CorralError, InvalidArgument, OperationTimeout

if TYPE_CHECKING:
    from corral.client.domain import Domain

STDIN_LIMIT = 2 << 20  # bytes; a call carries 4 MiB, and base64 makes four of three
FIRST_LOOK, LAST_LOOK = 0.02, 0.5  # seconds between looks at a running program: the agent tells of no end by itself


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a program in the guest ended and what it wrote.

    `status` is the exit status, 128 + the signal when one ended it. `truncated` says that the agent dropped output.
    """

    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False

    @property
    def text(self) -> str:
        """The standard output as text, without the last line's end."""
        return self.stdout.decode(errors="replace").rstrip("\n")


async def execute(
    domain: Domain, argv: Sequence[str], *, stdin: bytes | None, timeout: float | None, agent_timeout: float
) -> ExecResult:
    """Run `argv` in the guest and wait for its end; see `Domain.exec`."""
    if not argv or not argv[0]:
        raise InvalidArgument("no program was named")
    request: dict[str, object] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    if stdin is not None:
        if len(stdin) > STDIN_LIMIT:
            raise InvalidArgument(f"standard input has {len(stdin)} bytes, the agent takes {STDIN_LIMIT}")
        request["input-data"] = base64.b64encode(stdin).decode()
    pid = int((await domain.agent("guest-exec", request, timeout=agent_timeout))["pid"])
    try:
        async with asyncio.timeout(timeout):
            return await _ended(domain, pid, agent_timeout)
    except TimeoutError as error:
        await _kill(domain, pid)
        raise OperationTimeout(
            f"{argv[0]} in {domain.name} has not ended after {timeout:g} s and was told to"
        ) from error
    except asyncio.CancelledError:
        await asyncio.shield(_kill(domain, pid))
        raise


async def _ended(domain: Domain, pid: int, agent_timeout: float) -> ExecResult:
    pause = FIRST_LOOK
    while True:
        status = await domain.agent("guest-exec-status", {"pid": pid}, timeout=agent_timeout)
        if status.get("exited"):
            return ExecResult(
                128 + status["signal"] if "signal" in status else int(status.get("exitcode", 0)),
                base64.b64decode(status.get("out-data", "")),
                base64.b64decode(status.get("err-data", "")),
                bool(status.get("out-truncated") or status.get("err-truncated")),
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LAST_LOOK)


async def _kill(domain: Domain, pid: int) -> None:
    """Best effort: the agent has no command for it, a program in the guest does."""
    with suppress(CorralError, TimeoutError):
        async with asyncio.timeout(3.0):
            await domain.agent("guest-exec", {"path": "kill", "arg": ["-TERM", str(pid)]}, timeout=2.0)


async def addresses(domain: Domain) -> list[str]:
    """The guest's addresses, IPv4 first."""
    answer = await domain.agent("guest-network-get-interfaces", timeout=3.0)
    if not isinstance(answer, list):
        raise AgentCommandFailed("guest-network-get-interfaces returned no list")
    found = []
    for interface in answer:
        for entry in interface.get("ip-addresses", []):
            with suppress(ValueError):
                address = ip_address(entry.get("ip-address", ""))
                if not (address.is_loopback or address.is_link_local or getattr(address, "is_site_local", False)):
                    found.append(address)
    return [str(address) for address in sorted(found, key=lambda address: (address.version, int(address)))]
