"""Which domains a client wants to see in a list (virConnectListAllDomainsFlags)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.constants import ConnectListAllDomainsFlags, DomainState

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain

_Flags = ConnectListAllDomainsFlags
_STATES = {
    DomainState.RUNNING: _Flags.RUNNING,
    DomainState.PAUSED: _Flags.PAUSED,
    DomainState.SHUTOFF: _Flags.SHUTOFF,
}
#: The groups of virConnectListAllDomainsFlags: a domain must pass one flag of each group that is asked for.
_GROUPS = (
    _Flags.ACTIVE | _Flags.INACTIVE,
    _Flags.PERSISTENT | _Flags.TRANSIENT,
    _Flags.RUNNING | _Flags.PAUSED | _Flags.SHUTOFF | _Flags.OTHER,
    _Flags.MANAGEDSAVE | _Flags.NO_MANAGEDSAVE,
    _Flags.AUTOSTART | _Flags.NO_AUTOSTART,
    _Flags.HAS_SNAPSHOT | _Flags.NO_SNAPSHOT,
    _Flags.HAS_CHECKPOINT | _Flags.NO_CHECKPOINT,
)


def passes(domain: Domain, flags: int) -> bool:
    """Whether a domain is among those that virConnectListAllDomains with these flags gives."""
    has = (
        (_Flags.ACTIVE if domain.active else _Flags.INACTIVE)
        | (_Flags.PERSISTENT if domain.persistent else _Flags.TRANSIENT)
        | _STATES.get(domain.state()[0], _Flags.OTHER)
        | (_Flags.AUTOSTART if domain.autostart else _Flags.NO_AUTOSTART)
        | _Flags.NO_MANAGEDSAVE
        | _Flags.NO_SNAPSHOT
        | _Flags.NO_CHECKPOINT
    )
    return all(not flags & group or flags & group & has for group in _GROUPS)
