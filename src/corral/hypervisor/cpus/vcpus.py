"""vCPUs of a domain: how many, which, plugged and unplugged while it runs, and what the guest says of it.

A plug is over when the guest's firmware tables have reported it (QEMU's ACPI_DEVICE_OST), and the guest's agent has put
the vCPU to use where the guest's own rules did not. An unplug asks the agent to stop using the vCPU, then asks the
guest to let go of it, and is over when QEMU says so (DEVICE_DELETED); a guest's refusal is the error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from corral.constants import DomainModificationImpact, DomainState, DomainVcpuFlags, ErrorDomain
from corral.errors import (
    ConfigUnsupported,
    CorralError,
    InvalidArgument,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
    OperationUnsupported,
)
from corral.hypervisor.cpus import guest_vcpus, pinning
from corral.hypervisor.hotplug import answers
from corral.hypervisor.rewriting import by, rewrite
from corral.model import cpuset
from corral.qemu import vcpus

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine
    from corral.qemu.vcpus import Slot

log = logging.getLogger(__name__)

#: Seconds that a guest with a running agent gets to take notice of a new vCPU.
PLUG_TIMEOUT = 10.0
#: Seconds that a guest gets to let go of a vCPU.
UNPLUG_TIMEOUT = 20.0

_ALIAS = "vcpu"


def alias_of(number: int) -> str:
    """The device id of a vCPU that is plugged in."""
    return f"{_ALIAS}{number}"


def number_of(alias: str) -> int | None:
    """The vCPU that a device id means, None for any other device."""
    digits = alias.removeprefix(_ALIAS)
    return int(digits) if digits != alias and digits.isdigit() else None


async def set_count(domain: Domain, count: int, flags: int) -> int:
    """Have `count` vCPUs, by virDomainVcpuFlags; how many the guest uses afterwards, as far as it is known."""
    if flags & DomainVcpuFlags.GUEST:
        return await guest_vcpus.set_count(domain, count)
    if flags & DomainVcpuFlags.MAXIMUM:
        await _set_maximum(domain, count, flags)
        return count
    live, config = domain.impact(flags & _IMPACT)
    hotpluggable = bool(flags & DomainVcpuFlags.HOTPLUGGABLE)
    if count < 1:
        raise InvalidArgument("a domain needs at least one vCPU")
    if live:
        _require_room(domain.require_run().live.document, count, "live")
    if config and domain.config:
        _require_room(domain.config.document, count, "persistent")
    result = await _set_live(domain, count) if live else count
    if config:
        await _configure(domain, lambda document: vcpus.set_count(document, count, hotpluggable=hotpluggable))
    return result


_IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


def _require_room(document: DomainDocument, count: int, kind: str) -> None:
    most = document.vcpu.count if document.vcpu else 1
    if count > most:
        raise InvalidArgument(
            f"requested vcpus is greater than max allowable vcpus for the {kind} domain: {count} > {most}"
        )


async def _configure(domain: Domain, edit: Callable[[DomainDocument], None]) -> None:
    async with domain.hypervisor.definitions:
        await rewrite(domain, config=by(edit))


async def _set_maximum(domain: Domain, count: int, flags: int) -> None:
    """Change how many there can be, at the next start."""
    live, config = domain.impact(flags & _IMPACT)
    if live or not config or domain.config is None:
        raise OperationInvalid("the maximum of vCPUs of a running machine cannot be changed", domain=ErrorDomain.DOMAIN)
    if count < 1:
        raise InvalidArgument("a domain needs at least one vCPU")
    document = domain.config.document
    topology = document.cpu.topology if document.cpu else None
    if topology is not None and topology.cpus != count:
        raise InvalidArgument("CPU topology doesn't match the desired vcpu count")
    binary = await domain.hypervisor.offer.binary(document.devices.emulator)
    limit = binary.machine(document.os.type.machine).max_cpus
    if count > limit:
        raise InvalidArgument(f"requested vcpus is greater than what the machine type can have: {count} > {limit}")

    def edit(document: DomainDocument) -> None:
        assert document.vcpu is not None
        kept = [state for state in vcpus.states(document) if state.id < count]
        document.vcpu.count = count
        if document.vcpus is not None:
            vcpus.keep(document, [*kept, *vcpus.states(document)[len(kept) :]])
        else:
            now = sum(state.enabled == "yes" for state in kept)
            document.vcpu.current = now if now < count else None
        if document.cputune is not None:
            document.cputune.vcpupins = [pin for pin in document.cputune.vcpupins if pin.vcpu < count]

    await _configure(domain, edit)


async def set_single(domain: Domain, numbers: str, present: bool, flags: int) -> None:
    """Plug or unplug these vCPUs, live or in the definition (virDomainSetVcpu)."""
    wanted = sorted(cpuset.parse(numbers))
    live, config = domain.impact(flags & _IMPACT)
    if not wanted:
        raise InvalidArgument("no vcpus selected for modification")
    definitions = ([domain.require_run().live] if live else []) + ([domain.config] if config and domain.config else [])
    for definition in definitions:
        found = vcpus.states(definition.document)
        if wanted[-1] >= len(found):
            raise InvalidArgument(f"vcpu {wanted[-1]} is not present in {'live' if live else 'persistent'} config")
        for number in wanted:
            if (found[number].enabled == "yes") == present:
                raise InvalidArgument(f"vcpu '{number}' is already in requested state")
        if wanted[0] == 0 and not present:
            raise OperationUnsupported("vcpu '0' can't be unplugged")
    if live:
        await _change(domain, wanted if present else [], [] if present else wanted)
    if config:
        await _configure(domain, lambda document: vcpus.set_single(document, wanted, present))


async def _set_live(domain: Domain, count: int) -> int:
    """Plug the first that are missing, or unplug the last that can be."""
    states = vcpus.states(domain.require_run().live.document)
    present = [state.id for state in states if state.enabled == "yes"]
    if count > len(present):
        absent = [state.id for state in states if state.enabled == "no"]
        return await _change(domain, absent[: count - len(present)], [])
    if count == len(present):
        return count
    removable = [state.id for state in reversed(states) if state.enabled == "yes" and state.hotpluggable == "yes"]
    if len(removable) < len(present) - count:
        raise ConfigUnsupported(
            "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count",
            hint=f"{len(present) - len(removable)} were there when the machine started, and stay until it stops",
        )
    return await _change(domain, [], removable[: len(present) - count])


async def _change(domain: Domain, plug: list[int], unplug: list[int]) -> int:
    """Plug and unplug one by one; what was done is undone when the rest fails. How many the guest uses then."""
    run = domain.require_run()
    machine = run.require_machine()
    document = run.live.document
    binary = await domain.hypervisor.offer.binary(document.devices.emulator)
    if not binary.machine(document.os.type.machine).hotpluggable_cpus:
        raise OperationUnsupported(f"machine type '{document.os.type.machine}' cannot plug vCPUs")
    slots = vcpus.slots(await machine.monitor.execute("query-hotpluggable-cpus"))
    listening = run.agent is not None and run.agent.port_open is True and _runs(domain)
    noticed: dict[int, asyncio.Future[str]] = {}
    had = await _told_by_guest(run) if listening and plug else None
    done: list[int] = []
    try:
        for number in plug:
            if listening:
                noticed[number] = answers.expect(run, alias_of(number))
            await _plug(domain, run, machine, slots, number)
            done.append(number)
        if noticed:
            await _require_taken(run, noticed, had)
        for number in unplug:
            await _unplug(domain, run, machine, slots, number)
            done.append(number)
    except CorralError:
        await _undo(domain, run, machine, slots, done, plugged=bool(plug))
        raise
    else:
        if listening and run.agent is not None:
            return await _put_to_use(run)
        return len(vcpus.enabled(run.live.document))
    finally:
        for number in noticed:
            answers.forget(run, alias_of(number))


def _runs(domain: Domain) -> bool:
    return domain.state()[0] == DomainState.RUNNING


async def _undo(
    domain: Domain, run: Run, machine: Machine, slots: list[Slot], done: list[int], *, plugged: bool
) -> None:
    for number in reversed(done):
        try:
            if plugged:
                await _unplug(domain, run, machine, slots, number)
            else:
                await _plug(domain, run, machine, slots, number)
        except CorralError as error:
            log.warning("domain %s: vCPU %d stays as it is: %s", domain.name, number, error)


def _threads_made(run: Run, machine: Machine) -> int:
    """How many threads QEMU has made for vCPUs in this run; kept beside its sockets, for the next daemon."""
    file = run.directory / "vcpu-threads"
    if not file.exists():
        file.write_text(str(len(machine.vcpu_threads)))  # none is gone yet: who unplugs asks before
    return int(file.read_text())


async def _claim_thread(domain: Domain, run: Run, machine: Machine) -> None:
    """Count the threads that an emulated machine has made for vCPUs, and refuse one too many.

    QEMU's emulator has room for as many threads as the machine can have vCPUs, never reuses one, and aborts, guest and
    all, when it is asked for more. That of 7.2, which knows no x2APIC, corrupts its memory when a vCPU is plugged after
    another was unplugged.
    """
    document = run.live.document
    if domain.hypervisor.offer.accelerator(document) != "tcg":
        return
    made = _threads_made(run, machine)
    binary = await domain.hypervisor.offer.binary(document.devices.emulator)
    if made > len(machine.vcpu_threads) and "x2apic" not in binary.available_features("tcg"):
        raise OperationUnsupported(
            f"the software emulation of '{binary.path}' cannot plug a vCPU after one was unplugged: it would crash",
            hint="a vCPU that was unplugged comes back with the machine's next start, or with a newer QEMU",
        )
    if vcpus.in_turns(document):
        return
    most = document.vcpu.count if document.vcpu else 1
    if made >= most:
        raise OperationUnsupported(
            f"QEMU's software emulation can make {most} vCPUs in one run of this machine, and has made {made}",
            hint="vCPUs that were unplugged come back with the machine's next start; with KVM there is no such limit",
        )
    (run.directory / "vcpu-threads").write_text(str(made + 1))


async def _plug(domain: Domain, run: Run, machine: Machine, slots: list[Slot], number: int) -> None:
    await _claim_thread(domain, run, machine)
    slot = slots[number]
    await machine.monitor.execute("device_add", {"driver": slot.driver, "id": alias_of(number), **slot.place})
    machine.vcpu_threads = await machine.query_vcpu_threads()
    pinning.place_vcpu(run, number)
    await rewrite(domain, live=by(lambda document: vcpus.set_enabled(document, [number], True)))


async def plug_before_start(document: DomainDocument, machine: Machine) -> None:
    """Plug the vCPUs that shall be there from the start and can be unplugged; the guest does not run yet."""
    wanted = vcpus.plugged_at_start(document)
    if not wanted:
        return
    slots = vcpus.slots(await machine.monitor.execute("query-hotpluggable-cpus"))
    for number in wanted:
        slot = slots[number]
        await machine.monitor.execute("device_add", {"driver": slot.driver, "id": alias_of(number), **slot.place})
    machine.vcpu_threads = await machine.query_vcpu_threads()


async def _unplug(domain: Domain, run: Run, machine: Machine, slots: list[Slot], number: int) -> None:
    if vcpus.states(run.live.document)[number].hotpluggable != "yes":
        raise OperationUnsupported(
            f"vcpu '{number}' can't be unplugged",
            hint="it was there when the machine started, and stays until it stops",
        )
    _threads_made(run, machine)
    offline = await guest_vcpus.stop_using(domain, run, machine, alias_of(number)) if _runs(domain) else None
    try:
        refusal = await _eject(run, machine, number)
        for _ in range(guest_vcpus.BUSY_TRIES):
            if answers.BUSY not in refusal:
                break
            await asyncio.sleep(guest_vcpus.BUSY_PAUSE)  # Linux is, while it probes for devices
            refusal = await _eject(run, machine, number)
        if refusal:
            raise OperationFailed(f"the guest refuses to let go of vCPU {number}: {refusal}")
    except CorralError:
        if offline is not None and run.agent is not None:
            await guest_vcpus.use_again(run.agent, offline)
        raise
    machine.vcpu_threads = await machine.query_vcpu_threads()
    if number in machine.vcpu_threads:
        raise OperationFailed(f"the guest says that it has let go of vCPU {number}, and QEMU still has it")
    await rewrite(domain, live=by(lambda document: vcpus.set_enabled(document, [number], False)))


async def _eject(run: Run, machine: Machine, number: int) -> str:
    """Ask the guest to let go of a vCPU and wait for its answer: "" or its reason."""
    answer = answers.expect(run, alias_of(number))
    try:
        await machine.monitor.execute("device_del", {"id": alias_of(number)})
        async with asyncio.timeout(UNPLUG_TIMEOUT):
            return await answer
    except TimeoutError:
        raise OperationTimeout(
            f"vcpu unplug request timed out: the guest has not let go of vCPU {number} within {UNPLUG_TIMEOUT:g} s",
            hint="a guest that has not booted yet, or has no ACPI, does not answer",
        ) from None
    finally:
        answers.forget(run, alias_of(number))


async def _told_by_guest(run: Run) -> int | None:
    """How many CPUs the guest has, used or not; None when its agent does not tell."""
    assert run.agent is not None
    try:
        return len(await guest_vcpus.ask(run.agent))
    except CorralError as error:
        log.info("a guest's agent does not tell how many vCPUs it has: %s", error)
        return None


async def _require_taken(run: Run, noticed: dict[int, asyncio.Future[str]], had: int | None) -> None:
    """Wait until the guest has noticed its new vCPUs; OperationFailed when it does not take one of them.

    Linux from the end of 2025 on takes none under a hypervisor that it does not know, and it does not know software
    emulation; its answer to the plug is "done" all the same, so the count of `had` before is compared.
    """
    _, late = await asyncio.wait(noticed.values(), timeout=PLUG_TIMEOUT)
    if late:
        log.info("a guest has not reported %d of its new vCPUs", len(late))
    refusals = {number: answer.result() for number, answer in noticed.items() if answer.done() and answer.result()}
    has = await _told_by_guest(run) if had is not None and not refusals else None
    if had is not None and has is not None and has < had + len(noticed):
        refusals = {max(noticed): f"it has {has} after the plug, and had {had} before"}
    for number, reason in refusals.items():
        raise OperationFailed(
            f"the guest does not take vCPU {number}: {reason}",
            hint="newer Linux kernels take no vCPU in software emulation: give the machine all of its vCPUs at its"
            " start there; with KVM they do",
        )


async def _put_to_use(run: Run) -> int:
    """Have the guest's agent bring the vCPUs online that the guest has left offline; how many it uses then."""
    try:
        return await guest_vcpus.use_all(run)
    except CorralError as error:
        log.info("a guest's agent does not tell how many vCPUs it uses: %s", error)
        return len(vcpus.enabled(run.live.document))


def gone(domain: Domain, run: Run, number: int) -> None:
    """QEMU reports that a vCPU is gone: to who waits for it, else (a guest that took its time) into the document."""
    if answers.answered(run, alias_of(number), ""):
        return

    async def write() -> None:
        async def work() -> None:
            if domain.run is not run or number not in vcpus.enabled(run.live.document):
                return
            machine = run.require_machine()
            machine.vcpu_threads = await machine.query_vcpu_threads()
            if number not in machine.vcpu_threads:  # it may have been plugged in again since
                await rewrite(domain, live=by(lambda document: vcpus.set_enabled(document, [number], False)))

        await domain.change("note a vCPU's leave", work)

    domain.hypervisor.spawn(write())


async def reconcile(domain: Domain, run: Run, machine: Machine) -> None:
    """After a daemon that was killed in the middle of a change: the document says what QEMU has."""
    there, told = set(machine.vcpu_threads), set(vcpus.enabled(run.live.document))
    if not there or there == told or max(there) >= len(vcpus.states(run.live.document)):
        return

    def edit(document: DomainDocument) -> None:
        vcpus.set_enabled(document, sorted(there - told), True)
        vcpus.set_enabled(document, sorted(told - there), False)

    await rewrite(domain, live=by(edit))
