"""Which host CPUs the threads of a machine may run on: its vCPUs, its I/O threads, and QEMU's own work.

Set thread by thread (sched_setaffinity(2)) before the guest runs, and at once when it is changed. QEMU's own work is
every thread that is neither; threads that it makes later inherit from those.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from corral.constants import DomainModificationImpact, TypedParameterType
from corral.errors import HostError, InvalidArgument
from corral.hypervisor.events import Tunable
from corral.hypervisor.rewriting import by, rewrite
from corral.model import cpuset
from corral.qemu.context import iothreads

if TYPE_CHECKING:
    from collections.abc import Callable

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine

_IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


def host_cpus() -> frozenset[int]:
    """The host CPUs that there are to run on."""
    try:
        return cpuset.parse(Path("/sys/devices/system/cpu/online").read_text().strip())
    except OSError:
        return frozenset(range(os.cpu_count() or 1))


def of_vcpu(document: DomainDocument, number: int) -> frozenset[int] | None:
    """Where a vCPU may run; None: anywhere."""
    pins = document.cputune.vcpupins if document.cputune else []
    return next((cpuset.parse(pin.cpuset) for pin in pins if pin.vcpu == number), _default(document))


def of_emulator(document: DomainDocument) -> frozenset[int] | None:
    """Where QEMU's own work may run; None: anywhere."""
    pin = document.cputune.emulatorpin if document.cputune else None
    return cpuset.parse(pin.cpuset) if pin else _default(document)


def of_iothread(document: DomainDocument, number: int) -> frozenset[int] | None:
    """Where an I/O thread may run; None: anywhere."""
    pins = document.cputune.iothreadpins if document.cputune else []
    return next((cpuset.parse(pin.cpuset) for pin in pins if pin.iothread == number), _default(document))


def _default(document: DomainDocument) -> frozenset[int] | None:
    return cpuset.parse(document.vcpu.cpuset) if document.vcpu and document.vcpu.cpuset else None


async def apply(document: DomainDocument, machine: Machine) -> None:
    """Place every thread of a machine that has just been made."""
    if document.cputune is None and _default(document) is None:
        return
    workers = await _iothread_ids(machine)
    vcpus = machine.vcpu_threads
    if (own := of_emulator(document)) is not None:
        _place_emulator(machine, own, {*vcpus.values(), *workers.values()})
    for number, thread in vcpus.items():
        # A thread inherits from the one that made it; a vCPU without a pin of its own must not.
        _place(thread, of_vcpu(document, number) or host_cpus(), f"vCPU {number}")
    for number, thread in workers.items():
        _place(thread, of_iothread(document, number) or host_cpus(), f"I/O thread {number}")


def place_vcpu(run: Run, number: int) -> None:
    """Place the thread of a vCPU that has just been plugged."""
    document = run.live.document
    if run.machine is None or (document.cputune is None and _default(document) is None):
        return
    thread = run.machine.vcpu_threads.get(number)
    if thread is not None:
        _place(thread, of_vcpu(document, number) or host_cpus(), f"vCPU {number}")


async def place_iothread(run: Run, number: int) -> None:
    """Place an I/O thread that has just been made; it would inherit from the one that made it."""
    document = run.live.document
    if run.machine is None or (document.cputune is None and _default(document) is None):
        return
    thread = (await _iothread_ids(run.machine)).get(number)
    if thread is not None:
        _place(thread, of_iothread(document, number) or host_cpus(), f"I/O thread {number}")


def _place(thread: int, cpus: Iterable[int], what: str) -> None:
    wanted = set(cpus)
    try:
        os.sched_setaffinity(thread, wanted)
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise HostError(f"cannot let {what} run on host CPUs {cpuset.write(wanted)}: {reason}") from error


def _place_emulator(machine: Machine, cpus: Iterable[int], others: set[int]) -> None:
    tasks = Path(f"/proc/{machine.process.pid}/task")
    for task in tasks.iterdir():
        if int(task.name) in others:
            continue
        try:
            _place(int(task.name), cpus, "QEMU's own work")
        except HostError:
            if task.exists():  # a worker that has ended meanwhile needs no place
                raise


async def _iothread_ids(machine: Machine) -> dict[int, int]:
    """The thread of each I/O thread by its number."""
    answer = await machine.monitor.execute("query-iothreads")
    return {
        int(each["id"].removeprefix("iothread")): int(each["thread-id"])
        for each in answer
        if each["id"].removeprefix("iothread").isdigit()
    }


