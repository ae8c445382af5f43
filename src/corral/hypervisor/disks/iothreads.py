"""I/O threads: more or fewer of them, how long they poll, how many workers they keep; live, for later, or both.

https://libvirt.org/html/libvirt-libvirt-domain.html (virDomainAddIOThread, virDomainDelIOThread,
virDomainSetIOThreadParams)
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from corral.constants import DomainModificationImpact
from corral.errors import CorralError, InvalidArgument, OperationInvalid
from corral.hypervisor.cpus import pinning
from corral.hypervisor.rewriting import by, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.domain import Domain as DomainDocument
    from corral.model.domain import IOThread

_IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG

#: The parameters, and the largest value of each.
LIMITS = {
    "poll_max_ns": 2**63 - 1,
    "poll_grow": 2**31 - 1,
    "poll_shrink": 2**31 - 1,
    "thread_pool_min": 2**31 - 1,
    "thread_pool_max": 2**31 - 1,
}


async def add(domain: Domain, number: int, flags: int) -> None:
    """One more thread."""
    await domain.change("add I/O thread", lambda: _add(domain, number, flags))


async def _add(domain: Domain, number: int, flags: int) -> None:
    from corral.model.domain import IOThread
    from corral.qemu import iothreads

    live, config = domain.impact(flags & _IMPACT)
    for document in _documents(domain, live, config):
        if number in {each.id for each in iothreads.settings(document)}:
            raise InvalidArgument(f"an IOThread is already using iothread_id '{number}'")

    def edit(document: DomainDocument) -> None:
        threads = sorted([*iothreads.settings(document), IOThread(id=number)], key=lambda each: each.id)
        iothreads.keep(document, threads)

    if not live:
        await _write(domain, live, config, edit)
        return
    run = domain.require_run()
    await _make(domain, run, IOThread(id=number))
    try:
        await pinning.place_iothread(run, number)
        await _write(domain, live, config, edit)
    except BaseException:
        with contextlib.suppress(CorralError):
            await _unmake(run, number)
        raise


async def _make(domain: Domain, run: Run, thread: IOThread) -> None:
    from corral.qemu import iothreads, render

    binary = await domain.hypervisor.offer.binary(run.live.document.devices.emulator)
    for command, arguments in render.attach([iothreads.part(thread, binary)]):
        await run.require_machine().monitor.execute(command, arguments)


async def _unmake(run: Run, number: int) -> None:
    from corral.qemu import iothreads

    await run.require_machine().monitor.execute("object-del", {"id": iothreads.object_id(number)})


async def delete(domain: Domain, number: int, flags: int) -> None:
    """One thread less; InvalidArgument naming what uses it."""
    await domain.change("remove I/O thread", lambda: _delete(domain, number, flags))


async def _delete(domain: Domain, number: int, flags: int) -> None:
    from corral.qemu import iothreads

    live, config = domain.impact(flags & _IMPACT)
    for document in _documents(domain, live, config):
        if number not in {each.id for each in iothreads.settings(document)}:
            raise InvalidArgument(f"cannot find IOThread '{number}' in iothreadids list")
        for user in iothreads.users(document, number):
            raise InvalidArgument(f"cannot remove IOThread '{number}' since it is being used by {user}")

    def edit(document: DomainDocument) -> None:
        iothreads.keep(document, [each for each in iothreads.settings(document) if each.id != number])
        if document.cputune is not None:
            pins = [pin for pin in document.cputune.iothreadpins if pin.iothread != number]
            document.cputune.iothreadpins = pins
            if not pins and not document.cputune.vcpupins and document.cputune.emulatorpin is None:
                document.cputune = None

    if not live:
        await _write(domain, live, config, edit)
        return
    run = domain.require_run()
    old = next(each for each in iothreads.settings(run.live.document) if each.id == number)
    await _unmake(run, number)
    try:
        await _write(domain, live, config, edit)
    except BaseException:
        with contextlib.suppress(CorralError):
            await _make(domain, run, old)
            await pinning.place_iothread(run, number)
        raise


async def set_parameters(domain: Domain, number: int, wanted: Mapping[str, int], flags: int) -> None:
    """How a thread polls and how many workers it keeps, by libvirt's names (`LIMITS`)."""
    await domain.change("set I/O thread", lambda: _set_parameters(domain, number, wanted, flags))


