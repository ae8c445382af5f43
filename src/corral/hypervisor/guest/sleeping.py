"""The guest's own sleep: asking it to fall asleep through its agent, waking it, and waking it later.

S3 keeps the guest's memory in QEMU, S4 writes it to the guest's own disk and powers off; what the guest makes of it
comes as QEMU's events, which the table in lifecycle.py turns into states. A call returns when the guest sleeps.

A time to wake is kept in the run directory, so that the daemon may be started anew in the meantime; it is gone with
the host's next boot, as the sleeping guest is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from corral.constants import (
    ConnectDomainEventAgentLifecycleState,
    DomainEventType,
    DomainShutoffReason,
    DomainState,
    NodeSuspendTarget,
)
from corral.errors import (
    AgentCommandTimeout,
    ConfigUnsupported,
    CorralError,
    InternalError,
    InvalidArgument,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
)
from corral.hypervisor.events import AgentLifecycle, Event, Lifecycle
from corral.hypervisor.guest import guest_agent
from corral.qemu.agent import AgentGone

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.hypervisor import Hypervisor

log = logging.getLogger(__name__)

#: Seconds that a guest gets to fall asleep: to memory, and to disk (it writes its memory out).
FALL_ASLEEP = {NodeSuspendTarget.MEM: 60.0, NodeSuspendTarget.DISK: 600.0, NodeSuspendTarget.HYBRID: 600.0}
WAKE_UP = 30.0
#: Seconds after which a guest whose agent's port opened without a word of its closing is taken for awake.
OPEN_ALONE = 10.0
_COMMANDS = {
    NodeSuspendTarget.MEM: "guest-suspend-ram",
    NodeSuspendTarget.DISK: "guest-suspend-disk",
    NodeSuspendTarget.HYBRID: "guest-suspend-hybrid",
}
_PORT_OPEN = ConnectDomainEventAgentLifecycleState.CONNECTED
#: Not a virDomainEventType: what is told instead of one when the guest has not slept at all.
_WOKE_AT_ONCE = -1
_ALARM = "wake-"
_UP_OR_FORGOTTEN = (DomainEventType.STARTED, DomainEventType.UNDEFINED)
#: Lifecycle events by which a guest has fallen asleep, or is gone otherwise.
_ASLEEP = {
    NodeSuspendTarget.MEM: (DomainEventType.PMSUSPENDED, DomainEventType.STOPPED),
    NodeSuspendTarget.DISK: (DomainEventType.STOPPED,),
    NodeSuspendTarget.HYBRID: (DomainEventType.PMSUSPENDED, DomainEventType.STOPPED),
}


async def fall_asleep(domain: Domain, target: int, duration: int = 0) -> None:
    """Suspend the guest to a virNodeSuspendTarget, and wake it after `duration` seconds (0: not by itself)."""
    if target not in _COMMANDS:
        raise InvalidArgument(f"Unknown suspend target: {target}")
    if not 0 <= duration < 1 << 31:
        raise InvalidArgument(f"a guest cannot sleep for {duration} s")
    await domain.change("suspend to memory or disk", lambda: _fall_asleep(domain, target, duration))


async def _fall_asleep(domain: Domain, target: int, duration: int) -> None:
    run = domain.require_run()
    await _check_able(domain, target)
    agent = guest_agent.of(domain)
    # To memory, the agent's port closes and opens again only around a sleep.
    port = target == NodeSuspendTarget.MEM
    async with _lifecycle(domain, _ASLEEP[target], port=port) as asleep:
        command = asyncio.ensure_future(agent.execute(_COMMANDS[target], timeout=FALL_ASLEEP[target]))
        try:
            async with asyncio.timeout(FALL_ASLEEP[target]):
                await asyncio.wait((command, asleep), return_when=asyncio.FIRST_COMPLETED)
                if not asleep.done():
                    # An agent may answer before the guest sleeps, and its port may close; a refusal is its last word.
                    with contextlib.suppress(AgentGone):
                        await command
                await asleep
        except (TimeoutError, AgentCommandTimeout) as error:
            raise OperationTimeout(f"the guest did not fall asleep within {FALL_ASLEEP[target]:g} s") from error
        finally:
            command.cancel()
            await asyncio.gather(command, return_exceptions=True)
    if asleep.result() == _WOKE_AT_ONCE:
        raise OperationFailed("the guest's kernel fell asleep and its machine did not: it went on at once")
    if asleep.result() == DomainEventType.STOPPED and domain.state()[1] != DomainShutoffReason.SHUTDOWN:
        raise OperationFailed("the guest ended instead of falling asleep")
    if duration:
        _set_alarm(domain, run.id, time.time() + duration)


async def _check_able(domain: Domain, target: int) -> None:
    """Refuse what the document or the machine does not offer: a guest would sleep in a way that nobody hears of."""
    run = domain.require_run()
    if domain.state()[0] != DomainState.RUNNING:
        raise OperationInvalid("domain is not running")
    pm = run.live.document.pm
    facts = await run.require_machine().monitor.execute("query-current-machine")
    if not facts.get("wakeup-suspend-support"):
        raise ConfigUnsupported("Domain does not have suspend support")
    for name, state, targets in (
        ("S3", pm and pm.suspend_to_mem, (NodeSuspendTarget.MEM, NodeSuspendTarget.HYBRID)),
        ("S4", pm and pm.suspend_to_disk, (NodeSuspendTarget.DISK, NodeSuspendTarget.HYBRID)),
    ):
        if target in targets and state and state.enabled == "no":
            raise InternalError(f"{name} state is disabled for this domain")  # libvirt's code for it


async def wake_up(domain: Domain) -> None:
    """Wake a guest that sleeps in memory; returns when it runs."""
    await domain.change("wake up", lambda: _wake_up(domain))


async def _wake_up(domain: Domain) -> None:
    machine = domain.require_run().require_machine()
    facts = await machine.monitor.execute("query-current-machine")
    if not facts.get("wakeup-suspend-support"):
        raise ConfigUnsupported("Domain does not have suspend support")
    async with _lifecycle(domain, (DomainEventType.STARTED, DomainEventType.STOPPED)) as awake:
        await machine.monitor.execute("system_wakeup")
        if domain.state()[0] != DomainState.PMSUSPENDED:
            return
        try:
            async with asyncio.timeout(WAKE_UP):
                await awake
        except TimeoutError as error:
            raise OperationTimeout(f"the guest did not wake up within {WAKE_UP:g} s") from error


@contextlib.asynccontextmanager
async def _lifecycle(
    domain: Domain, kinds: tuple[int, ...], *, port: bool = False
) -> AsyncIterator[asyncio.Future[int]]:
    """The domain's next lifecycle event of these kinds; with `port` also that its agent's port closed and opened.

    QEMU tells of a port at most once a second, and the last change late: an opening alone may be that of a wake-up
    before, and counts only when no sleep follows it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    closed = False

    def set_result(kind: int) -> None:
        if not future.done():
            future.set_result(kind)

    def hear(event: Event) -> None:
        nonlocal closed
        if event.dom.uuid != domain.uuid:
            return
        if isinstance(event, Lifecycle) and event.event in kinds:
            set_result(event.event)
        elif port and isinstance(event, AgentLifecycle) and event.state != _PORT_OPEN:
            closed = True
        elif port and isinstance(event, AgentLifecycle):
            if closed:
                set_result(_WOKE_AT_ONCE)
            else:
                loop.call_later(OPEN_ALONE, set_result, _WOKE_AT_ONCE)

    end = domain.hypervisor.events.subscribe(hear)
    try:
        yield future
    finally:
        end()
        future.cancel()


