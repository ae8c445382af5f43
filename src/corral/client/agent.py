"""What the guest agent does for a client: programs run in the guest, and its addresses.

Commands and their fields: QEMU's guest agent protocol reference (qga/qapi-schema.json).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from corral.client.execution import STDERR, STDOUT, Execution, Input
from corral.errors import AgentCommandFailed, OperationTimeout

if TYPE_CHECKING:
    from corral.client.domain import Domain

OUTPUT_LIMIT = 256 << 20  # bytes kept of each output; `Domain.execution` has no limit


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a program in the guest ended and what it wrote.

    `status` is the exit status, 128 + the signal when one ended it. `truncated` says that output was
    dropped: there was more than 256 MiB, or more than the agent keeps.
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
    domain: Domain,
    argv: Sequence[str],
    *,
    stdin: Input,
    timeout: float | None,
    agent_timeout: float,
) -> ExecResult:
    """Run `argv` in the guest and wait for its end; see `Domain.exec`."""
    outputs = {STDOUT: bytearray(), STDERR: bytearray()}
    dropped = False
    try:
        async with (
            asyncio.timeout(timeout),
            Execution(domain, argv, stdin=stdin, agent_timeout=agent_timeout) as running,
        ):
            async for number, data in running:
                room = OUTPUT_LIMIT - len(outputs[number])
                dropped = dropped or len(data) > room
                outputs[number] += data[:room]
    except TimeoutError as error:
        raise OperationTimeout(
            f"{argv[0]} in {domain.name} has not ended after {timeout:g} s and was told to"
        ) from error
    assert running.status is not None
    return ExecResult(
        running.status, bytes(outputs[STDOUT]), bytes(outputs[STDERR]), truncated=dropped or running.truncated
    )


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
