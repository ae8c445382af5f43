"""CPUs compared: with the host's, with what the hypervisor can give, and with each other for what all of them have.

https://libvirt.org/html/libvirt-libvirt-host.html (virConnectCompareCPU, virConnectBaselineCPU and their hypervisor
counterparts). Models and features are those of QEMU, under libvirt's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lxml import etree

from corral.constants import ConnectBaselineCPUFlags, ConnectCompareCPUFlags, CPUCompareResult
from corral.errors import ConfigUnsupported, CPUIncompatible, InvalidArgument, OperationFailed, XMLError
from corral.model import reader
from corral.qemu.cpu_models import from_kernel_flags, nearest
from corral.qemu.cpu_option import SYSTEMS_OWN

if TYPE_CHECKING:
    from corral.hypervisor.host.offer import Offer
    from corral.qemu.binary import Binary
    from corral.qemu.cpu_models import CPUModel

_NOT_NAMED = frozenset({"max", "host", "base"})
_ACCELERATORS: dict[str, Literal["kvm", "tcg"]] = {"kvm": "kvm", "qemu": "tcg"}


@dataclass(frozen=True, slots=True)
class Given:
    """A `<cpu>` as somebody described it: all features that it has, and those that its document says it must not."""

    model: str
    vendor: str
    arch: str | None
    features: frozenset[str]
    forbidden: frozenset[str]
    guest: bool
    strict: bool = False


def model_names(offer: Offer, arch: str) -> list[str]:
    """The CPU models of an architecture; InvalidArgument for one that no emulator here has."""
    binary = offer.default
    if arch != binary.arch and not (arch == "i686" and binary.arch == "x86_64"):
        raise InvalidArgument(f"cannot find architecture {arch}")
    return [model.name for model in _models(binary, "tcg") if model.name not in _NOT_NAMED]


def compare_host(offer: Offer, xml: str, flags: int) -> int:
    """A virCPUCompareResult: the host's processor beside the one described."""
    binary = offer.default
    given = _read(xml, binary, "tcg", flags)
    host = offer.host.cpu
    has = from_kernel_flags(host.flags, binary.cpu_features)
    if not given.model:
        return int(CPUCompareResult.SUPERSET)
    if given.vendor and given.vendor != host.vendor:
        return _incompatible(flags, f"host CPU vendor does not match required CPU vendor {given.vendor}")
    return _result(given, has, flags)


def compare_hypervisor(
    offer: Offer,
    emulator: str | None,
    arch: str | None,
    machine: str | None,
    virttype: str | None,
    xml: str,
    flags: int,
) -> int:
    """A virCPUCompareResult: what the hypervisor can give beside the CPU described."""
    binary, accel = _hypervisor(offer, emulator, arch, machine, virttype)
    given = _read(xml, binary, accel, flags)
    if not given.model:
        return int(CPUCompareResult.SUPERSET)
    # An emulator has features for every taste; that it has more than a strict CPU is no news.
    return _result(given if accel == "kvm" else replace(given, strict=False), binary.available_features(accel), flags)


def baseline_host(offer: Offer, documents: Sequence[str], flags: int) -> str:
    """The best CPU that all of the described ones have."""
    binary = offer.default
    given = [_read(xml, binary, "tcg", 0) for xml in documents]
    for each in given:
        if each.guest:
            raise ConfigUnsupported("Attribute mode is only allowed for guest CPU")
        if each.arch is None:
            raise XMLError("Missing CPU architecture")
    return _baseline(given, None, binary, "tcg", flags)


def baseline_hypervisor(
    offer: Offer,
    emulator: str | None,
    arch: str | None,
    machine: str | None,
    virttype: str | None,
    documents: Sequence[str],
    flags: int,
) -> str:
    """The best CPU that all of the described ones have and the hypervisor can give."""
    binary, accel = _hypervisor(offer, emulator, arch, machine, virttype)
    given = [_read(xml, binary, accel, 0) for xml in documents]
    return _baseline(given, binary.available_features(accel), binary, accel, flags)


def _hypervisor(
    offer: Offer, emulator: str | None, arch: str | None, machine: str | None, virttype: str | None
) -> tuple[Binary, Literal["kvm", "tcg"]]:
    """The binary and the accelerator that are meant, as for domain capabilities."""
    binary = offer.known(emulator)
    if arch is not None and arch != binary.arch:
        raise InvalidArgument(f"emulator '{binary.path}' does not support architecture '{arch}'")
    binary.machine(machine)
    offered = offer.domain_types(binary)
    virttype = virttype or offered[-1]
    if virttype not in _ACCELERATORS:
        raise InvalidArgument(f"unknown virttype: {virttype}")
    if virttype not in offered:
        raise InvalidArgument(f"KVM is not supported by '{binary.path}' on this host")
    return binary, _ACCELERATORS[virttype]


def _models(binary: Binary, accel: Literal["kvm", "tcg"]) -> tuple[CPUModel, ...]:
    return binary.cpu_models(accel) or binary.cpu_models("tcg")


