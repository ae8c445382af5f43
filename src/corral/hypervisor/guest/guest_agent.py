"""What is asked of a running guest through its agent: clock, filesystems, passwords, keys, facts about itself.

A guest that answers nothing makes a call end at its deadline, and harms nobody: these calls do not take the domain's
job slot, and an agent serves its own callers one by one. Commands: QEMU Guest Agent Protocol Reference.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.constants import (
    DomainAgentResponseTimeout,
    DomainAuthorizedSSHKeysSetFlags,
    DomainGetHostnameFlags,
    DomainGuestInfoTypes,
    DomainInterfaceAddressesSource,
    DomainSetTimeFlags,
    DomainSetUserPasswordFlags,
    DomainState,
)
from corral.errors import (
    AgentCommandFailed,
    ArgumentUnsupported,
    CorralError,
    InvalidArgument,
    OperationInvalid,
    OperationUnsupported,
)
from corral.hypervisor.devices import cards
from corral.hypervisor.guest import guest_facts
from corral.hypervisor.guest.guest_facts import Facts, Filesystem, Interface
from corral.qemu.agent import AgentCommandUnknown

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.agent import Agent

log = logging.getLogger(__name__)

#: The name of the virtio port on which the guest agent listens.
PORT = "org.qemu.guest_agent.0"
#: Seconds for what the guest knows, and for what it has to do something for (flush and freeze its disks, trim them).
QUESTION_TIMEOUT = 10.0
DEED_TIMEOUT = 120.0
#: Seconds when a caller chose to wait for ever: every wait has its end.
LONGEST_TIMEOUT = 3600.0
#: The file in a run's directory that keeps the response timeout for the next daemon.
_TIMEOUT_FILE = "agent-timeout"
_NANOSECONDS = 10**9
_INT64_MAX = (1 << 63) - 1


def of(domain: Domain) -> Agent:
    """The domain's agent, if it can answer: the guest runs, and has a channel for one."""
    run = domain.require_run()
    if domain.state()[0] != DomainState.RUNNING:
        raise OperationInvalid("domain is not running")
    if run.agent is None:
        raise ArgumentUnsupported("QEMU guest agent is not configured")
    return run.agent


async def _ask(domain: Domain, command: str, arguments: dict[str, object] | None = None) -> Any:
    """What the agent answers to a question."""
    return await domain.hypervisor.complete(of(domain).execute(command, arguments, timeout=QUESTION_TIMEOUT))


async def _do(domain: Domain, command: str, arguments: dict[str, object] | None = None) -> Any:
    """What the agent answers when it has done something, even if our caller has gone."""
    return await domain.hypervisor.complete(of(domain).execute(command, arguments, timeout=DEED_TIMEOUT))


async def get_time(domain: Domain) -> tuple[int, int]:
    """(seconds, nanoseconds) of the guest's clock, since 1970."""
    return divmod(guest_facts.number(await _ask(domain, "guest-get-time"), "its clock"), _NANOSECONDS)


async def set_time(domain: Domain, seconds: int, nanoseconds: int, flags: int) -> None:
    """Set the guest's clock, or with virDomainSetTimeFlags SYNC have the guest take it from its own RTC."""
    agent = of(domain)
    arguments: dict[str, object] = {}
    if not flags & DomainSetTimeFlags.TIME_SYNC:
        time = seconds * _NANOSECONDS + nanoseconds
        if not -_INT64_MAX <= time <= _INT64_MAX:
            raise InvalidArgument(f"Time '{seconds}' is too big for guest agent")
        arguments = {"time": time}

    async def work() -> None:
        await agent.execute("guest-set-time", arguments, timeout=DEED_TIMEOUT)
        # Interrupts that the guest has missed would be made up for, and its clock run fast.
        await domain.require_run().require_machine().monitor.execute("rtc-reset-reinjection")

    await domain.change("set time", work)


async def freeze(domain: Domain, mountpoints: Sequence[str]) -> int:
    """Flush and freeze filesystems (none given: all); how many are frozen."""
    arguments: dict[str, object] = {"mountpoints": list(mountpoints)} if mountpoints else {}
    command = "guest-fsfreeze-freeze-list" if mountpoints else "guest-fsfreeze-freeze"
    agent = of(domain)

    async def work() -> Any:
        try:
            return await agent.execute(command, arguments, timeout=DEED_TIMEOUT)
        except AgentCommandFailed:
            raise
        except CorralError:
            # Perhaps the guest is frozen and could not say so: a call that failed leaves nothing frozen.
            with contextlib.suppress(CorralError):
                await agent.execute("guest-fsfreeze-thaw", timeout=DEED_TIMEOUT)
            raise

    return _count(await domain.hypervisor.complete(work()))