def _set_alarm(domain: Domain, run_id: int, when: float) -> None:
    """Wake the domain at `when` (Unix time), unless it wakes before."""
    path = _alarm_path(domain.hypervisor, domain.uuid)
    path.write_text(f"{run_id} {when:.3f}")
    _watch(domain, path, when)


def _alarm_path(hypervisor: Hypervisor, uuid: UUID) -> Path:
    return hypervisor.settings.run / f"{_ALARM}{uuid}"


def _watch(domain: Domain, path: Path, when: float) -> None:
    ends: list[Callable[[], object]] = []

    def done() -> None:
        for end in ends:
            end()
        path.unlink(missing_ok=True)

    def hear(event: Event) -> None:
        if isinstance(event, Lifecycle) and event.dom.uuid == domain.uuid and event.event in _UP_OR_FORGOTTEN:
            done()

    def ring() -> None:
        done()
        if not domain.hypervisor.closing:
            domain.hypervisor.spawn(_ring(domain))

    timer = asyncio.get_running_loop().call_later(max(0.0, when - time.time()), ring)
    ends += [timer.cancel, domain.hypervisor.events.subscribe(hear)]


async def _ring(domain: Domain) -> None:
    """It is time: wake it from memory, or start it from its disk."""
    try:
        if domain.state()[0] == DomainState.PMSUSPENDED:
            await wake_up(domain)
        elif not domain.active and domain.exists:
            await domain.create()
    except CorralError:
        log.exception("domain %s: cannot wake it at the time that was set", domain.name)


def restore(hypervisor: Hypervisor) -> None:
    """Set the alarms again that an earlier daemon had set."""
    for path in hypervisor.settings.run.glob(f"{_ALARM}*"):
        try:
            run_id, when = path.read_text()[:100].split()
            domain = hypervisor.lookup_by_uuid(UUID(path.name.removeprefix(_ALARM)))
            asleep = domain.state()[0] == DomainState.PMSUSPENDED and domain.id == int(run_id)
            if asleep or not domain.active:
                _watch(domain, path, float(when))
                continue
        except (OSError, ValueError, CorralError) as error:
            log.debug("alarm %s: %s", path, error)
        path.unlink(missing_ok=True)
