"""The autoscaler's decision: traces of load through it, and what must hold for any samples whatever."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.hypervisor.scaling.autoscaler import Claim, Decision, Limits, Outcome, Pace, Sample, Verdict, decide, share

VCPUS = Limits(1, 8, 80)
PACE = Pace()


def run(
    load: Callable[[float], float],
    seconds: float,
    *,
    limits: Limits = VCPUS,
    pace: Pace = PACE,
    start: int = 1,
    delay: Callable[[float], float] = lambda now: 0.0,
    frozen: Callable[[float], str] = lambda now: "",
    guest: Callable[[int, int], int] = lambda before, wanted: wanted,
    allowed: int | None = None,
    reports_load: bool = False,
) -> list[tuple[float, Decision]]:
    """A guest whose programs want `load(t)` CPUs, sampled and obeyed; the decisions that change, with their times.

    `guest` gives what it makes of a change.
    """
    samples: list[Sample] = []
    outcomes: list[Outcome] = []
    has, now, told = start, 0.0, []
    while now < seconds:
        now += pace.period
        wants = load(now)
        used = min(wants, has - delay(now))
        samples.append(Sample(now, has, used, delay(now), wants if reports_load else None, frozen(now)))
        decision = decide(samples, limits, pace, now, allowed=allowed, outcomes=outcomes)
        if not told or (told[-1][1].verdict, told[-1][1].amount) != (decision.verdict, decision.amount):
            told.append((now, decision))
        if decision.acts:
            got = guest(has, decision.amount)
            outcomes.append(Outcome(now, has, decision.amount, got))
            has = got
    return told


def changes(told: Sequence[tuple[float, Decision]]) -> list[tuple[float, int]]:
    return [(now, decision.amount) for now, decision in told if decision.acts]


def test_a_peak_is_met_by_the_second_sample() -> None:
    told = run(lambda now: 4.0 if now > 20 else 0.1, 60, reports_load=True)
    assert changes(told)[0] == (30, 5)  # 4 CPUs at 80 % are 5, straight to the goal


def test_without_the_guests_word_it_grows_by_what_is_seen() -> None:
    amounts = [amount for _, amount in changes(run(lambda now: 6.0, 120))]
    assert amounts[0] == 2
    assert amounts == sorted(amounts)
    assert amounts[-1] == 8


def test_a_single_hot_sample_is_no_reason() -> None:
    assert changes(run(lambda now: 1.0 if now == 30 else 0.2, 120)) == []


def test_two_of_three_are() -> None:
    assert changes(run(lambda now: 1.0 if now in (30, 40) else 0.2, 60)) == [(40, 2)]


def test_down_after_ten_quiet_minutes_by_one_a_minute() -> None:
    told = changes(run(lambda now: 0.1, 900, start=4))
    assert told == [(605, 3), (665, 2), (725, 1)]


def test_a_busy_moment_starts_the_quiet_time_anew() -> None:
    told = changes(run(lambda now: 3.5 if now == 300 else 0.1, 950, start=4))
    assert told[0] == (905, 3)


def test_after_going_up_the_quiet_time_counts_from_then() -> None:
    told = changes(run(lambda now: 0.95 if now <= 10 else 0.1, 1000))
    assert told[0] == (10, 2)
    assert told[1][1] == 1
    assert told[1][0] >= 610


def test_a_host_that_is_short_is_not_asked_for_more() -> None:
    told = run(lambda now: 1.0, 60, start=1, delay=lambda now: 0.5)
    assert changes(told) == []
    assert told[-1][1].verdict is Verdict.HOST_BOUND
    assert told[-1][1].inputs["steal"] == 50.0


def test_a_guest_that_refuses_is_asked_less_and_less_often() -> None:
    tries = []

    def refuses(before: int, wanted: int) -> int:
        tries.append(wanted)
        return before

    told = run(lambda now: 0.1, 600 + 60 + 120 + 240 + 480 + 100, start=2, guest=refuses)
    assert len(tries) == 5
    times = [now for now, _ in changes(told)]
    assert [round(after - before) for before, after in pairwise(times)] == [60, 120, 240, 480]
    assert any(decision.verdict is Verdict.BACKING_OFF for _, decision in told)


def test_frozen_is_left_alone() -> None:
    told = run(lambda now: 1.0, 60, frozen=lambda now: "migrate is under way")
    assert changes(told) == []
    assert told[-1][1].reason == "migrate is under way"


def test_the_budget_caps() -> None:
    told = run(lambda now: 6.0, 200, allowed=3, reports_load=True)
    assert [amount for _, amount in changes(told)] == [3]
    assert told[-1][1].verdict is Verdict.BUDGET
    assert told[-1][1].wanted == 8


def test_a_share_that_shrank_is_gone_down_to_by_steps() -> None:
    told = changes(run(lambda now: 4.0, 200, start=5, allowed=3, reports_load=True))
    assert [amount for _, amount in told] == [4, 3]
    assert told[1][0] - told[0][0] >= PACE.step


def test_bounds_come_first() -> None:
    assert changes(run(lambda now: 0.0, 10, limits=Limits(3, 8, 80)))[0] == (5, 3)
    assert changes(run(lambda now: 9.0, 100, start=6, limits=Limits(1, 4, 80)))[:2] == [(5, 5), (65, 4)]


def test_old_samples_decide_nothing() -> None:
    samples = [Sample(float(n), 1, 1.0) for n in range(3)]
    assert decide(samples, VCPUS, PACE, 100.0).verdict is Verdict.HOLD


def test_what_was_seen_before_a_change_decides_nothing_after_it() -> None:
    samples = [Sample(5.0, 1, 1.0), Sample(10.0, 1, 1.0)]
    done = [Outcome(10.2, 1, 2, 2)]
    assert decide(samples, VCPUS, PACE, 11.0).verdict is Verdict.UP
    assert decide(samples, VCPUS, PACE, 11.0, outcomes=done).verdict is Verdict.HOLD


def test_no_swinging() -> None:
    """A steady load settles: after the first minutes nothing changes any more, whatever the load is."""
    for tenths in range(81):
        told = changes(run(lambda now, load=tenths / 10: load, 4000, start=3))  # type: ignore[misc]
        later = [amount for now, amount in told if now > 1500]
        assert later == [], (tenths, told)


def test_memory_by_the_same_rule() -> None:
    limits = Limits(512 << 10, 4 << 20, 80, 64 << 10)
    samples = [Sample(float(n), 1 << 20, 0.9 * (1 << 20)) for n in (5, 10, 15)]
    decision = decide(samples, limits, PACE, 15.0)
    assert decision.verdict is Verdict.UP
    assert decision.amount % limits.step == 0
    assert 0.9 * (1 << 20) / decision.amount <= 0.8


@pytest.mark.parametrize("name", ["a_peak", "a_busy_host"])
def test_recorded_traces(name: str) -> None:
    """What a real guest's figures led to (`traces/record.py`) they lead to again."""
    trace = json.loads((Path(__file__).parent / "traces" / f"{name}.json").read_text())
    samples: list[Sample] = []
    verdicts = []
    for each in trace["rounds"]:
        sample = Sample(**each["sample"])
        samples += [sample] if sample not in samples else []
        decision = decide(
            samples[-each["kept"] :],
            Limits(**trace["limits"]),
            Pace(**trace["pace"]),
            each["now"],
            allowed=each["allowed"],
            outcomes=[Outcome(**outcome) for outcome in each["outcomes"]],
        )
        assert (decision.verdict, decision.amount, decision.reason) == (each["verdict"], each["amount"], each["reason"])
        verdicts.append(decision.verdict)
    if name == "a_peak":
        assert [each for each in verdicts if each in (Verdict.UP, Verdict.DOWN)] == [Verdict.UP, Verdict.DOWN]
    else:
        assert Verdict.HOST_BOUND in verdicts and Verdict.UP not in verdicts


