"""Memory devices of a running machine: what the guest made of a plug, and a virtio-mem's size as the guest changes it.

A module (dimm) that is plugged in is reported by the guest's firmware tables (QEMU's ACPI_DEVICE_OST), and where the
guest's own rules leave its blocks offline the agent brings them online. A virtio-mem is given a size (`requested`), and
the guest's driver plugs or unplugs block by block until it has that (MEMORY_DEVICE_SIZE_CHANGE, `current`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from corral.constants import DomainState
from corral.errors import CorralError, OperationFailed, OperationTimeout
from corral.hypervisor import events
from corral.hypervisor.hotplug import answers
from corral.hypervisor.rewriting import by, rewrite

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.devices.memory import MemoryDevice
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine

log = logging.getLogger(__name__)

#: Seconds that a guest with a running agent gets to take notice of a new module.
PLUG_TIMEOUT = 10.0
#: Seconds without any change of a virtio-mem's size after which the guest is taken to refuse.
PATIENCE = 10.0


def modules(devices: Iterable[Device]) -> list[MemoryDevice]:
    """The memory devices among them."""
    from corral.model.devices.memory import MemoryDevice

    return [each for each in devices if isinstance(each, MemoryDevice)]


def growing_kib(document: DomainDocument) -> int:
    """What the guest has of all virtio-mem devices; QEMU's figures for the balloon do not have it in."""
    from corral.qemu.devices import memory

    return sum(memory.current_kib(each) for each in memory.growing(document))


async def look(machine: Machine, document: DomainDocument) -> bool:
    """Write into a live document, in place, where its memory devices lie and what they give; False: there are none."""
    from corral.qemu import live

    if not document.devices.memories:
        return False
    live.set_memory(document, await machine.monitor.execute("query-memory-devices"))
    return True


async def settle(machine: Machine, document: DomainDocument) -> None:
    """The same for a machine that has just been made; what a virtio-mem could give the guest it does not have yet."""
    from corral.model.units import Memory
    from corral.qemu import guest_memory

    if await look(machine, document) and document.current_memory is not None:
        has = guest_memory.given_kib(document) + growing_kib(document)
        document.current_memory = Memory(kib=min(document.current_memory.kib, has))


async def refresh(domain: Domain, run: Run, machine: Machine) -> None:
    """The same after nobody listened for a while."""
    if not run.live.document.devices.memories:
        return
    told = await machine.monitor.execute("query-memory-devices")

    def edit(document: DomainDocument) -> None:
        from corral.qemu import live

        live.set_memory(document, told)

    run.live = run.live.edited(edit)
    run.balloon += growing_kib(run.live.document)
    await domain.hypervisor.store.update_live(run.id, xml=run.live.secure_xml)
    domain.touch()


@contextlib.contextmanager
def noticing(domain: Domain, run: Run, devices: tuple[Device, ...]) -> Iterator[dict[str, asyncio.Future[str]]]:
    """Listen for what the guest says of modules that are about to be plugged; nothing where nobody would tell."""
    agent = run.agent
    runs = domain.state()[0] == DomainState.RUNNING and agent is not None and agent.port_open is True
    aliases = [each.alias.name for each in modules(devices) if each.in_slot and each.alias is not None]
    expected = {alias: answers.expect(run, alias) for alias in aliases if runs}
    try:
        yield expected
    finally:
        for alias in expected:
            answers.forget(run, alias)


async def noticed(run: Run, expected: dict[str, asyncio.Future[str]]) -> None:
    """Wait until the guest has taken notice, and have its agent use what it left unused.

    Raises OperationFailed with the guest's reason when it will not have the memory.
    """
    for alias, answer in expected.items():
        await asyncio.wait((answer,), timeout=PLUG_TIMEOUT)
        if not answer.done():
            log.info("a guest has not reported its new memory '%s'", alias)
        elif reason := answer.result():
            raise OperationFailed(f"the guest does not take the memory '{alias}': {reason}")
    if expected and run.agent is not None:
        try:
            await _use_all(run)
        except (CorralError, KeyError, TypeError, AttributeError) as error:  # a guest may answer anything
            log.info("a guest's agent does not tell which memory it uses: %r", error)


async def _use_all(run: Run) -> None:
    """Bring every block of the guest's memory online."""
    assert run.agent is not None
    blocks: list[dict[str, Any]] = await run.agent.execute("guest-get-memory-blocks")
    offline = [{"phys-index": each["phys-index"], "online": True} for each in blocks if not each["online"]]
    if offline:
        results = await run.agent.execute("guest-set-memory-blocks", {"mem-blks": offline})
        refused = [each for each in results if each.get("response") != "success"]
        if refused:
            log.warning("a guest leaves %d blocks of its memory offline", len(refused))