async def thaw(domain: Domain, mountpoints: Sequence[str]) -> int:
    """Thaw all filesystems; how many were frozen. The agent knows no thawing of some."""
    if mountpoints:
        raise ArgumentUnsupported("specifying mountpoints is not supported")
    return _count(await _do(domain, "guest-fsfreeze-thaw"))


def _count(answer: Any) -> int:
    number = guest_facts.number(answer, "how many filesystems")
    if not 0 <= number < 1 << 31:
        raise AgentCommandFailed(f"the agent's count of filesystems makes no sense: {number}")
    return number


async def trim(domain: Domain, mountpoint: str | None, minimum: int) -> None:
    """Give unused blocks of at least `minimum` bytes back, on all filesystems."""
    if mountpoint is not None:
        raise ArgumentUnsupported("Specifying mount point is not supported for now")
    arguments: dict[str, object] = {"minimum": minimum} if minimum else {}
    guest_facts.trim_failures(await _do(domain, "guest-fstrim", arguments))  # not being able to is no failure


async def filesystems(domain: Domain) -> tuple[Filesystem, ...]:
    """The guest's mounted filesystems, with our names of their disks."""
    answer = await _ask(domain, "guest-get-fsinfo")
    return guest_facts.filesystems(answer, domain.require_run().live.document.devices)


async def set_password(domain: Domain, user: str | None, password: str | None, flags: int) -> None:
    """Give a user of the guest another password, encrypted already by virDomainSetUserPasswordFlags ENCRYPTED."""
    if not user or password is None:
        raise InvalidArgument("user and password must be given")
    encoded = base64.b64encode(password.encode("utf-8", "surrogateescape")).decode()
    crypted = bool(flags & DomainSetUserPasswordFlags.PASSWORD_ENCRYPTED)
    await _do(domain, "guest-set-user-password", {"username": user, "password": encoded, "crypted": crypted})


async def ssh_keys(domain: Domain, user: str) -> tuple[str, ...]:
    """The lines of a user's authorized_keys."""
    return guest_facts.texts(
        await _ask(domain, "guest-ssh-get-authorized-keys", {"username": user}), "keys", "authorized keys"
    )


async def set_ssh_keys(domain: Domain, user: str, keys: Sequence[str], flags: int) -> None:
    """Replace a user's authorized_keys, or add to or remove from them, by virDomainAuthorizedSSHKeysSetFlags."""
    arguments: dict[str, object] = {"username": user, "keys": list(keys)}
    if flags & DomainAuthorizedSSHKeysSetFlags.REMOVE:
        await _do(domain, "guest-ssh-remove-authorized-keys", arguments)
        return
    if not flags & DomainAuthorizedSSHKeysSetFlags.APPEND:
        arguments["reset"] = True
    await _do(domain, "guest-ssh-add-authorized-keys", arguments)


async def hostname(domain: Domain, flags: int) -> str:
    """The guest's host name by its agent; leases are known only to networks, which there are none of."""
    if flags & DomainGetHostnameFlags.LEASE and flags & DomainGetHostnameFlags.AGENT:
        raise InvalidArgument(
            "flags 'VIR_DOMAIN_GET_HOSTNAME_LEASE' and 'VIR_DOMAIN_GET_HOSTNAME_AGENT' exclude each other"
        )
    domain.require_run()
    if flags & DomainGetHostnameFlags.LEASE:
        raise OperationUnsupported("there are no networks whose leases could tell the host name")
    return guest_facts.text(await _ask(domain, "guest-get-host-name"), "host-name", "its host name")


async def interface_addresses(domain: Domain, source: int) -> tuple[Interface, ...]:
    """The guest's network addresses by one virDomainInterfaceAddressesSource."""
    domain.require_run()
    if source == DomainInterfaceAddressesSource.AGENT:
        return guest_facts.interfaces(await _ask(domain, "guest-network-get-interfaces"))
    if source == DomainInterfaceAddressesSource.ARP:
        return await cards.neighbours(domain)
    if source == DomainInterfaceAddressesSource.LEASE:
        return ()  # there are no networks that lease any
    raise ArgumentUnsupported(f"Unknown IP address data source {source}")


