"""A domain's wish to be scaled: an element of its metadata, which virsh shows and migration carries.

    <autoscale:policy xmlns:autoscale='urn:corral:autoscale:1' weight='100'
                      period='5' quiet='600' step='60' host-bound='20'>
      <autoscale:vcpus min='1' max='8' target='80'/>
      <autoscale:memory min='524288' max='4194304' target='80'/>
    </autoscale:policy>

Memory is in KiB, times are in seconds, targets in percent; `dry-run='yes'` only tells. Either child may be left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from corral.errors import InvalidArgument
from corral.hypervisor.scaling.autoscaler import Limits, Pace

NAMESPACE = "urn:corral:autoscale:1"
PREFIX = "autoscale"

#: KiB of the smallest change of memory.
MEMORY_STEP = 64 * 1024

_KINDS = ("vcpus", "memory")
_NUMBERS = {
    "weight": (1, 10_000),
    "period": (0.1, 3600),
    "quiet": (0, 86_400),
    "step": (0, 86_400),
    "host_bound": (0, 100),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be changed, between which bounds, how fast, and how this domain counts beside others."""

    vcpus: Limits | None = None
    memory: Limits | None = None
    pace: Pace = field(default_factory=Pace)
    weight: int = 100
    dry_run: bool = False

    def limits(self) -> dict[str, Limits]:
        """The bounds by resource: `vcpus`, `memory`."""
        return {kind: limits for kind in _KINDS if (limits := getattr(self, kind)) is not None}

    def fields(self) -> dict[str, Any]:
        """The policy as JSON has it."""
        found: dict[str, Any] = {"weight": self.weight, **asdict(self.pace), "dry_run": self.dry_run}
        for kind, limits in self.limits().items():
            found[kind] = {"min": limits.minimum, "max": limits.maximum, "target": limits.target}
        return found


def from_fields(fields: object) -> Policy:
    """The policy that JSON describes; InvalidArgument naming what is wrong with it."""
    if not isinstance(fields, Mapping):
        raise InvalidArgument("a policy for scaling is an object")
    unknown = sorted(set(map(str, fields)) - {*_KINDS, *_NUMBERS, "dry_run"})
    if unknown:
        raise InvalidArgument(f"a policy for scaling has no '{unknown[0]}'")
    if not any(fields.get(kind) for kind in _KINDS):
        raise InvalidArgument("a policy for scaling needs bounds for vCPUs, for memory, or for both")
    numbers = {name: _number(name, fields[name], *bounds) for name, bounds in _NUMBERS.items() if name in fields}
    pace = Pace(**{name: numbers[name] for name in ("period", "quiet", "step", "host_bound") if name in numbers})
    return Policy(
        vcpus=_limits("vcpus", fields.get("vcpus"), 1),
        memory=_limits("memory", fields.get("memory"), MEMORY_STEP),
        pace=pace,
        weight=int(numbers.get("weight", 100)),
        dry_run=bool(fields.get("dry_run", False)),
    )


def _limits(kind: str, bounds: object, step: int) -> Limits | None:
    if not bounds:
        return None
    if not isinstance(bounds, Mapping) or not {"min", "max"} <= set(bounds) <= {"min", "max", "target"}:
        raise InvalidArgument(f"{kind} need a minimum and a maximum, and may have a target")
    minimum = int(_number(f"{kind} minimum", bounds["min"], 1, 2**40))
    maximum = int(_number(f"{kind} maximum", bounds["max"], 1, 2**40))
    if minimum > maximum:
        raise InvalidArgument(f"the minimum of {kind}, {minimum}, is more than the maximum, {maximum}")
    return Limits(minimum, maximum, int(_number(f"{kind} target", bounds.get("target", 80), 10, 100)), step)


def _number(name: str, value: object, low: float, high: float) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high or isinstance(value, bool):
        raise InvalidArgument(f"{name} must be {low:g} to {high:g}, not {value!r}")
    return number


def to_xml(policy: Policy) -> str:
    """The policy as the metadata element has it, without its namespace's prefix."""
    fields = policy.fields()
    dry = " dry-run='yes'" if policy.dry_run else ""
    head = " ".join(f"{name.replace('_', '-')}='{fields[name]:g}'" for name in _NUMBERS)
    children = "".join(
        f"<{kind} min='{fields[kind]['min']}' max='{fields[kind]['max']}' target='{fields[kind]['target']}'/>"
        for kind in policy.limits()
    )
    return f"<policy xmlns='{NAMESPACE}' {head}{dry}>{children}</policy>"


def from_xml(text: str) -> Policy:
    """The policy of a metadata element; InvalidArgument or XMLError when it is none."""
    from corral.model.reader import parse

    root = parse(text)
    if _local(root.tag) != "policy":
        raise InvalidArgument(f"<{_local(root.tag)}> is no policy for scaling")
    fields: dict[str, Any] = {str(name).replace("-", "_"): value for name, value in root.attrib.items()}
    dry_run = fields.pop("dry_run", "no")
    if dry_run not in ("yes", "no"):
        raise InvalidArgument(f"dry-run must be yes or no, not {dry_run!r}")
    for child in root:
        if isinstance(child.tag, str):
            fields[_local(child.tag)] = {str(name): value for name, value in child.attrib.items()}
    return from_fields({**fields, "dry_run": dry_run == "yes"})


def _local(tag: object) -> str:
    return str(tag).rpartition("}")[2].rpartition(":")[2]