async def pin_vcpu(domain: Domain, number: int, cpus: frozenset[int], flags: int) -> None:
    """Let one vCPU run on these host CPUs only."""
    live, config = domain.impact(flags & _IMPACT)
    _require(cpus)
    for definition, kind in ((domain.definition if live else None, "live"), (domain.config, "persistent")):
        if definition is not None and (kind == "live" or config):
            vcpu = definition.document.vcpu
            most = vcpu.count if vcpu else 1
            if number >= most:
                current = (vcpu.current if vcpu else None) or most
                raise InvalidArgument(f"vcpu {number} is out of range of {kind} cpu count {current}")
    if live and (thread := domain.require_run().require_machine().vcpu_threads.get(number)) is not None:
        _place(thread, cpus, f"vCPU {number}")

    def edit(document: DomainDocument) -> None:
        from corral.model.tune import CPUTune, VCPUPin

        tune = document.cputune = document.cputune or CPUTune()
        others = [pin for pin in tune.vcpupins if pin.vcpu != number]
        pin = VCPUPin(vcpu=number, cpuset=cpuset.write(cpus))
        tune.vcpupins = sorted([*others, pin], key=lambda each: each.vcpu)

    await _write(domain, live, config, edit, f"cputune.vcpupin{number}", cpus)


async def pin_emulator(domain: Domain, cpus: frozenset[int], flags: int) -> None:
    """Let QEMU's own work run on these host CPUs only."""
    live, config = domain.impact(flags & _IMPACT)
    _require(cpus)
    if live:
        machine = domain.require_run().require_machine()
        others = {*machine.vcpu_threads.values(), *(await _iothread_ids(machine)).values()}
        _place_emulator(machine, cpus, others)

    def edit(document: DomainDocument) -> None:
        from corral.model.tune import CPUTune, EmulatorPin

        tune = document.cputune = document.cputune or CPUTune()
        tune.emulatorpin = EmulatorPin(cpuset=cpuset.write(cpus))

    await _write(domain, live, config, edit, "cputune.emulatorpin", cpus)


async def pin_iothread(domain: Domain, number: int, cpus: frozenset[int], flags: int) -> None:
    """Let one I/O thread run on these host CPUs only."""
    live, config = domain.impact(flags & _IMPACT)
    _require(cpus)
    for definition in ([domain.definition] if live else []) + ([domain.config] if config and domain.config else []):
        if number not in iothreads(definition.document):
            raise InvalidArgument(f"iothreadid {number} not found")
    if live:
        thread = (await _iothread_ids(domain.require_run().require_machine())).get(number)
        if thread is not None:
            _place(thread, cpus, f"I/O thread {number}")

    def edit(document: DomainDocument) -> None:
        from corral.model.tune import CPUTune, IOThreadPin

        tune = document.cputune = document.cputune or CPUTune()
        others = [pin for pin in tune.iothreadpins if pin.iothread != number]
        pin = IOThreadPin(iothread=number, cpuset=cpuset.write(cpus))
        tune.iothreadpins = sorted([*others, pin], key=lambda each: each.iothread)

    await _write(domain, live, config, edit, f"cputune.iothreadpin{number}", cpus)


def _require(cpus: frozenset[int]) -> None:
    if not cpus & host_cpus():
        online = cpuset.write(host_cpus())
        raise InvalidArgument("Empty cpu list for pinning", hint=f"this host has the CPUs {online}")


async def _write(
    domain: Domain, live: bool, config: bool, edit: Callable[[DomainDocument], None], name: str, cpus: frozenset[int]
) -> None:
    async with domain.hypervisor.definitions:
        await rewrite(domain, config=by(edit) if config else None, live=by(edit) if live else None)
    if live:
        params = ((name, int(TypedParameterType.STRING), cpuset.write(cpus)),)
        domain.hypervisor.events.emit(Tunable(domain.identity(), params))


def vcpu_pins(domain: Domain, flags: int) -> list[frozenset[int]]:
    """Where each vCPU that there can be may run."""
    document = _document(domain, flags)
    count = document.vcpu.count if document.vcpu else 1
    return [of_vcpu(document, number) or host_cpus() for number in range(count)]


def emulator_pin(domain: Domain, flags: int) -> frozenset[int]:
    """Where QEMU's own work may run."""
    return of_emulator(_document(domain, flags)) or host_cpus()


def iothread_pins(domain: Domain, flags: int) -> dict[int, frozenset[int]]:
    """Where each I/O thread may run, by its number."""
    document = _document(domain, flags)
    return {number: of_iothread(document, number) or host_cpus() for number in iothreads(document)}


def _document(domain: Domain, flags: int) -> DomainDocument:
    live, config = domain.impact(flags & _IMPACT)
    if live and config:
        raise InvalidArgument("flags for the running and for the defined domain exclude each other")
    return domain.definition.document if live or domain.config is None else domain.config.document
