"""The CPU that a running guest got: read back from QEMU, checked against what was required, kept in the live document.

https://libvirt.org/formatdomain.html#cpu-model-and-topology (`check`, feature policies)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.errors import CPUIncompatible
from corral.qemu.cpu_models import libvirt_name

if TYPE_CHECKING:
    from corral.model.cpu import CPU
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine


async def settle(document: DomainDocument, machine: Machine) -> None:
    """Note in the live document which features QEMU left out of a named model.

    Raises CPUIncompatible, naming them, when one was required: by its policy, by `check='full'`, or by a strict match.
    """
    cpu = document.cpu
    if cpu is None or cpu.mode != "custom" or cpu.model is None or not cpu.model.name:
        return
    first = (await machine.monitor.execute("query-cpus-fast"))[0]
    told = await machine.monitor.execute("qom-get", {"path": first["qom-path"], "property": "unavailable-features"})
    missing = sorted({libvirt_name(name) for name in told})
    _refuse(cpu, missing)
    _note(cpu, missing)


def _refuse(cpu: CPU, missing: list[str]) -> None:
    unwanted = {feature.name for feature in cpu.features if feature.policy in ("optional", "disable", "forbid")}
    required = {feature.name for feature in cpu.features if feature.policy == "require"}
    whole = cpu.check == "full" or cpu.match == "strict"
    lacking = [name for name in missing if name not in unwanted and (whole or name in required)]
    if lacking:
        raise CPUIncompatible(
            f"guest CPU doesn't match specification: missing features: {','.join(lacking)}",
            hint="a feature with policy 'optional' may be missing; virsh domcapabilities shows what models lack here",
        )


def _note(cpu: CPU, missing: list[str]) -> None:
    """The model without what is missing is what the guest has: nothing may be changed about it any more."""
    from corral.model.cpu import CPUFeature

    for feature in cpu.features:
        if feature.name in missing:
            feature.policy = "disable"
        elif feature.policy == "optional":
            feature.policy = "require"
        elif feature.policy == "forbid":
            feature.policy = "disable"
    named = {feature.name for feature in cpu.features}
    cpu.features += [CPUFeature(policy="disable", name=name) for name in missing if name not in named]
    cpu.check = "full"
    if cpu.model is not None:
        cpu.model.fallback = "forbid"
