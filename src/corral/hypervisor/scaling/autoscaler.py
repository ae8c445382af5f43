"""Scaling by itself: what a guest should be given, decided from samples of what it used.

Everything here is a function of its arguments: no clock, no files, no domain. One rule serves vCPUs and memory, since
both are an amount that a guest has, a part of it that is used, and bounds. The rule, in the order in which it is tried:

 1. A domain that is being moved or saved, is paused, or has lost its agent is left alone (FROZEN).
 2. Fewer than the minimum is raised to it at once; more than the maximum goes down by steps.
 3. Use over the target in two of the last three samples goes up, straight to what would bring it to the target.
    Never while the threads wait for the host instead: then the host is short, not the guest (HOST_BOUND).
 4. Use that would stay well under the target with one step less, without a break for the quiet time, goes down by one
    step, and by another one each step time.
 5. What was refused is tried again after the step time, doubled with each further refusal.
 6. No more than the budget's share; a share that others' needs made smaller is gone down to by steps.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

#: Percentage points below the target under which a smaller amount must stay to be quiet: no swinging up and down.
MARGIN = 15
#: The longest pause between two tries of what is refused, in seconds.
PATIENCE = 3600.0
#: The newest sample may be this many periods old.
FRESH = 2.5


class Verdict(StrEnum):
    """What the rule came to."""

    UP = "up"
    DOWN = "down"
    HOLD = "hold"
    HOST_BOUND = "host-bound"
    BUDGET = "budget"
    FROZEN = "frozen"
    BACKING_OFF = "backing-off"


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one amount and the use (%) that is aimed at; `step` is the smallest change."""

    minimum: int
    maximum: int
    target: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between samples, without a break of use before going down, and between two steps down.

    `host_bound` is the share (%) of the time that its threads want to run which they spend waiting for a CPU of the
    host, from which on it is the host that is short.
    """

    period: float = 5.0
    quiet: float = 600.0
    step: float = 60.0
    host_bound: float = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen over the period that ended at `time`: `used` and `delayed` in the units of `amount`.

    For vCPUs the unit is a CPU: 1.5 used is one and a half CPUs' time in the period, 0.5 delayed half a CPU's time
    spent waiting for one. `load` is what the guest says it could use. `frozen` says why nothing may be changed.
    """

    time: float
    amount: int
    used: float
    delayed: float = 0.0
    load: float | None = None
    frozen: str = ""

    @property
    def use(self) -> float:
        """Percent of the amount."""
        return 100.0 * self.used / self.amount if self.amount else 0.0

    @property
    def steal(self) -> float:
        """Percent of the time wanted that was waited."""
        wanted = self.used + self.delayed
        return 100.0 * self.delayed / wanted if wanted > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A change that was tried at `time`, and what the guest confirmed."""

    time: float
    before: int
    wanted: int
    got: int

    @property
    def refused(self) -> bool:
        """Whether the guest moved no step towards what was wanted."""
        return self.got <= self.before if self.wanted > self.before else self.got >= self.before


@dataclass(frozen=True, slots=True)
class Decision:
    """`amount` is what the guest shall have; the present one for all verdicts but UP and DOWN.

    `wanted` is what it should have had without a budget; `inputs` are the figures that decided.
    """

    verdict: Verdict
    amount: int
    wanted: int
    reason: str
    inputs: Mapping[str, float] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether something is to be changed."""
        return self.verdict in (Verdict.UP, Verdict.DOWN)


def decide(
    samples: Sequence[Sample],
    limits: Limits,
    pace: Pace,
    now: float,
    *,
    allowed: int | None = None,
    outcomes: Sequence[Outcome] = (),
) -> Decision:
    """What the guest shall have, from samples and outcomes (oldest first) and its share of the budget.

    Times are seconds on one clock, whichever.
    """
    if not samples:
        return Decision(Verdict.HOLD, 0, 0, "nothing is known yet")
    last = samples[-1]
    inputs = {"amount": last.amount, "use": round(last.use, 1), "steal": round(last.steal, 1)}
    if last.load is not None:
        inputs["load"] = round(last.load, 2)
    if allowed is not None:
        inputs["allowed"] = allowed

    def held(verdict: Verdict, reason: str, wanted: int | None = None) -> Decision:
        return Decision(verdict, last.amount, last.amount if wanted is None else wanted, reason, inputs)

    if last.frozen:
        return held(Verdict.FROZEN, last.frozen)
    if now - last.time > FRESH * pace.period:
        return held(Verdict.HOLD, f"the last sample is {now - last.time:.0f} s old")
    if outcomes and last.time <= outcomes[-1].time:
        return held(Verdict.HOLD, "nothing is known since the last change")
    wanted, reason, bound = _wanted(samples, limits, pace, now, outcomes)
    amount = wanted
    if allowed is not None and amount > (share := max(allowed, limits.minimum)):
        if share >= last.amount:  # no room to grow as far as is wanted
            amount, reason = share, f"{reason}; the host's budget allows {share}"
        elif (over := last.amount - _paced(outcomes, pace, now, limits)) < last.amount:
            amount, reason = max(share, over), f"other domains need it: the host's budget allows {share}"
        else:
            amount = last.amount
        if amount == last.amount:
            return held(Verdict.BUDGET, f"the host's budget allows {share}", wanted)
    if amount == last.amount:
        return held(Verdict.HOST_BOUND if bound else Verdict.HOLD, reason, wanted)
    if (until := _backed_off(outcomes, pace, up=amount > last.amount)) > now:
        return held(Verdict.BACKING_OFF, f"the guest refused; next try in {until - now:.0f} s", wanted)
    return Decision(Verdict.UP if amount > last.amount else Verdict.DOWN, amount, wanted, reason, inputs)


