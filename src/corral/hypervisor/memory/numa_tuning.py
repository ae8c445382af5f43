"""From which of the host's NUMA nodes a domain's memory comes (virDomainGetNumaParameters, virDomainSetNumaParameters).

QEMU binds memory where it is allocated, so a change is for the next start; moving what is there would take the host's
cpuset cgroup, as libvirt has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from corral.constants import DomainModificationImpact, DomainNumatuneMemMode
from corral.errors import ConfigUnsupported, InvalidArgument, OperationInvalid
from corral.hypervisor.rewriting import by, rewrite
from corral.model import cpuset

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.model.domain import Domain as DomainDocument

_IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
#: libvirt's words by number.
_MODES = {
    DomainNumatuneMemMode.STRICT: "strict",
    DomainNumatuneMemMode.PREFERRED: "preferred",
    DomainNumatuneMemMode.INTERLEAVE: "interleave",
    DomainNumatuneMemMode.RESTRICTIVE: "restrictive",
}


def get(domain: Domain, flags: int) -> tuple[int, str]:
    """(virDomainNumatuneMemMode, host nodes as `0-1,3`; "": any)."""
    live, config = domain.impact(flags & _IMPACT)
    if live and config:
        raise InvalidArgument("flags for the running and for the defined domain exclude each other")
    definition = domain.require_run().live if live else domain.config
    tune = definition.document.numatune if definition is not None else None
    memory = tune.memory if tune is not None else None
    if memory is None:
        return DomainNumatuneMemMode.STRICT, ""
    numbers = {word: number for number, word in _MODES.items()}
    nodes = cpuset.write(cpuset.parse(memory.nodeset)) if memory.nodeset else ""
    return numbers[memory.mode or "strict"], nodes


async def change(domain: Domain, mode: int | None, nodeset: str | None, flags: int) -> None:
    """Set what is given, for the next start."""
    await domain.change("set NUMA parameters", lambda: _change(domain, mode, nodeset, flags))


async def _change(domain: Domain, mode: int | None, nodeset: str | None, flags: int) -> None:
    if mode is not None and mode not in _MODES:
        raise InvalidArgument(f"unsupported numatune mode: '{mode}'")
    if nodeset is not None and not cpuset.parse(nodeset):
        raise InvalidArgument(f"Invalid nodeset of 'numatune': {nodeset}")
    live, _ = domain.impact(flags & _IMPACT)
    if live:
        raise OperationInvalid("cgroup cpuset controller is not mounted")
    if mode == DomainNumatuneMemMode.RESTRICTIVE:
        raise ConfigUnsupported("<numatune> mode 'restrictive' is not supported yet")

    def edit(document: DomainDocument) -> None:
        from corral.model.tune import NUMAMemory, NUMAMode, NUMATune

        tune = document.numatune = document.numatune or NUMATune()
        memory = tune.memory = tune.memory or NUMAMemory(mode="strict")
        if mode is not None:
            memory.mode = next(word for word in get_args(NUMAMode) if word == _MODES[mode])
        if nodeset is not None:
            memory.nodeset = cpuset.write(cpuset.parse(nodeset))

    async with domain.hypervisor.definitions:
        await rewrite(domain, config=by(edit))
