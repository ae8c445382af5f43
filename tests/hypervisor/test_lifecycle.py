"""The life-cycle table against what a libvirt daemon was seen to do."""

from __future__ import annotations

import pytest

from corral.constants import DomainPausedReason, DomainRunningReason, DomainShutoffReason, DomainState
from corral.hypervisor.lifecycle import END_CAUSES, TABLE, Cause, State, found_again, transition

OFF = State(DomainState.SHUTOFF, DomainShutoffReason.UNKNOWN)


def walk(*causes: Cause) -> tuple[State, list[tuple[int, int]]]:
    """The state after the causes, from off, and all events told on the way."""
    state, events = OFF, []
    for cause in causes:
        after = transition(state, cause)
        if after is not None:
            state = after.state
            events += after.events
    return state, events


# (causes, final (state, reason), lifecycle events): recorded from libvirtd 11.3 with the same calls.
RECORDED = {
    "start": ((Cause.START, Cause.BOOT), (1, 1), [(4, 0), (2, 0)]),
    "start paused": ((Cause.START, Cause.BOOT_PAUSED), (3, 1), [(2, 0), (3, 0)]),
    "suspend": ((Cause.START, Cause.BOOT, Cause.SUSPEND), (3, 1), [(4, 0), (2, 0), (3, 0)]),
    "resume": (
        (Cause.START, Cause.BOOT, Cause.SUSPEND, Cause.RESUME),
        (1, 5),
        [(4, 0), (2, 0), (3, 0), (4, 0)],
    ),
    "stopped by hand in the monitor": ((Cause.START, Cause.BOOT, Cause.STOP), (3, 0), [(4, 0), (2, 0), (3, 0)]),
    "destroyed": (
        (Cause.START, Cause.BOOT, Cause.HOST_SHUTDOWN, Cause.DESTROYED),
        (5, 2),
        [(4, 0), (2, 0), (6, 2), (5, 1)],
    ),
    "killed by a stranger": ((Cause.START, Cause.BOOT, Cause.GONE), (5, 3), [(4, 0), (2, 0), (5, 5)]),
    "terminated by a stranger": (
        (Cause.START, Cause.BOOT, Cause.HOST_SHUTDOWN, Cause.GONE_AFTER_SHUTDOWN),
        (5, 1),
        [(4, 0), (2, 0), (6, 2), (5, 0)],
    ),
    "powered off by the guest": (
        (Cause.START, Cause.BOOT, Cause.GUEST_SHUTDOWN, Cause.GONE_AFTER_SHUTDOWN),
        (5, 1),
        [(4, 0), (2, 0), (6, 1), (5, 0)],
    ),
    "panic, preserved": ((Cause.START, Cause.BOOT, Cause.PANIC), (6, 1), [(4, 0), (2, 0), (3, 0), (8, 0)]),
    "panic, restarted": (
        (Cause.START, Cause.BOOT, Cause.PANIC, Cause.REBOOT_AFTER_CRASH),
        (1, 9),
        [(4, 0), (2, 0), (3, 0), (8, 0), (4, 0)],
    ),
    "panic, destroyed": (
        (Cause.START, Cause.BOOT, Cause.PANIC, Cause.HOST_SHUTDOWN, Cause.CRASH_DESTROYED),
        (5, 3),
        [(4, 0), (2, 0), (3, 0), (8, 0), (6, 2), (5, 2)],
    ),
    "start that failed": ((Cause.START, Cause.START_FAILED), (5, 6), []),
}


@pytest.mark.parametrize("name", RECORDED)
def test_states_reasons_and_events_are_libvirts(name: str) -> None:
    causes, state, events = RECORDED[name]
    assert walk(*causes) == (state, events)


def test_a_cause_that_does_not_fit_changes_nothing() -> None:
    assert transition(OFF, Cause.SUSPEND) is None
    assert transition(OFF, Cause.GONE) is None
    assert transition(State(DomainState.PAUSED, DomainPausedReason.USER), Cause.SUSPEND) is None
    assert transition(State(DomainState.RUNNING, DomainRunningReason.BOOTED), Cause.RESUME) is None


def test_every_cause_ends_in_one_state_from_every_state_that_it_fits() -> None:
    for cause, (before, after) in TABLE.items():
        assert before, cause
        assert after.state.state in range(8)


def test_only_an_end_that_was_asked_for_is_told_without_the_id() -> None:
    assert not TABLE[Cause.DESTROYED][1].id_kept
    assert not TABLE[Cause.CRASH_DESTROYED][1].id_kept
    assert TABLE[Cause.GONE][1].id_kept
    assert TABLE[Cause.GONE_AFTER_SHUTDOWN][1].id_kept


def test_an_end_that_was_noted_is_reported_with_its_own_reason() -> None:
    for reason, cause in END_CAUSES.items():
        assert TABLE[cause][1].state == (DomainState.SHUTOFF, reason)


@pytest.mark.parametrize(
    ("run_state", "noted", "expected"),
    [
        ("running", (1, 5), (1, 5)),
        ("paused", (3, 1), (3, 1)),
        ("paused", (1, 1), (3, 0)),  # paused by somebody else while no daemon was there
        ("prelaunch", (3, 1), (3, 1)),  # started paused, and acknowledged so
        ("io-error", (1, 1), (3, DomainPausedReason.IOERROR)),
        ("guest-panicked", (1, 1), (6, 1)),
        ("shutdown", (1, 1), (4, 0)),
        ("running", (3, 1), (1, 0)),
        ("suspended", (1, 1), (7, 0)),
    ],
)
def test_a_machine_found_again_tells_its_state_and_we_remember_why(
    run_state: str, noted: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert found_again(run_state, State(*noted)) == expected
