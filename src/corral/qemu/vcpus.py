"""vCPUs in a document: which are there at start, which can be plugged, and what a change makes of them.

A vCPU's number is its place among all that the machine can have, in the order of sockets, dies, cores and threads;
QEMU calls it cpu-index. https://libvirt.org/formatdomain.html#cpu-allocation
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from corral.model.domain import Domain, VCPUs, VCPUState

#: From so many vCPUs on the emulator runs them in turns, in one thread: with more threads than host CPUs they spend
#: their time waiting for each other's locks. 160 of them boot in minutes in turns, and hardly at all in threads.
IN_TURNS = 64

_ORDER = ("drawer-id", "book-id", "socket-id", "die-id", "cluster-id", "module-id", "core-id", "thread-id")


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a vCPU in a running machine: device type, place, and the QOM path of what is in it."""

    driver: str
    place: Mapping[str, Any]
    path: str | None

    @property
    def alias(self) -> str | None:
        """The device id of a vCPU that was plugged; None for one that was there at start, or an empty slot."""
        prefix = "/machine/peripheral/"
        return self.path.removeprefix(prefix) if self.path and self.path.startswith(prefix) else None


def slots(answer: Iterable[Mapping[str, Any]]) -> list[Slot]:
    """The slots by vCPU number, from the answer to query-hotpluggable-cpus."""

    def position(entry: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(entry["props"].get(level, 0) for level in _ORDER)

    return [Slot(each["type"], each["props"], each.get("qom-path")) for each in sorted(answer, key=position)]


def states(domain: Domain) -> list[VCPUState]:
    """Every vCPU's state, also where the document has no `<vcpus>`: then the first ones are there."""
    vcpu = domain.vcpu
    count = vcpu.count if vcpu is not None else 1
    told = {state.id: state for state in domain.vcpus.vcpus} if domain.vcpus is not None else {}
    if told:
        return [told.get(number) or VCPUState(id=number, enabled="no") for number in range(count)]
    current = (vcpu.current if vcpu is not None else None) or count
    return [VCPUState(id=number, enabled="yes" if number < current else "no") for number in range(count)]


def in_turns(domain: Domain) -> bool:
    """Whether software emulation runs this domain's vCPUs in one thread, one after the other."""
    return domain.vcpu is not None and domain.vcpu.count >= IN_TURNS


def enabled(domain: Domain) -> list[int]:
    """The numbers of the vCPUs that are there."""
    return [state.id for state in states(domain) if state.enabled == "yes"]


def at_boot(domain: Domain) -> list[int]:
    """The vCPUs that QEMU itself makes; the other enabled ones are plugged before the guest runs."""
    return [state.id for state in states(domain) if state.enabled == "yes" and state.hotpluggable != "yes"]


def plugged_at_start(domain: Domain) -> list[int]:
    """The vCPUs to plug before the guest runs, in their order."""
    wanted = [state for state in states(domain) if state.enabled == "yes" and state.hotpluggable == "yes"]
    return [state.id for state in sorted(wanted, key=lambda state: (state.order or 0, state.id))]


def keep(domain: Domain, found: list[VCPUState], *, individually: bool = True) -> None:
    """Write the states into the document; `individually` False leaves `<vcpus>` out as long as it has none."""
    assert domain.vcpu is not None
    now = sum(state.enabled == "yes" for state in found)
    domain.vcpu.current = now if now < domain.vcpu.count else None
    if individually or domain.vcpus is not None:
        domain.vcpus = VCPUs(vcpus=found)


def settle(domain: Domain) -> None:
    """In a live document: number the vCPUs in the order in which they come."""
    if domain.vcpus is None:
        return
    found = states(domain)
    order = [*at_boot(domain), *plugged_at_start(domain)]
    for state in found:
        state.order = order.index(state.id) + 1 if state.id in order else None
    keep(domain, found)


def set_enabled(domain: Domain, numbers: Iterable[int], present: bool) -> None:
    """In a live document: these vCPUs have come, in this order, or gone."""
    found = [state.model_copy() for state in states(domain)]
    if domain.vcpus is None:
        for state in found:
            state.hotpluggable = "no" if state.enabled == "yes" else "yes"
    for position, state in enumerate([each for each in found if each.enabled == "yes"], 1):
        state.order = state.order or position
    for number in numbers:
        state = found[number]
        if present and state.enabled == "no":
            state.order = 1 + max((each.order or 0 for each in found), default=0)
            state.enabled, state.hotpluggable = "yes", "yes"
        elif not present and state.enabled == "yes":
            gone = state.order or 0
            state.enabled, state.hotpluggable, state.order = "no", "yes", None
            for other in found:
                if other.order is not None and other.order > gone:
                    other.order -= 1
    keep(domain, found)


def set_count(domain: Domain, count: int, *, hotpluggable: bool = False) -> None:
    """In a definition: have `count` at the next start, adding the first and removing the last; order is forgotten."""
    found = [state.model_copy(update={"order": None}) for state in states(domain)]
    now = sum(state.enabled == "yes" for state in found)
    individually = domain.vcpus is not None
    if count > now:
        for state in [each for each in found if each.enabled == "no"][: count - now]:
            state.enabled = "yes"
            if hotpluggable:
                state.hotpluggable, individually = "yes", True
    elif count < now:
        for state in [each for each in reversed(found) if each.enabled == "yes"][: now - count]:
            state.enabled, state.hotpluggable = "no", "yes"
    if individually and not domain.vcpus:
        for state in found:
            state.hotpluggable = state.hotpluggable or ("no" if state.enabled == "yes" else None)
    keep(domain, found, individually=individually)


def set_single(domain: Domain, numbers: Iterable[int], present: bool) -> None:
    """In a definition: these vCPUs are there at the next start, or not."""
    found = [state.model_copy(update={"order": None}) for state in states(domain)]
    if domain.vcpus is None:
        for state in found:
            state.hotpluggable = "no" if state.enabled == "yes" else None
    for number in numbers:
        found[number].enabled = "yes" if present else "no"
        found[number].hotpluggable = "yes"
    keep(domain, found)
