"""Dealing with a running guest: keys, pictures, consoles, its agent, QEMU's monitor as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from corral.constants import (
    DomainChannelFlags,
    DomainConsoleFlags,
    DomainQemuAgentCommandTimeout,
    DomainQemuMonitorCommandFlags,
)
from corral.errors import (
    HostError,
    InternalError,
    InvalidArgument,
    OperationFailed,
    OperationInvalid,
)
from corral.hypervisor.guest import guest_agent, keys, stream

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.guest.stream import ByteStream
    from corral.hypervisor.run import Run
    from corral.model.devices.chardev import Chardev

Device = TypeVar("Device", bound="Chardev")

#: Seconds for an agent command when the caller leaves it to us.
AGENT_TIMEOUT = 5.0
#: Bytes of the log that are shown when no number of lines is given, and that are looked through for them.
LOG_TAIL = 1 << 20


@dataclass(frozen=True, slots=True)
class Screenshot:
    """One picture of a domain's screen."""

    mime: str
    data: bytes


async def send_key(domain: Domain, codeset: int, holdtime: int, keycodes: list[int]) -> None:
    """Press the keys together."""
    numbers = keys.translate(codeset, keycodes)
    await domain.require_run().require_machine().send_key(numbers, hold_ms=holdtime)


async def inject_nmi(domain: Domain) -> None:
    """Interrupt the guest."""
    await domain.require_run().require_machine().inject_nmi()


async def screenshot(domain: Domain, screen: int) -> Screenshot:
    """A picture of screen `screen`, counted over all video devices' heads."""
    run = domain.require_run()
    device, head = _head(run, screen)
    return Screenshot(*await run.require_machine().screendump(device=device, head=head))


def _head(run: Run, screen: int) -> tuple[str | None, int]:
    videos = [video for video in run.live.document.devices.videos if video.model and video.model.type != "none"]
    if not videos:
        raise OperationInvalid("no screens to take screenshot from")
    left = screen
    for video in videos:
        heads = (video.model.heads if video.model else None) or 1
        if left < heads:
            if video.model is not None and video.model.type == "qxl":
                left = 0  # its heads are parts of one picture
            return (None, 0) if screen == 0 else (video.alias.name if video.alias else None, left)
        left -= heads
    raise OperationInvalid(f"no such screen ID: {screen}")


async def open_console(domain: Domain, name: str | None, flags: int) -> ByteStream:
    """A console's bytes; one session at a time, and FORCE ends the one before."""
    run = domain.require_run()
    devices = run.live.document.devices
    candidates: list[Chardev] = [*devices.consoles, *devices.serials, *devices.parallels]
    device = _find(candidates, name)
    if device is None:
        raise InternalError(f"cannot find character device {name or '<null>'}")
    if device.type not in ("pty", "unix"):
        raise InternalError(f"character device {name or _alias(device)} is not using a PTY or UNIX socket")
    taken = "Active console session exists for this domain"
    return await _session(run, device, force=bool(flags & DomainConsoleFlags.FORCE), taken=taken)


async def open_channel(domain: Domain, name: str | None, flags: int) -> ByteStream:
    """A channel's bytes."""
    run = domain.require_run()
    channels = run.live.document.devices.channels
    device = next((each for each in channels if name is not None and each.target.name == name), _find(channels, name))
    if device is None:
        raise InternalError(f"cannot find channel {name or '<null>'}")
    if device.type != "unix":
        raise InternalError(f"channel {name or _alias(device)} is not using a UNIX socket")
    if run.agent is not None and device.target.name == guest_agent.PORT:
        await run.agent.close()  # QEMU serves one connection at a time
    taken = "Active channel stream exists for this domain"
    return await _session(run, device, force=bool(flags & DomainChannelFlags.FORCE), taken=taken)


def _find(devices: Sequence[Device], name: str | None) -> Device | None:
    if name is None:
        return devices[0] if devices else None
    return next((each for each in devices if _alias(each) == name), None)


def _alias(device: Chardev) -> str:
    return device.alias.name if device.alias else ""


async def _session(run: Run, device: Chardev, *, force: bool, taken: str) -> ByteStream:
    path = device.source.path if device.source else None
    if not path:
        raise InternalError(f"character device {_alias(device)} has no path")
    alias = _alias(device)
    before = run.sessions.get(alias)
    if before is not None:
        if not force:
            raise OperationFailed(taken)
        before.close()
    opened: list[ByteStream] = []

    def closed() -> None:
        if opened and run.sessions.get(alias) is opened[0]:
            del run.sessions[alias]

    if device.type == "pty":
        session = stream.open_terminal(path, closed)
    else:
        session = await stream.open_socket(path, closed)
        rival = run.sessions.get(alias)
        if rival is not None:  # somebody was quicker while we connected
            session.close()
            raise OperationFailed(taken)
    opened.append(session)
    run.sessions[alias] = session
    return session


async def monitor_command(domain: Domain, text: str, flags: int) -> str:
    """QEMU's answer to a QMP message, or to a line of its human monitor, as it is."""
    machine = domain.require_run().require_machine()
    if flags & DomainQemuMonitorCommandFlags.HMP:
        return await machine.monitor.human(text)
    return await machine.monitor.passthrough(text)


async def agent_command(domain: Domain, text: str, timeout: int) -> str:
    """The agent's answer to a message as it is."""
    agent = guest_agent.of(domain)
    if timeout < DomainQemuAgentCommandTimeout.MIN:
        raise InvalidArgument(f"guest agent timeout '{timeout}' is less than the minimum '-2'")
    seconds = {
        DomainQemuAgentCommandTimeout.BLOCK: guest_agent.LONGEST_TIMEOUT,
        DomainQemuAgentCommandTimeout.DEFAULT: AGENT_TIMEOUT,
    }.get(timeout, float(timeout))
    return await domain.hypervisor.complete(agent.passthrough(text, timeout=seconds))


async def log_text(domain: Domain, lines: int) -> str:
    """The end of QEMU's own log for the domain; "" when there is none, as before its first run."""
    if domain.run is None and not domain.last_boot:
        return ""
    path = domain.run.log if domain.run else domain.hypervisor.settings.domain_log(domain.name)
    return await asyncio.to_thread(_tail, path, lines)


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL))
            text = file.read(LOG_TAIL).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else text
