"""CPU models: which there are, and how CPUs compare."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from corral.constants import ConnectBaselineCPUFlags, ConnectCompareCPUFlags
from corral.daemon.dispatch import handler
from corral.hypervisor.cpus import cpus

if TYPE_CHECKING:
    from corral.daemon.session import Session

COMPARE = ConnectCompareCPUFlags.FAIL_INCOMPATIBLE | ConnectCompareCPUFlags.VALIDATE_XML
BASELINE = ConnectBaselineCPUFlags.EXPAND_FEATURES | ConnectBaselineCPUFlags.MIGRATABLE


@handler("connect_get_cpu_model_names")
def get_cpu_model_names(session: Session, args: Any) -> dict[str, Any]:
    """The models of an architecture, or only how many."""
    names = cpus.model_names(session.hypervisor.offer, args.arch)
    return {"models": names if args.need_results else [], "ret": len(names)}


@handler("connect_compare_cpu", flags=COMPARE)
async def compare_cpu(session: Session, args: Any) -> dict[str, Any]:
    """The host's processor beside a described one."""
    return {"result": await asyncio.to_thread(cpus.compare_host, session.hypervisor.offer, args.xml, args.flags)}


@handler("connect_compare_hypervisor_cpu", flags=COMPARE)
async def compare_hypervisor_cpu(session: Session, args: Any) -> dict[str, Any]:
    """What the hypervisor can give beside a described CPU."""
    where = (args.emulator, args.arch, args.machine, args.virttype)
    offer = session.hypervisor.offer
    return {"result": await asyncio.to_thread(cpus.compare_hypervisor, offer, *where, args.xmlCPU, args.flags)}


@handler("connect_baseline_cpu", flags=BASELINE)
async def baseline_cpu(session: Session, args: Any) -> dict[str, Any]:
    """What all of the described CPUs have."""
    documents = list(args.xmlCPUs)
    return {"cpu": await asyncio.to_thread(cpus.baseline_host, session.hypervisor.offer, documents, args.flags)}


@handler("connect_baseline_hypervisor_cpu", flags=BASELINE)
async def baseline_hypervisor_cpu(session: Session, args: Any) -> dict[str, Any]:
    """What all of the described CPUs have and the hypervisor can give."""
    where = (args.emulator, args.arch, args.machine, args.virttype)
    offer, documents = session.hypervisor.offer, list(args.xmlCPUs)
    return {"cpu": await asyncio.to_thread(cpus.baseline_hypervisor, offer, *where, documents, args.flags)}
