"""Memory of a domain: how much the guest has, at most, and how often it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.constants import DomainMemoryModFlags, DomainModificationImpact, DomainState, ErrorDomain
from corral.errors import InvalidArgument, OperationInvalid, OperationTimeout
from corral.hypervisor.memory import ballooning, memory_devices
from corral.hypervisor.rewriting import by, rewrite

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.model.devices.memballoon import Memballoon
    from corral.model.domain import Domain as DomainDocument

_IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


async def set_size(domain: Domain, kib: int, flags: int) -> int:
    """Give the guest `kib` KiB, by virDomainMemoryModFlags; what it has then.

    Live it is the guest's balloon that takes or gives of the memory of the start and of modules, and the virtio-mem
    devices that give what is beyond: OperationFailed when the guest does not move, OperationTimeout with what it has
    when it stops on the way. The definition changes when the guest has done its part.
    """
    if flags & DomainMemoryModFlags.MAXIMUM:
        await _set_maximum(domain, kib, flags)
        return kib
    live, config = domain.impact(flags & _IMPACT)
    for definition in ([domain.require_run().live] if live else []) + ([domain.config] if config else []):
        memory = definition.document.memory if definition else None
        if memory is not None and kib > memory.kib:
            raise InvalidArgument("cannot set memory higher than max memory")
    if kib == 0:
        raise InvalidArgument("a guest needs some memory")
    got = await _set_live(domain, kib) if live else kib
    if got < kib or got - kib >= _block_kib(domain):
        left = "; the next start is as before" if config else ""
        raise OperationTimeout(f"the guest has {got} KiB, not the {kib} KiB asked for; its balloon may go on{left}")
    if config:
        async with domain.hypervisor.definitions:
            await rewrite(domain, config=by(lambda document: _configure(document, kib)))
    return got


def _block_kib(domain: Domain) -> int:
    """The most by which the guest may have more than was asked for, plus one: virtio-mem gives whole blocks."""
    from corral.qemu.devices import memory

    if domain.run is None:
        return 1
    growing = memory.growing(domain.run.live.document)
    return max((each.target.block.kib for each in growing if each.target.block is not None), default=1)


def _configure(document: DomainDocument, kib: int) -> None:
    """The same at the next start: what is beyond the memory of the start is asked of the virtio-mem devices."""
    from corral.model.units import Size
    from corral.qemu import guest_memory
    from corral.qemu.devices import memory

    _set_current(document, kib)
    left = max(0, kib - guest_memory.given_kib(document))
    for device in memory.growing(document):
        block = device.target.block.kib if device.target.block is not None else 1
        share = min(device.target.size.kib, -(-left // block) * block)
        device.target.requested = Size(kib=share)
        left = max(0, left - share)


def _set_current(document: DomainDocument, kib: int) -> None:
    from corral.model.units import Memory

    document.current_memory = Memory(kib=kib)


async def _set_live(domain: Domain, kib: int) -> int:
    """Have the guest give first what virtio-mem gave it, and take first what its balloon holds."""
    from corral.qemu import guest_memory

    run = domain.require_run()
    if kib != run.balloon and domain.state()[0] != DomainState.RUNNING:
        raise OperationInvalid(
            "the guest does not run now, and can neither give nor take memory",
            hint="have it go on first (corral resume, wake), or change what its next start has (corral set --later)",
        )
    document = run.live.document
    fixed = guest_memory.given_kib(document)
    beyond = max(0, kib - fixed)
    if document.devices.memories and beyond < memory_devices.growing_kib(document):
        await memory_devices.set_growing(domain, run, beyond)
    if (wanted := min(kib, fixed)) != run.balloon - memory_devices.growing_kib(run.live.document) or not beyond:
        await _set_balloon(domain, wanted)
    if beyond > memory_devices.growing_kib(run.live.document):
        await memory_devices.set_growing(domain, run, beyond)
    await rewrite(domain, live=by(lambda document: _set_current(document, run.balloon)))
    return run.balloon


async def _set_balloon(domain: Domain, kib: int) -> None:
    balloon = domain.require_run().live.document.devices.memballoon
    if balloon is None or balloon.model == "none":
        raise OperationInvalid("Unable to change memory of active domain without the balloon device")
    await ballooning.inflate(domain, kib)


async def _set_maximum(domain: Domain, kib: int, flags: int) -> None:
    """Change how much there can be, at the next start; the guest has all of it unless it had less."""
    live, config = domain.impact(flags & _IMPACT)
    if live:
        raise OperationInvalid("cannot resize the maximum memory on an active domain")
    if not config or domain.config is None:
        raise OperationInvalid("transient domains do not have any persistent config", domain=ErrorDomain.DOMAIN)
    if kib == 0:
        raise InvalidArgument("a guest needs some memory")
    cpu = domain.config.document.cpu
    if cpu is not None and cpu.numa is not None and cpu.numa.cells:
        raise OperationInvalid("initial memory size of a domain with NUMA nodes cannot be modified with this API")

    from corral.qemu import guest_memory

    def edit(document: DomainDocument) -> None:
        assert document.memory is not None
        if kib <= guest_memory.modules_kib(document):
            raise InvalidArgument(f"{kib} KiB are not more than the domain's memory devices have")
        if document.max_memory is not None and kib > document.max_memory.kib:
            raise InvalidArgument(f"{kib} KiB are more than the domain's <maxMemory> of {document.max_memory.kib} KiB")
        document.memory.kib = kib
        if document.current_memory is None or document.current_memory.kib > kib:
            _set_current(document, kib)

    async with domain.hypervisor.definitions:
        await rewrite(domain, config=by(edit))


async def set_stats_period(domain: Domain, period: int, flags: int) -> None:
    """Have the guest report its memory every `period` seconds (0: never), by virDomainModificationImpact."""
    live, config = domain.impact(flags & _IMPACT)
    if period < 0:
        raise InvalidArgument(f"a period of {period} seconds is none")

    def edit(document: DomainDocument) -> None:
        from corral.model.devices.memballoon import BalloonStats

        _require_balloon(document).stats = BalloonStats(period=period) if period else None

    if live:
        run = domain.require_run()
        alias = _require_balloon(run.live.document).alias
        path = f"/machine/peripheral/{alias.name if alias else 'balloon0'}"
        await run.require_machine().monitor.execute(
            "qom-set", {"path": path, "property": "guest-stats-polling-interval", "value": period}
        )
    if config and domain.config:
        _require_balloon(domain.config.document)
    async with domain.hypervisor.definitions:
        await rewrite(domain, config=by(edit) if config else None, live=by(edit) if live else None)


def _require_balloon(document: DomainDocument) -> Memballoon:
    balloon = document.devices.memballoon
    if balloon is None or balloon.model != "virtio":
        raise OperationInvalid("Memory balloon model must be virtio to set the collection period")
    return balloon