async def _set_parameters(domain: Domain, number: int, wanted: Mapping[str, int], flags: int) -> None:
    from corral.qemu import iothreads

    live, config = domain.impact(flags & _IMPACT)
    for name, value in wanted.items():
        if not 0 <= value <= LIMITS[name]:
            raise OperationInvalid(f"value of '{name.replace('_', '-')}' is out of range")
    for document in _documents(domain, live, config):
        found = {each.id: each for each in iothreads.settings(document)}
        if number not in found:
            raise InvalidArgument(f"cannot find IOThread '{number}' in iothreadids")
        _check_pool(_changed(found[number], wanted))

    def edit(document: DomainDocument) -> None:
        threads = [_changed(each, wanted) if each.id == number else each for each in iothreads.settings(document)]
        iothreads.keep(document, threads)

    if not live:
        await _write(domain, live, config, edit)
        return
    run = domain.require_run()
    monitor = run.require_machine().monitor
    path = f"/objects/{iothreads.object_id(number)}"
    done: list[tuple[str, int]] = []
    try:
        for name, value in _in_order(run.live.document, number, wanted):
            before = int(await monitor.execute("qom-get", {"path": path, "property": name}))
            await monitor.execute("qom-set", {"path": path, "property": name, "value": value})
            done.append((name, before))
        await _write(domain, live, config, edit)
    except CorralError:
        with contextlib.suppress(CorralError):
            for name, value in reversed(done):
                await monitor.execute("qom-set", {"path": path, "property": name, "value": value})
        raise


def _in_order(document: DomainDocument, number: int, wanted: Mapping[str, int]) -> list[tuple[str, int]]:
    """QEMU's names and values; a pool's bounds in the order in which neither passes the other."""
    from corral.qemu import iothreads

    now = next(each for each in iothreads.settings(document) if each.id == number)
    names = sorted(wanted, key=lambda name: (name.startswith("thread"), name))
    least = wanted.get("thread_pool_min")
    if least is not None and now.thread_pool_max is not None and least > now.thread_pool_max:
        names = [*(name for name in names if name != "thread_pool_min"), "thread_pool_min"]
    elif "thread_pool_max" in names:
        names = [*(name for name in names if name != "thread_pool_max"), "thread_pool_max"]
    return [(name.replace("_", "-"), wanted[name]) for name in names]


def _changed(thread: IOThread, wanted: Mapping[str, int]) -> IOThread:
    from corral.model.domain import IOThreadPoll
    from corral.qemu import iothreads

    new = thread.copy()
    for name, value in wanted.items():
        if name in iothreads.POOL:
            setattr(new, name, value)
        else:
            new.poll = new.poll or IOThreadPoll()
            setattr(new.poll, iothreads.POLL[name], value)
    return new


def _check_pool(thread: IOThread) -> None:
    least, most = thread.thread_pool_min, thread.thread_pool_max
    if least is not None and (most is None or least > most):
        shown = -1 if most is None else most
        raise OperationInvalid(f"thread_pool_min ({least}) can't be greater than thread_pool_max ({shown})")


def _documents(domain: Domain, live: bool, config: bool) -> list[DomainDocument]:
    """Those that are to be changed."""
    documents = [domain.require_run().live.document] if live else []
    return [*documents, domain.config.document] if config and domain.config else documents


async def _write(domain: Domain, live: bool, config: bool, edit: Callable[[DomainDocument], None]) -> None:
    async with domain.hypervisor.definitions:
        await rewrite(domain, config=by(edit) if config else None, live=by(edit) if live else None)
