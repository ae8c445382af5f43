"""What libvirt does with the host's control groups: shares, quotas, weights, limits of memory.

Corral puts domains into none: nothing is limited, which is what a domain that is off is told to have, and a limit is
refused as by a libvirt on a host without them. Texts and names are libvirt's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.constants import DomainModificationImpact, TypedParameterType
from corral.errors import InvalidArgument, OperationInvalid

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain

_IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
_UINT, _LLONG, _ULLONG, _STRING = (
    TypedParameterType.UINT,
    TypedParameterType.LLONG,
    TypedParameterType.ULLONG,
    TypedParameterType.STRING,
)
#: KiB that stand for no limit.
UNLIMITED = (2**63 - 1) >> 10

#: What each procedure's figures are without a limit: name, virTypedParameterType, value.
SCHEDULER = (
    ("cpu_shares", _ULLONG, 0),
    ("vcpu_period", _ULLONG, 0),
    ("vcpu_quota", _LLONG, 0),
    ("emulator_period", _ULLONG, 0),
    ("emulator_quota", _LLONG, 0),
    ("global_period", _ULLONG, 0),
    ("global_quota", _LLONG, 0),
    ("iothread_period", _ULLONG, 0),
    ("iothread_quota", _LLONG, 0),
)
MEMORY = tuple((name, _ULLONG, UNLIMITED) for name in ("hard_limit", "soft_limit", "swap_hard_limit"))
BLOCK = (
    ("weight", _UINT, 0),
    ("device_weight", _STRING, ""),
    ("device_read_iops_sec", _STRING, ""),
    ("device_write_iops_sec", _STRING, ""),
    ("device_read_bytes_sec", _STRING, ""),
    ("device_write_bytes_sec", _STRING, ""),
)
Figures = tuple[tuple[str, int, int | str], ...]
_TEXTS: dict[Figures, str] = {
    SCHEDULER: "cgroup CPU controller is not mounted",
    MEMORY: "cgroup memory controller is not mounted",
    BLOCK: "blkio cgroup isn't mounted",
}


def figures(domain: Domain, kind: Figures, flags: int) -> Figures:
    """The limits of the definition; OperationInvalid for those of a running domain."""
    live, config = domain.impact(flags & _IMPACT)
    if live and config:
        raise InvalidArgument("flags for the running and for the defined domain exclude each other")
    if live or (kind is SCHEDULER and domain.active):
        raise OperationInvalid(_TEXTS[kind])
    return kind


def refuse(domain: Domain, kind: Figures, flags: int) -> None:
    """Say that nothing can be limited."""
    domain.impact(flags & _IMPACT)
    raise OperationInvalid(_TEXTS[kind])