def _read(xml: str, binary: Binary, accel: Literal["kvm", "tcg"], flags: int) -> Given:
    """A host's or a guest's `<cpu>`; a capabilities document stands for the CPU in it."""
    root = reader.parse(xml)
    if root.tag != "cpu":
        found = root.find("host/cpu")
        if found is None:
            raise XMLError(f"an element <cpu> was expected, and this is <{root.tag}>")
        root = found
    if flags & ConnectCompareCPUFlags.VALIDATE_XML:
        from corral.model.cpu import CPU

        CPU.from_xml(etree.tostring(root))
    name = (root.findtext("model") or "").strip()
    mode = root.get("mode")
    if not name and mode in ("host-model", "maximum", "host-passthrough"):
        return Given("", "", None, binary.available_features(accel), frozenset(), True)
    if not name:
        raise XMLError("Missing CPU model name")
    model = next((each for each in _models(binary, accel) if each.name == name), None)
    if model is None:
        raise InvalidArgument(f"Unknown CPU model {name}")
    features, forbidden = set(model.features), set()
    for feature in root.iterfind("feature"):
        policy, feature_name = feature.get("policy", "require"), feature.get("name", "")
        if feature_name in SYSTEMS_OWN:
            continue
        if feature_name not in binary.cpu_features:
            raise InvalidArgument(f"Unknown CPU feature {feature_name}")
        if policy in ("disable", "forbid"):
            features.discard(feature_name)
            forbidden |= {feature_name} if policy == "forbid" else set()
        elif policy != "optional":
            features.add(feature_name)
    return Given(
        name,
        (root.findtext("vendor") or "").strip(),
        (root.findtext("arch") or "").strip() or None,
        frozenset(features),
        frozenset(forbidden),
        mode is not None,
        strict=root.get("match") == "strict",
    )


def _result(given: Given, has: frozenset[str], flags: int) -> int:
    missing = sorted(given.features - has)
    if missing:
        return _incompatible(flags, f"Host CPU does not provide required features: {', '.join(missing)}")
    if excess := sorted(given.forbidden & has):
        return _incompatible(flags, f"Host CPU provides forbidden features: {', '.join(excess)}")
    if given.strict and (extra := sorted(has - given.features)):
        return _incompatible(flags, f"Host CPU does not strictly match guest CPU: Extra features: {', '.join(extra)}")
    return int(CPUCompareResult.IDENTICAL if given.features == has else CPUCompareResult.SUPERSET)


def _incompatible(flags: int, reason: str) -> int:
    if flags & ConnectCompareCPUFlags.FAIL_INCOMPATIBLE:
        raise CPUIncompatible(reason)
    return int(CPUCompareResult.INCOMPATIBLE)


def _baseline(
    given: Sequence[Given],
    within: frozenset[str] | None,
    binary: Binary,
    accel: Literal["kvm", "tcg"],
    flags: int,
) -> str:
    if not given:
        raise InvalidArgument("no CPUs given")
    vendors = {each.vendor for each in given if each.vendor}
    for position, each in enumerate(given):
        if not each.model:
            raise InvalidArgument(f"no CPU model specified at index {position}")
    if len(vendors) > 1:
        raise OperationFailed("CPU vendors do not match")
    common = frozenset.intersection(*(each.features for each in given))
    common = common & within if within is not None else common - {"hypervisor"}
    if flags & ConnectBaselineCPUFlags.MIGRATABLE:
        common -= binary.unmigratable.get(accel, frozenset()) | {"invtsc"}
    names = {each.model for each in given}
    candidates = _models(binary, accel)
    vendor = next(iter(vendors), "")
    if len(names) == 1 and (own := [each for each in candidates if each.name in names]):
        best = nearest(own, common, vendor or own[0].vendor)
    else:
        makers = {each.vendor for each in candidates if each.name in names and each.vendor}
        vendor = vendor or (makers.pop() if len(makers) == 1 else "")
        best = nearest(candidates, common, vendor)
    if best is None:
        raise CPUIncompatible("the CPUs have nothing in common that a CPU model describes")
    element = etree.Element("cpu", mode="custom", match="exact")
    computed = within is None and len(names) > 1
    etree.SubElement(element, "model", fallback="allow" if computed else "forbid").text = best.name
    if vendors:
        etree.SubElement(element, "vendor").text = vendor
    policies = dict.fromkeys(best.require, "require") | dict.fromkeys(best.disable, "disable")
    if flags & ConnectBaselineCPUFlags.EXPAND_FEATURES:
        policies = dict.fromkeys(common, "require") | dict.fromkeys(best.disable, "disable")
    if within is None:
        policies.pop("hypervisor", None)  # QEMU counts it among every model's features, and no processor has it
    for name in sorted(policies):
        etree.SubElement(element, "feature", policy=policies[name], name=name)
    etree.indent(element, "  ")
    return etree.tostring(element, encoding="unicode").replace('"', "'") + "\n"