def counted(run: Run, devices: Iterable[Device], sign: int) -> None:
    """Modules that came (+1) or went (-1) are a part of what the guest has."""
    run.balloon += sign * sum(each.target.size.kib for each in modules(devices) if each.model == "dimm")


def size_changed(domain: Domain, run: Run, alias: str, size: int) -> None:
    """The guest has changed a virtio-mem's size, in bytes."""
    from corral.model.units import Memory, Size

    device = next(
        (each for each in run.live.document.devices.memories if each.alias and each.alias.name == alias), None
    )
    if device is None:
        return
    before = device.target.current.kib if device.target.current is not None else 0
    run.balloon += size // 1024 - before

    def edit(document: DomainDocument) -> None:
        document.current_memory = Memory(kib=run.balloon)
        for each in document.devices.memories:
            if each.alias is not None and each.alias.name == alias:
                each.target.current = Size(kib=size // 1024)

    run.live = run.live.edited(edit)
    domain.touch()
    domain.hypervisor.spawn(domain.hypervisor.store.update_live(run.id, xml=run.live.secure_xml))
    domain.hypervisor.events.emit(events.MemoryDeviceSizeChange(domain.identity(), alias, size // 1024))


async def request(domain: Domain, run: Run, alias: str, kib: int) -> None:
    """Ask the guest for a size of a virtio-mem, and write down that it was asked; the guest does it in its own time."""
    from corral.model import device_set
    from corral.model.units import Size
    from corral.qemu.devices import memory

    device = _named(run, alias)
    command, arguments = memory.request(device, kib)
    await run.require_machine().monitor.execute(command, arguments)

    def edit(document: DomainDocument) -> None:
        for found in modules([device_set.twin(document, device) or device]):
            found.target.requested = Size(kib=kib)

    await rewrite(domain, live=by(edit))


def _named(run: Run, alias: str) -> MemoryDevice:
    return next(each for each in run.live.document.devices.memories if each.alias and each.alias.name == alias)


def current_kib(run: Run, alias: str) -> int:
    """What a virtio-mem gives the guest now."""
    from corral.qemu.devices import memory

    return memory.current_kib(_named(run, alias))


async def resize(domain: Domain, run: Run, alias: str, kib: int) -> int:
    """Ask for a size and wait while the guest moves towards it; what it has then.

    OperationFailed when it does not move at all: what was requested before is requested again.
    """
    before = current_kib(run, alias)
    requested = _named(run, alias).target.requested
    moved = asyncio.Event()

    def heard(event: events.Event) -> None:
        if isinstance(event, events.MemoryDeviceSizeChange) and event.dom.uuid == domain.uuid:
            moved.set()

    unsubscribe = domain.hypervisor.events.subscribe(heard)
    try:
        await request(domain, run, alias, kib)
        while current_kib(run, alias) != kib:
            moved.clear()
            async with asyncio.timeout(PATIENCE):
                await moved.wait()
    except TimeoutError as error:
        if (now := current_kib(run, alias)) == before:
            await request(domain, run, alias, requested.kib if requested is not None else 0)
            raise OperationFailed(
                f"the guest leaves its memory device '{alias}' at {now} KiB instead of {kib} KiB",
                hint="it needs the driver virtio_mem; memory that it cannot move elsewhere it cannot give back",
            ) from error
    finally:
        unsubscribe()
    return current_kib(run, alias)


async def drain(domain: Domain, run: Run, device: MemoryDevice) -> None:
    """Have the guest give back all that a virtio-mem gave it, so that it can be unplugged.

    Raises with what the guest keeps; it then has what it had, as far as it will take it back.
    """
    assert device.alias is not None
    alias = device.alias.name
    left = await resize(domain, run, alias, 0)
    if left:
        await ask_again(domain, run, device)
        raise OperationTimeout(
            f"the guest has not let go of {left} KiB of its memory device '{alias}' and still has it"
        )


async def ask_again(domain: Domain, run: Run, device: MemoryDevice) -> None:
    """Request of a virtio-mem that was to be unplugged, and stays, what was requested of it before."""
    assert device.alias is not None
    requested = device.target.requested
    await request(domain, run, device.alias.name, requested.kib if requested is not None else 0)


async def set_growing(domain: Domain, run: Run, kib: int) -> int:
    """Have the virtio-mem devices give `kib` KiB together, those of the document's beginning first; what they give.

    Rounded up to whole blocks.
    """
    from corral.qemu.devices import memory

    left, got = kib, 0
    for device in memory.growing(run.live.document):
        assert device.alias is not None
        block = device.target.block.kib if device.target.block is not None else 1
        share = min(device.target.size.kib, -(-left // block) * block)
        left = max(0, left - share)
        now = memory.current_kib(device)
        got += now if share == now else await resize(domain, run, device.alias.name, share)
    return got