def _wanted(
    samples: Sequence[Sample], limits: Limits, pace: Pace, now: float, outcomes: Sequence[Outcome]
) -> tuple[int, str, bool]:
    """(what it should have, why, whether only the host stands in the way)."""
    last = samples[-1]
    has = last.amount
    if has < limits.minimum:
        return limits.minimum, f"less than the minimum of {limits.minimum}", False
    step = _paced(outcomes, pace, now, limits)
    if has > limits.maximum:
        wanted = max(limits.maximum, has - step)
        return wanted, f"more than the maximum of {limits.maximum}", False
    recent = [each for each in samples[-3:] if each.amount == has and now - each.time <= 4 * pace.period]
    hot = [each for each in recent if each.use > limits.target]
    short = [each for each in recent if each.steal > pace.host_bound and _demand(each) > limits.target]
    if len(short) >= 2:
        steal = sum(each.steal for each in short) / len(short)
        return has, f"waits for the host {steal:.0f} % of the time; more would not help", True
    if len(hot) >= 2:
        if has >= limits.maximum:
            return has, f"use {last.use:.0f} % is over {limits.target} %, but the maximum is reached", False
        demand = max(max(each.used, each.load or 0.0) for each in hot)
        goal = _rounded(demand * 100.0 / limits.target, limits.step)
        wanted = min(limits.maximum, max(goal, has + limits.step))
        return wanted, f"use over {limits.target} % in {len(hot)} of {len(recent)} samples", False
    smaller = max(limits.minimum, has - step)
    if smaller < has and (busy := _since_busy(samples, smaller, limits, now)) >= pace.quiet:
        return smaller, f"quiet for {busy:.0f} s", False
    return has, "use is within bounds", False


def _demand(sample: Sample) -> float:
    """Percent that would be used if the host had time for it all."""
    return 100.0 * (sample.used + sample.delayed) / sample.amount if sample.amount else 0.0


def _rounded(amount: float, step: int) -> int:
    return math.ceil(round(amount / step, 6)) * step


def _since_busy(samples: Sequence[Sample], smaller: int, limits: Limits, now: float) -> float:
    """Seconds for which `smaller` would have been enough, as far as samples go back without a gap in knowledge."""
    low = max(limits.target - MARGIN, limits.target / 2) * smaller / 100.0
    quiet_from = now
    for each in reversed(samples):
        if each.frozen or each.used > low or (each.load or 0.0) > smaller:
            break
        quiet_from = each.time
    return now - quiet_from


def _paced(outcomes: Sequence[Outcome], pace: Pace, now: float, limits: Limits) -> int:
    """How far it may go down now: one step a step time, and not within the quiet time after going up."""
    if outcomes:
        last = outcomes[-1]
        up = last.wanted > last.before and not last.refused
        if now - last.time < (pace.quiet if up else pace.step):
            return 0
    return limits.step


def _backed_off(outcomes: Sequence[Outcome], pace: Pace, *, up: bool) -> float:
    """Until when a change in this direction is not tried again."""
    refusals = 0
    for each in reversed(outcomes):
        if (each.wanted > each.before) != up or not each.refused:
            break
        refusals += 1
    if not refusals:
        return -math.inf
    return outcomes[-1].time + min(PATIENCE, pace.step * 2.0 ** min(refusals - 1, 30))


@dataclass(frozen=True, slots=True)
class Claim:
    """One domain's claim on the budget: what it must have, what it wants, how it counts beside others."""

    minimum: int
    wanted: int
    weight: int = 100


def share(capacity: float, claims: Mapping[Key, Claim], step: int = 1) -> dict[Key, int]:
    """Each domain's share: its minimum in any case, the rest by weight, and nobody more than it wants.

    What one leaves goes to the others, until all is given or everybody has what it wants. When a remainder is less than
    a step for everybody, it goes by weight to those who still want.
    """
    granted = {key: float(claim.minimum) for key, claim in claims.items()}
    rest = capacity - sum(granted.values())
    hungry = {key for key, claim in claims.items() if claim.wanted > claim.minimum and claim.weight > 0}
    while hungry and rest > 1e-9:
        weights = sum(claims[key].weight for key in hungry)
        # Raise all together until the first has enough.
        part = min((claims[key].wanted - granted[key]) / claims[key].weight for key in hungry)
        part = min(part, rest / weights)
        for key in hungry:
            granted[key] += part * claims[key].weight
        rest -= part * weights
        hungry = {key for key in hungry if claims[key].wanted - granted[key] > 1e-9}
    whole = {key: max(claims[key].minimum, math.floor(round(each / step, 6)) * step) for key, each in granted.items()}
    left = capacity - sum(whole.values())
    for key in sorted(claims, key=lambda key: (-claims[key].weight, whole[key] - granted[key])):
        if left >= step and whole[key] + step <= claims[key].wanted:
            whole[key] += step
            left -= step
    return whole
