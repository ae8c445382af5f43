"""The life-cycle table: what each cause makes of a domain's state, and which events tell of it.

Rules. A cause meets a domain in one state and leaves it in another, with a reason and lifecycle events in order; a
cause that does not fit the state changes nothing. States and reasons: libvirt-domain.h, virDomainState and the
virDomain…Reason enums; events: virDomainEventType with their details. The order of events is what a libvirt daemon of
version 11.3 was seen to send for the same calls.

An end that somebody asked for is reported after the domain has lost its id, an end that came by itself before
(`id_kept`): clients of libvirt see -1 in the first case and the old id in the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from corral.constants import (
    DomainCrashedReason,
    DomainEventCrashedDetailType,
    DomainEventPMSuspendedDetailType,
    DomainEventResumedDetailType,
    DomainEventShutdownDetailType,
    DomainEventStartedDetailType,
    DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainPausedReason,
    DomainPMSuspendedReason,
    DomainRunningReason,
    DomainShutdownReason,
    DomainShutoffReason,
    DomainState,
)


class State(NamedTuple):
    """A virDomainState and the reason for it."""

    state: int
    reason: int

    @property
    def active(self) -> bool:
        """Whether a QEMU process stands behind it."""
        return self.state not in (DomainState.SHUTOFF, DomainState.NOSTATE)


class Cause(Enum):
    """What happened."""

    START = auto()
    """A start was asked for and its process is being made."""
    BOOT = auto()
    """The start is done and the CPUs run."""
    BOOT_PAUSED = auto()
    """The start is done and was asked to stay paused."""
    START_FAILED = auto()
    SUSPEND = auto()
    """A call paused the CPUs."""
    STOP = auto()
    """QEMU stopped the CPUs and nobody said why (the monitor, by hand)."""
    STOP_IO_ERROR = auto()
    STOP_WATCHDOG = auto()
    RESUME = auto()
    """The CPUs run again."""
    REBOOT_AFTER_CRASH = auto()
    """The CPUs run again because `on_crash` is `restart`."""
    REBOOTED = auto()
    """The guest powered off and was booted again instead."""
    PM_SUSPEND = auto()
    PM_SUSPEND_DISK = auto()
    PM_WAKEUP = auto()
    GUEST_SHUTDOWN = auto()
    """The guest powered itself off; its process is still there."""
    HOST_SHUTDOWN = auto()
    """QEMU was told to end (signal, monitor); its process is still there."""
    PANIC = auto()
    RESET_AFTER_PANIC = auto()
    """A call reset a crashed guest: it is like new, and paused."""
    GONE_AFTER_SHUTDOWN = auto()
    """The process ended after a shutdown was announced."""
    GONE = auto()
    """The process ended and nothing had announced it."""
    DESTROYED = auto()
    CRASH_DESTROYED = auto()
    """`on_crash` is `destroy`, and that was done."""
    HOST_REBOOTED = auto()


@dataclass(frozen=True, slots=True)
class Transition:
    """The new state and the (virDomainEventType, detail) pairs; `id_kept`: they carry the id the domain had."""

    state: State
    events: tuple[tuple[int, int], ...] = ()
    id_kept: bool = True


_RUNNING = DomainState.RUNNING
_PAUSED = DomainState.PAUSED
_SHUTOFF = DomainState.SHUTOFF
_SHUTDOWN = DomainState.SHUTDOWN
_CRASHED = DomainState.CRASHED
_PMSUSPENDED = DomainState.PMSUSPENDED
_ACTIVE = (_RUNNING, DomainState.BLOCKED, _PAUSED, _SHUTDOWN, _CRASHED, _PMSUSPENDED)
_HALTED = (_PAUSED, _SHUTDOWN, _CRASHED, _PMSUSPENDED)

_RESUMED = (DomainEventType.RESUMED, DomainEventResumedDetailType.UNPAUSED)
_STARTED = (DomainEventType.STARTED, DomainEventStartedDetailType.BOOTED)
_SUSPENDED = (DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.PAUSED)


def _paused(reason: int, detail: int) -> Transition:
    return Transition(State(_PAUSED, reason), ((DomainEventType.SUSPENDED, detail),))


def _stopped(reason: int, detail: int, *, id_kept: bool) -> Transition:
    return Transition(State(_SHUTOFF, reason), ((DomainEventType.STOPPED, detail),), id_kept)


TABLE: dict[Cause, tuple[tuple[int, ...], Transition]] = {
    Cause.START: ((_SHUTOFF,), Transition(State(_PAUSED, DomainPausedReason.STARTING_UP))),
    Cause.BOOT: ((_PAUSED,), Transition(State(_RUNNING, DomainRunningReason.BOOTED), (_RESUMED, _STARTED))),
    Cause.BOOT_PAUSED: ((_PAUSED,), Transition(State(_PAUSED, DomainPausedReason.USER), (_STARTED, _SUSPENDED))),
    Cause.START_FAILED: (_ACTIVE, Transition(State(_SHUTOFF, DomainShutoffReason.FAILED))),
    Cause.SUSPEND: ((_RUNNING,), _paused(DomainPausedReason.USER, DomainEventSuspendedDetailType.PAUSED)),
    Cause.STOP: ((_RUNNING,), _paused(DomainPausedReason.UNKNOWN, DomainEventSuspendedDetailType.PAUSED)),
    Cause.STOP_IO_ERROR: ((_RUNNING,), _paused(DomainPausedReason.IOERROR, DomainEventSuspendedDetailType.IOERROR)),
    Cause.STOP_WATCHDOG: ((_RUNNING,), _paused(DomainPausedReason.WATCHDOG, DomainEventSuspendedDetailType.WATCHDOG)),
    Cause.RESUME: (
        (_PAUSED, _SHUTDOWN, _CRASHED),
        Transition(State(_RUNNING, DomainRunningReason.UNPAUSED), (_RESUMED,)),
    ),
    Cause.REBOOT_AFTER_CRASH: (_HALTED, Transition(State(_RUNNING, DomainRunningReason.CRASHED), (_RESUMED,))),
    Cause.REBOOTED: ((_RUNNING, *_HALTED), Transition(State(_RUNNING, DomainRunningReason.BOOTED))),
    Cause.PM_SUSPEND: (
        (_RUNNING,),
        Transition(
            State(_PMSUSPENDED, DomainPMSuspendedReason.UNKNOWN),
            ((DomainEventType.PMSUSPENDED, DomainEventPMSuspendedDetailType.MEMORY),),
        ),
    ),
    Cause.PM_SUSPEND_DISK: (
        (_RUNNING,),
        Transition(
            State(_PMSUSPENDED, DomainPMSuspendedReason.UNKNOWN),
            ((DomainEventType.PMSUSPENDED, DomainEventPMSuspendedDetailType.DISK),),
        ),
    ),
    Cause.PM_WAKEUP: (
        (_PMSUSPENDED,),
        Transition(
            State(_RUNNING, DomainRunningReason.WAKEUP),
            ((DomainEventType.STARTED, DomainEventStartedDetailType.WAKEUP),),
        ),
    ),
    Cause.GUEST_SHUTDOWN: (
        (_RUNNING, _PAUSED, _CRASHED, _PMSUSPENDED),
        Transition(
            State(_SHUTDOWN, DomainShutdownReason.UNKNOWN),
            ((DomainEventType.SHUTDOWN, DomainEventShutdownDetailType.GUEST),),
        ),
    ),
    Cause.HOST_SHUTDOWN: (
        (_RUNNING, _PAUSED, _CRASHED, _PMSUSPENDED),
        Transition(
            State(_SHUTDOWN, DomainShutdownReason.UNKNOWN),
            ((DomainEventType.SHUTDOWN, DomainEventShutdownDetailType.HOST),),
        ),
    ),
    Cause.PANIC: (
        (_RUNNING, _PAUSED),
        Transition(
            State(_CRASHED, DomainCrashedReason.PANICKED),
            (_SUSPENDED, (DomainEventType.CRASHED, DomainEventCrashedDetailType.PANICKED)),
        ),
    ),
    Cause.RESET_AFTER_PANIC: ((_CRASHED,), Transition(State(_PAUSED, DomainPausedReason.CRASHED))),
    Cause.GONE_AFTER_SHUTDOWN: (
        _ACTIVE,
        _stopped(DomainShutoffReason.SHUTDOWN, DomainEventStoppedDetailType.SHUTDOWN, id_kept=True),
    ),
    Cause.GONE: (_ACTIVE, _stopped(DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.FAILED, id_kept=True)),
    Cause.DESTROYED: (
        _ACTIVE,
        _stopped(DomainShutoffReason.DESTROYED, DomainEventStoppedDetailType.DESTROYED, id_kept=False),
    ),
    Cause.CRASH_DESTROYED: (
        _ACTIVE,
        _stopped(DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.CRASHED, id_kept=False),
    ),
    Cause.HOST_REBOOTED: (_ACTIVE, Transition(State(_SHUTOFF, DomainShutoffReason.UNKNOWN))),
}

#: How an end that was under way when the daemon died is to be reported, by the reason noted in the store.
END_CAUSES: dict[int, Cause] = {
    DomainShutoffReason.DESTROYED: Cause.DESTROYED,
    DomainShutoffReason.CRASHED: Cause.CRASH_DESTROYED,
    DomainShutoffReason.SHUTDOWN: Cause.GONE_AFTER_SHUTDOWN,
    DomainShutoffReason.FAILED: Cause.START_FAILED,
}


def transition(state: State, cause: Cause) -> Transition | None:
    """What `cause` makes of a domain in `state`; None when it changes nothing."""
    before, after = TABLE[cause]
    return after if state.state in before else None


#: QEMU's run states (query-status, QAPI RunState) for a machine found again, as a state without its reason.
RUN_STATES: dict[str, int] = {
    "running": _RUNNING,
    "paused": _PAUSED,
    "prelaunch": _PAUSED,
    "io-error": _PAUSED,
    "watchdog": _PAUSED,
    "internal-error": _PAUSED,
    "debug": _PAUSED,
    "save-vm": _PAUSED,
    "restore-vm": _PAUSED,
    "inmigrate": _PAUSED,
    "postmigrate": _PAUSED,
    "finish-migrate": _PAUSED,
    "colo": _PAUSED,
    "suspended": _PMSUSPENDED,
    "guest-panicked": _CRASHED,
    "shutdown": _SHUTDOWN,
}

_RUN_STATE_REASONS: dict[str, int] = {
    "io-error": DomainPausedReason.IOERROR,
    "watchdog": DomainPausedReason.WATCHDOG,
    "guest-panicked": DomainCrashedReason.PANICKED,
}


def found_again(run_state: str, noted: State) -> State:
    """The state of a machine found again: QEMU's word for what, our last note for why where both agree."""
    state = RUN_STATES.get(run_state, DomainState.PAUSED)
    if state == noted.state and noted.reason != DomainPausedReason.STARTING_UP:
        return noted
    return State(state, _RUN_STATE_REASONS.get(run_state, 0))
