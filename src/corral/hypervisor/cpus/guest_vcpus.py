"""The guest's own view of its vCPUs, through its agent: which it has, which it uses, and using them or not.

The guest numbers its CPUs as it likes; what both sides know is a CPU's APIC id, which Linux shows in /proc/cpuinfo.
QEMU Guest Agent Protocol Reference: guest-get-vcpus, guest-set-vcpus, guest-file-open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.errors import (
    AgentCommandFailed,
    CorralError,
    InvalidArgument,
    OperationFailed,
    OperationUnsupported,
)
from corral.hypervisor.guest import guest_agent, guest_files
from corral.model import cpuset

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.qemu.agent import Agent
    from corral.qemu.machine import Machine

log = logging.getLogger(__name__)

#: Seconds for the guest to take a CPU up or down: an emulated guest is slow at it.
TIMEOUT = 20.0
#: How often a guest that says "busy" is asked again, and seconds in between.
BUSY_TRIES, BUSY_PAUSE = 10, 0.5
#: Bytes of the guest's /proc/cpuinfo that are read: some 1,500 for each CPU.
_CPUINFO_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class GuestCPU:
    """One CPU as the guest sees it."""

    number: int
    online: bool
    can_offline: bool


async def ask(agent: Agent) -> list[GuestCPU]:
    """The CPUs the guest has."""
    answer = await agent.execute("guest-get-vcpus", timeout=TIMEOUT)
    try:
        return [
            GuestCPU(int(each["logical-id"]), bool(each["online"]), bool(each.get("can-offline", True)))
            for each in answer
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise AgentCommandFailed(f"the agent's list of vCPUs makes no sense: {error!r}") from error


async def count(domain: Domain) -> int:
    """How many CPUs the guest uses."""
    return sum(cpu.online for cpu in await ask(guest_agent.of(domain)))


async def maximum(domain: Domain) -> int:
    """How many CPUs the guest could use."""
    return len(await ask(guest_agent.of(domain)))


async def describe(domain: Domain) -> dict[str, str]:
    """Which CPUs the guest has, uses, and can stop using, as sets (virDomainGetGuestVcpus)."""
    found = await ask(guest_agent.of(domain))
    return {
        "vcpus": cpuset.write(cpu.number for cpu in found),
        "online": cpuset.write(cpu.number for cpu in found if cpu.online),
        "offlinable": cpuset.write(cpu.number for cpu in found if cpu.can_offline),
    }


async def set_count(domain: Domain, wanted: int) -> int:
    """Have the guest use `wanted` of the CPUs that it has."""
    agent = guest_agent.of(domain)
    found = await ask(agent)
    if wanted > len(found):
        raise InvalidArgument(
            f"requested vcpu count is greater than the count of enabled vcpus in the domain: {wanted} > {len(found)}"
        )
    if wanted < 1:
        raise InvalidArgument("a guest needs at least one vCPU")
    online = [cpu for cpu in found if cpu.online]
    if wanted > len(online):
        offline = [cpu.number for cpu in found if not cpu.online]
        await _set(agent, offline[: wanted - len(online)], True)
    elif wanted < len(online):
        free = [cpu.number for cpu in reversed(online) if cpu.can_offline]
        if len(free) < len(online) - wanted:
            raise OperationFailed("failed to set guest cpu count: the guest cannot do without so many of its vCPUs")
        await _set(agent, free[: len(online) - wanted], False)
    return wanted


async def set_single(domain: Domain, numbers: str, online: bool) -> None:
    """Have the guest use these CPUs, or not (virDomainSetGuestVcpus)."""
    agent = guest_agent.of(domain)
    wanted = sorted(cpuset.parse(numbers))
    found = {cpu.number: cpu for cpu in await ask(agent)}
    missing = [number for number in wanted if number not in found]
    if missing:
        raise InvalidArgument(f"guest is missing vCPUs '{cpuset.write(missing)}'")
    stuck = next((number for number in wanted if not online and not found[number].can_offline), None)
    if stuck is not None:
        raise OperationUnsupported(f"vCPU '{stuck}' is not offlinable")
    await _set(agent, [number for number in wanted if found[number].online != online], online)


async def _set(agent: Agent, numbers: list[int], online: bool) -> None:
    """Take the CPUs up or down, all of them or an error with the guest's reason."""
    done, patience = 0, BUSY_TRIES
    while done < len(numbers):
        rest = [{"logical-id": number, "online": online} for number in numbers[done:]]
        try:
            answer = await agent.execute("guest-set-vcpus", {"vcpus": rest}, timeout=TIMEOUT)
        except AgentCommandFailed as error:
            patience -= 1
            if patience and "busy" in str(error):  # Linux keeps its CPUs as they are while it probes for devices
                await asyncio.sleep(BUSY_PAUSE)
                continue
            raise
        if not isinstance(answer, int) or answer < 1:
            raise AgentCommandFailed(f"guest-set-vcpus answered {answer!r}")
        done += answer


async def use_all(run: Run) -> int:
    """Bring every CPU online that the guest has; how many it uses then."""
    assert run.agent is not None
    found = await ask(run.agent)
    offline = [cpu.number for cpu in found if not cpu.online]
    if not offline:
        return len(found)
    try:
        await _set(run.agent, offline, True)
    except AgentCommandFailed as error:
        log.warning("a guest does not use its CPUs %s: %s", cpuset.write(offline), error)
    return sum(cpu.online for cpu in await ask(run.agent))


async def stop_using(domain: Domain, run: Run, machine: Machine, alias: str) -> int | None:
    """Have the guest stop using the vCPU with this alias; its number in the guest, None where the agent is no help.

    Raises OperationFailed with the guest's reason when it does not want to.
    """
    agent = run.agent
    if agent is None or agent.port_open is not True:
        return None
    try:
        number = await _number_in_guest(agent, machine, alias)
    except CorralError as error:
        log.debug("domain %s: which CPU of the guest %s is, is not known: %s", domain.name, alias, error)
        return None
    if number is None:  # the guest does not use it
        return None
    try:
        await _set(agent, [number], False)
    except AgentCommandFailed as error:
        if "has been disabled" in str(error) or "has not been found" in str(error):
            return None
        raise OperationFailed(f"the guest refuses to stop using {alias}, its CPU {number}: {error}") from error
    except CorralError as error:
        log.debug("domain %s: its agent did not stop the use of %s: %s", domain.name, alias, error)
        return None
    return number


async def use_again(agent: Agent, number: int) -> None:
    """Undo `stop_using`, as far as the guest lets us."""
    with contextlib.suppress(CorralError):
        await _set(agent, [number], True)


async def _number_in_guest(agent: Agent, machine: Machine, alias: str) -> int | None:
    apic = await machine.monitor.execute("qom-get", {"path": f"/machine/peripheral/{alias}", "property": "apic-id"})
    cpuinfo = await guest_files.read(agent, "/proc/cpuinfo", limit=_CPUINFO_LIMIT)
    return (await asyncio.to_thread(_apic_ids, cpuinfo.decode(errors="replace"))).get(int(apic))


def _apic_ids(cpuinfo: str) -> dict[int, int]:
    """The guest's CPU number by APIC id, of the CPUs that it uses."""
    found: dict[int, int] = {}
    number = -1
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "processor" and value.strip().isdigit():
            number = int(value)
        elif name.strip() == "apicid" and value.strip().isdigit():
            found[int(value)] = number
    return found