async def facts(domain: Domain, types: int) -> Facts:
    """What virDomainGuestInfoTypes ask for; with 0 all that this agent can tell, its gaps in `unknown`."""
    agent = of(domain)
    devices = domain.require_run().live.document.devices
    kinds = DomainGuestInfoTypes
    sources: dict[int, tuple[str, str, Callable[[Any], object]]] = {
        kinds.USERS: ("guest-get-users", "users", guest_facts.users),
        kinds.OS: ("guest-get-osinfo", "os", guest_facts.os),
        kinds.TIMEZONE: ("guest-get-timezone", "timezone", guest_facts.timezone),
        kinds.HOSTNAME: (
            "guest-get-host-name",
            "hostname",
            lambda answer: guest_facts.text(answer, "host-name", "its host name"),
        ),
        kinds.FILESYSTEM: (
            "guest-get-fsinfo",
            "filesystems",
            lambda answer: guest_facts.filesystems(answer, devices),
        ),
        kinds.DISKS: ("guest-get-disks", "disks", lambda answer: guest_facts.disks(answer, devices)),
        kinds.INTERFACES: ("guest-network-get-interfaces", "interfaces", guest_facts.interfaces),
        kinds.LOAD: ("guest-get-load", "load", guest_facts.load),
    }
    if beyond := types & ~sum(sources):
        raise InvalidArgument(f"unsupported guest information types '0x{beyond:x}'")

    async def work() -> Facts:
        found: dict[str, Any] = {}
        unknown: list[str] = []
        for kind, (command, member, make) in sources.items():
            if types and not types & kind:
                continue
            try:
                found[member] = make(await agent.execute(command, timeout=QUESTION_TIMEOUT))
            except AgentCommandUnknown:
                if types:
                    raise
                unknown.append(command)
            except AgentCommandFailed as error:
                if types:
                    raise
                log.debug("domain %s: %s", domain.name, error)
        return replace(Facts(**found), unknown=tuple(unknown))

    return await domain.hypervisor.complete(work())


async def set_response_timeout(domain: Domain, seconds: int) -> None:
    """From now on every command of the guest's agent has so long to be answered, by virDomainAgentResponseTimeout…."""
    if seconds < DomainAgentResponseTimeout.BLOCK:
        raise InvalidArgument(f"guest agent timeout '{seconds}' is less than the minimum '-2'")
    domain.agent_timeout = seconds
    if domain.run is not None:
        _choose(domain.run.agent, seconds)
        with contextlib.suppress(FileNotFoundError):  # a start that has yet to make the directory keeps it by itself
            await asyncio.to_thread((domain.run.directory / _TIMEOUT_FILE).write_text, str(seconds))


def appear(domain: Domain, run: Run) -> None:
    """The run's document has a channel for an agent, perhaps: deal with it from now on, as was chosen for its guest."""
    if run.agent is None:
        run.agent = _agent_of(run.live.document, domain.name)
    _choose(run.agent, domain.agent_timeout)
    if domain.agent_timeout != DomainAgentResponseTimeout.DEFAULT:
        (run.directory / _TIMEOUT_FILE).write_text(str(domain.agent_timeout))


def _agent_of(document: DomainDocument, name: str) -> Agent | None:
    """The guest agent behind the document's channel for it; None when there is no such channel."""
    from corral.qemu.agent import Agent

    for channel in document.devices.channels:
        if channel.target.name == PORT and channel.type == "unix" and channel.source and channel.source.path:
            agent = Agent(Path(channel.source.path), name=name)
            agent.port_open = channel.target.state == "connected"
            return agent
    return None


def take_up(domain: Domain, run: Run) -> None:
    """Go on with the response timeout that was chosen before the daemon was started anew."""
    with contextlib.suppress(OSError, ValueError):
        domain.agent_timeout = int((run.directory / _TIMEOUT_FILE).read_text()[:20])
    appear(domain, run)


def _choose(agent: Agent | None, seconds: int) -> None:
    chosen: dict[int, float | None] = {
        DomainAgentResponseTimeout.BLOCK: LONGEST_TIMEOUT,
        DomainAgentResponseTimeout.DEFAULT: None,
    }
    if agent is not None:
        agent.response_timeout = chosen.get(seconds, float(seconds))
