"""The loop around the autoscaler: it samples the domains that have a policy, asks what to do, does it, and tells.

One timer for all of them, and none when no running domain has a policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from corral.constants import ConnectListAllDomainsFlags, DomainJobOperation, DomainModificationImpact, DomainState
from corral.errors import AgentCommandFailed, CorralError, InvalidArgument
from corral.host.threads import thread_times
from corral.hypervisor.events import Autoscale, Event, Lifecycle, MetadataChange
from corral.hypervisor.guest import guest_files
from corral.hypervisor.scaling import autoscaler
from corral.hypervisor.scaling.autoscaler import Claim, Decision, Limits, Outcome, Sample, Verdict
from corral.hypervisor.scaling.policy import MEMORY_STEP, NAMESPACE, Policy, from_xml

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.hypervisor.run import Run
    from corral.qemu.agent import Agent

log = logging.getLogger(__name__)

#: Where the store keeps the budget.
BUDGET_KEY = "autoscale budget"
#: Seconds that agent and monitor get for a figure.
PATIENCE = 2.0
_STEPS = {"vcpus": 1, "memory": MEMORY_STEP}


@dataclass(frozen=True, slots=True)
class Budget:
    """What all scaled domains together may have: the host's CPUs (memory) less `reserve`, times `overcommit`.

    What domains without a policy have counts, too. Memory is in KiB.
    """

    overcommit: float = 4.0
    reserve: float = 0.0
    memory_overcommit: float = 1.0
    memory_reserve: int = 1 << 20


@dataclass(slots=True)
class Track:
    """What is known of one resource of one domain."""

    samples: list[Sample] = field(default_factory=list)
    outcomes: deque[Outcome] = field(default_factory=lambda: deque(maxlen=32))
    decision: Decision | None = None
    counts: Counter[str] = field(default_factory=Counter)
    changing: bool = False


@dataclass(slots=True)
class Watch:
    """One run of one domain under a policy."""

    run: Run
    text: str
    policy: Policy
    tracks: dict[str, Track]
    sampled: float = 0.0
    threads: dict[int, tuple[int, int]] = field(default_factory=dict)
    agent_seen: bool = False
    #: Whether the load is read from the guest's file, for want of `guest-get-load`; False: the agent cannot do either.
    load_by_file: bool | None = None
    load: float | None = None
    load_time: float = -math.inf
    asking: bool = False
    polling: bool = False


class Autoscaling:
    """All domains with a policy, the timer, and the budget."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.budget = Budget()
        self.watches: dict[UUID, Watch] = {}
        #: Domains whose policy cannot be read, with why: told once.
        self.broken: dict[UUID, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._round: asyncio.Task[None] | None = None
        self._unsubscribe = hypervisor.events.subscribe(self._heard)

    async def open(self) -> None:
        """Read the budget and look at what runs."""
        text = await self.hypervisor.store.meta(BUDGET_KEY)
        if text:
            self.budget = Budget(**json.loads(text))
        self.review()

    def close(self) -> None:
        """No more rounds."""
        self._unsubscribe()
        self.watches.clear()
        self._disarm()

    async def set_budget(self, fields: object) -> None:
        """Change what all scaled domains together may have; kept for the next daemon."""
        names = Budget.__slots__
        if not isinstance(fields, dict) or not set(fields) <= set(names):
            raise InvalidArgument(f"the budget has {', '.join(names)}")
        merged = {name: fields.get(name, getattr(self.budget, name)) for name in names}
        for name, value in merged.items():
            low = 0.1 if "overcommit" in name else 0
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 2**50:
                raise InvalidArgument(f"{name} of the budget must be a number from {low}, not {value!r}")
        await self.hypervisor.store.set_meta(BUDGET_KEY, json.dumps(merged))
        self.budget = Budget(**merged)

    # Who is watched.

    def _heard(self, event: Event) -> None:
        if isinstance(event, Lifecycle) or (isinstance(event, MetadataChange) and event.nsuri == NAMESPACE):
            self.review()

    def review(self) -> None:
        """See which running domains have a policy, and run the timer only if one has."""
        watched = {}
        for domain in self.hypervisor.domains(ConnectListAllDomainsFlags.ACTIVE):
            run = domain.run
            if run is None or not run.ready or NAMESPACE not in run.live.secure_xml:
                continue
            known = self.watches.get(domain.uuid)
            if known is not None and known.run is run and known.text == run.live.secure_xml:
                watched[domain.uuid] = known
            elif (policy := self._policy(domain, run)) is not None:
                if known is not None and known.run is run and known.policy == policy:  # something else was changed
                    known.text = run.live.secure_xml
                    watched[domain.uuid] = known
                else:
                    tracks = {kind: Track() for kind in policy.limits()}
                    watched[domain.uuid] = Watch(run, run.live.secure_xml, policy, tracks)
        self.watches = watched
        if watched:
            self._arm()
        else:
            self._disarm()

    def _policy(self, domain: Domain, run: Run) -> Policy | None:
        metadata = run.live.document.metadata
        text = metadata.get(NAMESPACE) if metadata else None
        if not text:
            return None
        try:
            policy = from_xml(text)
        except CorralError as error:
            if self.broken.get(domain.uuid) != text:
                log.warning("domain %s is not scaled: %s", domain.name, error)
            self.broken[domain.uuid] = text
            return None
        self.broken.pop(domain.uuid, None)
        return policy

    def _arm(self) -> None:
        if self._timer is None and (self._round is None or self._round.done()) and not self.hypervisor.closing:
            period = min(watch.policy.pace.period for watch in self.watches.values())
            self._timer = asyncio.get_running_loop().call_later(period, self._start_round)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_round(self) -> None:
        self._timer = None
        self._round = self.hypervisor.spawn(self.round())
        self._round.add_done_callback(self._round_done)

    def _round_done(self, task: asyncio.Task[None]) -> None:
        if self.watches:
            self._arm()

    # One round.

    async def round(self) -> None:
        """Sample, decide, act: what one tick of the timer does."""
        now = time.monotonic()
        due = [
            (domain, watch)
            for uuid, watch in tuple(self.watches.items())
            if now - watch.sampled >= 0.9 * watch.policy.pace.period and (domain := self._domain(uuid)) is not None
        ]
        await asyncio.gather(*(self._sample(domain, watch, now) for domain, watch in due))
        for kind in ("vcpus", "memory"):
            shares = self._shares(kind, now)
            for domain, watch in due:
                limits, track = _limits(watch, kind), watch.tracks.get(kind)
                if limits is None or track is None or track.changing or not track.samples:
                    continue
                decision = autoscaler.decide(
                    track.samples,
                    limits,
                    watch.policy.pace,
                    now,
                    allowed=shares.get(domain.uuid),
                    outcomes=track.outcomes,
                )
                self._decided(domain, watch, kind, decision, now)

    def _domain(self, uuid: UUID) -> Domain | None:
        with contextlib.suppress(CorralError):
            domain = self.hypervisor.lookup_by_uuid(uuid)
            return domain if domain.run is self.watches[uuid].run else None
        return None

    def _shares(self, kind: str, now: float) -> dict[UUID, int]:
        """What the budget gives each domain, by what each would want without one."""
        claims: dict[UUID, Claim] = {}
        for uuid, watch in self.watches.items():
            limits, track = _limits(watch, kind), watch.tracks.get(kind)
            if limits is not None and track is not None and track.samples:
                free = autoscaler.decide(track.samples, limits, watch.policy.pace, now, outcomes=track.outcomes)
                claims[uuid] = Claim(limits.minimum, max(limits.minimum, free.wanted), watch.policy.weight)
        if not claims:
            return {}
        node = self.hypervisor.node_info()
        if kind == "vcpus":
            capacity = (node.cpus - self.budget.reserve) * self.budget.overcommit
        else:
            capacity = (node.memory_kib - self.budget.memory_reserve) * self.budget.memory_overcommit
        for domain in self.hypervisor.domains(ConnectListAllDomainsFlags.ACTIVE):
            if domain.uuid not in claims and domain.run is not None:
                info = domain.run.balloon if kind == "memory" else _vcpus(domain.run)
                capacity -= info
        return autoscaler.share(capacity, claims, _STEPS[kind])

    def _decided(self, domain: Domain, watch: Watch, kind: str, decision: Decision, now: float) -> None:
        track = watch.tracks[kind]
        before, track.decision = track.decision, decision
        track.counts[decision.verdict] += 1
        news = before is None or (before.verdict, before.amount) != (decision.verdict, decision.amount)
        if decision.verdict is Verdict.HOLD and before is None:
            news = False
        if news:
            self._tell(domain, watch, kind, decision)
        if decision.acts and not watch.policy.dry_run:
            track.changing = True
            self.hypervisor.spawn(self._act(domain, watch, kind, decision, now))

    def _tell(self, domain: Domain, watch: Watch, kind: str, decision: Decision, result: str = "") -> None:
        details = {"resource": kind, **described(decision), "dry_run": watch.policy.dry_run}
        if result:
            details["result"] = result
        log.info(
            "autoscale %s: %s %s%s, %s%s (%s)",
            domain.name,
            kind,
            decision.verdict,
            f" to {decision.amount}" if decision.acts else "",
            result or decision.reason,
            ", dry run" if watch.policy.dry_run else "",
            " ".join(f"{name}={value:g}" for name, value in decision.inputs.items()),
        )
        self.hypervisor.events.emit(Autoscale(domain.identity(), json.dumps(details)))

    async def _act(self, domain: Domain, watch: Watch, kind: str, decision: Decision, now: float) -> None:
        """Make it so, and keep what the guest confirmed."""
        track = watch.tracks[kind]
        before = track.samples[-1].amount
        try:
            if kind == "vcpus":
                got = await domain.set_vcpus(decision.amount, DomainModificationImpact.LIVE)
            else:
                got = await domain.set_memory(decision.amount, DomainModificationImpact.LIVE)
            result = f"done: {got}"
            track.counts["done"] += 1
        except CorralError as error:
            got = _vcpus(watch.run) if kind == "vcpus" else watch.run.balloon  # it may have gone a part of the way
            result = f"refused: {error}"
            track.counts["refused"] += 1
        finally:
            track.changing = False
        track.outcomes.append(Outcome(time.monotonic(), before, decision.amount, got))
        watch.threads.clear()  # the next sample begins with the threads that there are now
        self._tell(domain, watch, kind, decision, result)

    # Samples.

    async def _sample(self, domain: Domain, watch: Watch, now: float) -> None:
        agent = watch.run.agent
        watch.agent_seen = watch.agent_seen or bool(agent and agent.port_open)
        frozen = _frozen(domain, watch)
        keep = int((watch.policy.pace.quiet + watch.policy.pace.step) / watch.policy.pace.period) + 8
        if (track := watch.tracks.get("vcpus")) is not None:
            load = self._load(watch, now) if not frozen else None
            sample = _vcpu_sample(watch, now, load, frozen)
            if sample is not None:
                _keep(track, sample, keep)
        if (track := watch.tracks.get("memory")) is not None:
            limits = watch.policy.memory
            assert limits is not None
            _keep(track, await self._memory_sample(watch, limits, now, frozen), keep)
        watch.sampled = now

    def _load(self, watch: Watch, now: float) -> float | None:
        """How many CPUs the guest's programs would use, as its agent last said; nobody waits for a slow agent."""
        agent = watch.run.agent
        if agent is not None and agent.port_open and watch.load_by_file is not False and not watch.asking:
            watch.asking = True
            self.hypervisor.spawn(_ask_load(watch, agent))
        return watch.load if now - watch.load_time < 2 * watch.policy.pace.period + PATIENCE else None

    async def _memory_sample(self, watch: Watch, limits: Limits, now: float, frozen: str) -> Sample:
        """Memory as the guest's balloon driver reports it, in KiB."""
        run, machine = watch.run, watch.run.machine
        amount = run.balloon
        device = run.live.document.devices.memballoon
        if machine is None or device is None or device.alias is None or device.model == "none":
            return Sample(now, amount, 0, frozen=frozen or "there is no balloon")
        where: dict[str, Any] = {"path": f"/machine/peripheral/{device.alias.name}"}
        try:
            if not watch.polling:
                period = max(1, round(watch.policy.pace.period))
                interval = {**where, "property": "guest-stats-polling-interval", "value": period}
                await machine.monitor.execute("qom-set", interval, timeout=PATIENCE)
                watch.polling = True
            told = await machine.monitor.execute("qom-get", {**where, "property": "guest-stats"}, timeout=PATIENCE)
        except CorralError as error:
            return Sample(now, amount, 0, frozen=frozen or f"no memory statistics: {error}")
        usable = int(told.get("stats", {}).get("stat-available-memory", -1))
        if not 0 <= usable < 2**63:
            return Sample(now, amount, 0, frozen=frozen or "the guest reports no memory statistics")
        return Sample(now, amount, max(0, amount - usable // 1024), frozen=frozen)

    # What is told.

    def show(self, domain: Domain) -> dict[str, Any]:
        """The policy of one domain and what came of it."""
        definition = domain.run.live if domain.run else domain.definition
        metadata = definition.document.metadata if NAMESPACE in definition.secure_xml else None
        text = metadata.get(NAMESPACE) if metadata else None
        if not text:
            return {"policy": None}
        shown: dict[str, Any] = {"policy": from_xml(text).fields()}
        watch = self.watches.get(domain.uuid)
        for kind, track in watch.tracks.items() if watch else ():
            shown[kind] = {
                "decision": described(track.decision) if track.decision else None,
                "counts": dict(track.counts),
                "samples": [
                    {"age": round(time.monotonic() - each.time, 1), "amount": each.amount, "use": round(each.use, 1)}
                    for each in track.samples[-3:]
                ],
            }
        return shown

    def status(self) -> dict[str, Any]:
        """The budget and every watched domain."""
        domains = {}
        for uuid in self.watches:
            domain = self._domain(uuid)
            if domain is not None:
                domains[domain.name] = self.show(domain)
        return {"budget": {name: getattr(self.budget, name) for name in Budget.__slots__}, "domains": domains}


def _limits(watch: Watch, kind: str) -> Limits | None:
    """The policy's bounds, within what the machine can have."""
    limits = watch.policy.limits().get(kind)
    if limits is None:
        return None
    document = watch.run.live.document
    if kind == "vcpus":
        most = document.vcpu.count if document.vcpu else 1
    else:
        most = document.memory.kib if document.memory else 0
    return replace(limits, minimum=min(limits.minimum, most), maximum=min(limits.maximum, most))


def described(decision: Decision) -> dict[str, Any]:
    """A decision as JSON has it."""
    return {
        "verdict": str(decision.verdict),
        "amount": decision.amount,
        "wanted": decision.wanted,
        "reason": decision.reason,
        "inputs": dict(decision.inputs),
    }


async def _ask_load(watch: Watch, agent: Agent) -> None:
    """Ask for the load of the last minute; an agent that knows no way to tell it is not asked again."""
    try:
        if watch.load_by_file is not True:
            try:
                watch.load = float((await agent.execute("guest-get-load", timeout=PATIENCE))["load1m"])
            except AgentCommandFailed:
                watch.load_by_file = True  # an agent before 10.0: it can read a file
        if watch.load_by_file is True:
            watch.load = await _load_average(agent)
        watch.load_time = time.monotonic()
    except (AgentCommandFailed, KeyError, TypeError, ValueError, IndexError):
        watch.load_by_file = False
    except CorralError as error:
        log.debug("no load from the agent of %s: %s", agent.name, error)
    finally:
        watch.asking = False


async def _load_average(agent: Agent) -> float:
    """The same from the guest's /proc/loadavg."""
    return float((await guest_files.read(agent, "/proc/loadavg", limit=64, timeout=PATIENCE)).split()[0])


def _keep(track: Track, sample: Sample, count: int) -> None:
    track.samples.append(sample)
    del track.samples[:-count]


def _vcpus(run: Run) -> int:
    return len(run.machine.vcpu_threads) if run.machine else 0


def _vcpu_sample(watch: Watch, now: float, load: float | None, frozen: str) -> Sample | None:
    """CPUs used and waited for since the last sample; None for the first one."""
    run = watch.run
    if run.machine is None or run.process is None:
        return None
    current = {}
    for index, thread in run.machine.vcpu_threads.items():
        if (times := thread_times(run.process.pid, thread)) is not None:
            current[index] = (times.ran, times.delay)
    before, watch.threads = watch.threads, current
    seconds = now - watch.sampled
    if not before or seconds <= 0:
        return None
    ran = sum(current[index][0] - before[index][0] for index in current if index in before)
    delay = sum(current[index][1] - before[index][1] for index in current if index in before)
    amount = len(run.machine.vcpu_threads)
    return Sample(now, amount, max(0, ran) / 1e9 / seconds, max(0, delay) / 1e9 / seconds, load, frozen)


def _frozen(domain: Domain, watch: Watch) -> str:
    """Why nothing may be changed now."""
    if domain.state()[0] != DomainState.RUNNING:
        return "it does not run"
    job = domain.jobs.holder
    if job is not None and job.operation != DomainJobOperation.UNKNOWN:
        return f"{job.what} is under way"
    agent = watch.run.agent
    if watch.agent_seen and (agent is None or not agent.port_open):
        return "its guest agent is gone"
    return ""
