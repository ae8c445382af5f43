"""The CPU that a guest gets: compared with what can be had here before QEMU starts, read back from QEMU afterwards.

What was found is kept in the live document, which names a model and every difference from it, so that another host can
give the same. https://libvirt.org/formatdomain.html#cpu-model-and-topology (match, check, vendor, feature policies)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from corral.errors import ConfigUnsupported, CPUIncompatible
from corral.qemu.cpu_models import libvirt_name

if TYPE_CHECKING:
    from corral.model.cpu import CPU
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.binary import Binary
    from corral.qemu.machine import Machine

Accelerator = Literal["kvm", "tcg"]

_UNWANTED = ("optional", "disable", "forbid")
_XSAVE_LEAF = frozenset({"xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd"})
"""CPUID leaf 0xD, subleaf 1, EAX."""


def prepare(document: DomainDocument, binary: Binary, accel: Accelerator, host_vendor: str) -> None:
    """Settle in a live document which model and features QEMU is asked for.

    Raises CPUIncompatible naming what the host lacks of what is required, has of what is forbidden, or is beyond a
    strict match; ConfigUnsupported for a model that nobody knows here.
    """
    cpu = document.cpu
    if cpu is None or not binary.cpu_models(accel):
        return
    has = binary.available_features(accel)
    _check_features(cpu, has)
    if cpu.mode == "custom" and cpu.model is not None and cpu.model.name:
        _check_model(cpu, cpu.model.name, binary, accel, has, host_vendor)
    for feature in cpu.features:
        if feature.policy == "optional":
            feature.policy = "require" if feature.name in has else "disable"
    if cpu.mode == "host-model" or (cpu.mode == "custom" and cpu.match == "minimum"):
        _name_model(cpu, binary, accel)
    if accel == "tcg":
        _mend(cpu, binary, has)


def _check_features(cpu: CPU, has: frozenset[str]) -> None:
    """What the document says of single features holds in every mode."""
    if lacking := sorted(each.name for each in cpu.features if each.policy == "require" and each.name not in has):
        raise CPUIncompatible(
            f"Host CPU does not provide required features: {', '.join(lacking)}",
            hint="a feature with policy 'optional' may be missing; virsh domcapabilities shows what models lack here",
        )
    if excess := sorted(each.name for each in cpu.features if each.policy == "forbid" and each.name in has):
        raise CPUIncompatible(
            f"Host CPU provides forbidden features: {', '.join(excess)}",
            hint="policy 'disable' takes a feature from the guest",
        )


def _check_model(
    cpu: CPU, name: str, binary: Binary, accel: Accelerator, has: frozenset[str], host_vendor: str
) -> None:
    """A named model against the host, as thoroughly as `check` and `match` want it."""
    if cpu.check == "none" and cpu.match != "minimum":
        return
    model = binary.cpu_model(name, accel)
    if accel == "kvm" and cpu.vendor and host_vendor and cpu.vendor != host_vendor:
        raise CPUIncompatible(f"host CPU vendor does not match required CPU vendor {cpu.vendor}")
    unwanted = {feature.name for feature in cpu.features if feature.policy in _UNWANTED}
    if lacking := sorted(set(model.missing) - unwanted):
        raise CPUIncompatible(f"Host CPU does not provide required features: {', '.join(lacking)}")
    if accel == "kvm" and cpu.match == "strict":
        named = {feature.name for feature in cpu.features}
        unasked = binary.unmigratable.get(accel, frozenset()) | {"hypervisor"}
        if extra := sorted(has - set(model.features) - named - unasked):
            raise CPUIncompatible(f"Host CPU does not strictly match guest CPU: Extra features: {', '.join(extra)}")


def _name_model(cpu: CPU, binary: Binary, accel: Accelerator) -> None:
    """Say by a named model and its differences what the host's own or a better CPU is."""
    from corral.model.cpu import CPUFeature, CPUModel

    found = binary.host_model(accel)
    if found is None:
        raise ConfigUnsupported(f"QEMU binary '{binary.path}' does not tell what CPU the host could give")
    said = {feature.name for feature in cpu.features}
    policies: dict[str, Literal["require", "disable"]] = dict.fromkeys(found.require, "require")
    policies.update((name, "disable") for name in found.disable)
    if cpu.mode == "host-model":
        cpu.vendor = found.vendor or None
    identity = cpu.model.vendor_id if cpu.model is not None else None
    cpu.mode, cpu.match, cpu.check = "custom", "exact", "partial"
    cpu.model = CPUModel(name=found.name, fallback="forbid", vendor_id=identity)
    added = [CPUFeature(policy=policy, name=name) for name, policy in policies.items() if name not in said]
    cpu.features = added + cpu.features


def _mend(cpu: CPU, binary: Binary, has: frozenset[str]) -> None:
    """Give a model that has XSAVE and none of its extensions (Opteron_G4, Opteron_G5) one of them.

    QEMU's emulation takes the bit of CR4 that switches XSAVE on for a reserved one when the leaf of the extensions is
    empty, and hangs in the instruction that sets it: no Linux would boot.
    """
    from corral.model.cpu import CPUFeature

    if cpu.mode != "custom" or cpu.model is None or not cpu.model.name or "xsaveopt" not in has:
        return
    model = binary.cpu_model(cpu.model.name, "tcg")
    policies = {feature.name: feature.policy for feature in cpu.features}
    on = {name for name, policy in policies.items() if policy in ("require", "force")}
    features = (set(model.features) - set(model.missing) - (policies.keys() - on)) | on
    if "xsave" in features and not features & _XSAVE_LEAF and "xsaveopt" not in policies:
        cpu.features.append(CPUFeature(policy="require", name="xsaveopt"))


async def settle(document: DomainDocument, machine: Machine) -> None:
    """Note in the live document which features QEMU left out of a named model.

    Raises CPUIncompatible, naming them, when one was required: by its policy, by `check='full'`, or by a strict match.
    """
    cpu = document.cpu
    if cpu is None:
        return
    named = cpu.mode == "custom" and cpu.model is not None and bool(cpu.model.name)
    if not named and not any(feature.policy == "require" for feature in cpu.features):
        return
    first = (await machine.monitor.execute("query-cpus-fast"))[0]
    told = await machine.monitor.execute("qom-get", {"path": first["qom-path"], "property": "unavailable-features"})
    missing = sorted({libvirt_name(name) for name in told})
    _refuse(cpu, missing)
    if named:
        _note(cpu, missing)


def _refuse(cpu: CPU, missing: list[str]) -> None:
    unwanted = {feature.name for feature in cpu.features if feature.policy in _UNWANTED}
    required = {feature.name for feature in cpu.features if feature.policy == "require"}
    whole = cpu.mode == "custom" and (cpu.check == "full" or cpu.match == "strict")
    lacking = [name for name in missing if name not in unwanted and (whole or name in required)]
    if lacking:
        raise CPUIncompatible(f"guest CPU doesn't match specification: missing features: {','.join(lacking)}")


def _note(cpu: CPU, missing: list[str]) -> None:
    """The model without what is missing is what the guest has: nothing may be changed about it any more."""
    from corral.model.cpu import CPUFeature

    for feature in cpu.features:
        if feature.name in missing or feature.policy == "forbid":
            feature.policy = "disable"
    named = {feature.name for feature in cpu.features}
    cpu.features += [CPUFeature(policy="disable", name=name) for name in missing if name not in named]
    cpu.check = "full"
    if cpu.model is not None:
        cpu.model.fallback = "forbid"