samples_of = st.lists(
    st.builds(
        Sample,
        time=st.floats(0, 2000),
        amount=st.integers(0, 300),
        used=st.floats(0, 300),
        delayed=st.floats(0, 300),
        load=st.none() | st.floats(0, 1000),
        frozen=st.sampled_from(["", "", "", "saved"]),
    ),
    max_size=200,
).map(lambda found: sorted(found, key=lambda each: each.time))
outcomes_of = st.lists(
    st.builds(Outcome, st.floats(0, 2000), st.integers(1, 300), st.integers(1, 300), st.integers(1, 300)), max_size=8
).map(lambda found: sorted(found, key=lambda each: each.time))
limits_of = st.tuples(st.integers(1, 64), st.integers(0, 200), st.integers(10, 100)).map(
    lambda each: Limits(each[0], each[0] + each[1], each[2])
)


@given(samples_of, limits_of, outcomes_of, st.none() | st.integers(0, 300), st.floats(0, 2100))
def test_any_samples(
    samples: list[Sample], limits: Limits, outcomes: list[Outcome], allowed: int | None, now: float
) -> None:
    decision = decide(samples, limits, PACE, now, allowed=allowed, outcomes=outcomes)
    has = samples[-1].amount if samples else 0
    assert decision.acts == (decision.amount != has)
    assert decision == decide(samples, limits, PACE, now, allowed=allowed, outcomes=outcomes)
    if decision.verdict is Verdict.UP:
        assert has < decision.amount <= limits.maximum
        assert allowed is None or decision.amount <= max(allowed, limits.minimum)
        assert not samples[-1].frozen
    if decision.verdict is Verdict.DOWN:
        assert decision.amount >= min(has - limits.step, limits.minimum)
        assert has - decision.amount <= limits.step  # never more than one step
        assert decision.amount >= limits.minimum


claims_of = st.dictionaries(
    st.integers(0, 50),
    st.tuples(st.integers(1, 16), st.integers(0, 64), st.integers(1, 1000)).map(
        lambda each: Claim(each[0], each[0] + each[1], each[2])
    ),
    max_size=12,
)


@given(st.integers(0, 400), claims_of)
def test_any_budget(capacity: int, claims: dict[int, Claim]) -> None:
    shares = share(capacity, claims)
    assert shares.keys() == claims.keys()
    for key, claim in claims.items():
        assert claim.minimum <= shares[key] <= claim.wanted
    minimum, wanted = sum(c.minimum for c in claims.values()), sum(c.wanted for c in claims.values())
    assert sum(shares.values()) == min(max(capacity, minimum), wanted)  # nothing is left while anybody wants


@pytest.mark.parametrize(("weights", "expected"), [((100, 100), (5, 5)), ((300, 100), (7, 3)), ((100, 0), (9, 1))])
def test_weights(weights: tuple[int, int], expected: tuple[int, int]) -> None:
    shares = share(10, {n: Claim(1, 20, weight) for n, weight in enumerate(weights)})
    assert (shares[0], shares[1]) == expected


def test_what_one_leaves_the_others_get() -> None:
    assert share(10, {"a": Claim(1, 2), "b": Claim(1, 20)}) == {"a": 2, "b": 8}
    assert share(math.inf, {"a": Claim(1, 2)}) == {"a": 2}
