"""What this host does not have: networks, interfaces, node devices, filters, snapshots.

Lists of them are empty and looking one up finds nothing, so that clients which look at everything work. The tables
below say it for each procedure; `unsupported.py` names those that are answered "not supported".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from corral.constants import ErrorDomain, ErrorNumber
from corral.daemon.dispatch import Function, handler, on_domain
from corral.errors import (
    CorralError,
    NoDomainSnapshot,
    NoNetwork,
    NoNodeDevice,
)

if TYPE_CHECKING:
    from corral.daemon.session import Session


class NoInterface(CorralError):
    """The host has no such network interface under its care."""

    code: ClassVar[int] = ErrorNumber.NO_INTERFACE
    kind: ClassVar[str] = "Interface not found"
    domain = ErrorDomain.INTERFACE


class NoNWFilter(CorralError):
    """There is no such network filter."""

    code: ClassVar[int] = ErrorNumber.NO_NWFILTER
    kind: ClassVar[str] = "Network filter not found"
    domain = ErrorDomain.NWFILTER


class NoNWFilterBinding(CorralError):
    """There is no such network filter binding."""

    code: ClassVar[int] = ErrorNumber.NO_NWFILTER_BINDING
    kind: ClassVar[str] = "Network filter binding not found"
    domain = ErrorDomain.NWFILTER


class NoDomainCheckpoint(CorralError):
    """The domain has no such checkpoint."""

    code: ClassVar[int] = ErrorNumber.NO_DOMAIN_CHECKPOINT
    kind: ClassVar[str] = "Domain checkpoint not found"
    domain = ErrorDomain.DOMAIN_CHECKPOINT


#: Every flag: an empty list passes any filter.
ANY = 0xFFFFFFFF

#: Answers of procedures about the whole host.
EMPTY: dict[str, dict[str, Any]] = {
    **{
        f"connect_num_of_{kind}": {"num": 0}
        for kind in (
            "networks",
            "defined_networks",
            "interfaces",
            "defined_interfaces",
            "nwfilters",
        )
    },
    "connect_list_networks": {"names": []},
    "connect_list_defined_networks": {"names": []},
    "connect_list_interfaces": {"names": []},
    "connect_list_defined_interfaces": {"names": []},
    "connect_list_nwfilters": {"names": []},
    "connect_list_all_networks": {"nets": [], "ret": 0},
    "connect_list_all_interfaces": {"ifaces": [], "ret": 0},
    "connect_list_all_node_devices": {"devices": [], "ret": 0},
    "connect_list_all_nwfilters": {"filters": [], "ret": 0},
    "connect_list_all_nwfilter_bindings": {"bindings": [], "ret": 0},
    "node_num_of_devices": {"num": 0},
    "node_list_devices": {"names": []},
}

#: Answers of procedures about one domain.
EMPTY_OF_DOMAIN: dict[str, dict[str, Any]] = {
    "domain_snapshot_num": {"num": 0},
    "domain_snapshot_list_names": {"names": []},
    "domain_list_all_snapshots": {"snapshots": [], "ret": 0},
    "domain_has_current_snapshot": {"result": 0},
    "domain_list_all_checkpoints": {"checkpoints": [], "ret": 0},
    "domain_get_block_job_info": {"found": 0, "type": 0, "bandwidth": 0, "cur": 0, "end": 0},
    "domain_get_messages": {"msgs": []},
    "domain_get_autostart_once": {"autostart": 0},
}

#: Procedures that look something up: the error, and its text made from the arguments.
LOOKUPS: dict[str, tuple[type[CorralError], Callable[[Any], str]]] = {
    "network_lookup_by_name": (NoNetwork, lambda args: f"no network with matching name '{args.name}'"),
    "network_lookup_by_uuid": (NoNetwork, lambda args: f"no network with matching uuid '{UUID(bytes=args.uuid)}'"),
    "interface_lookup_by_name": (NoInterface, lambda args: f"couldn't find interface named '{args.name}'"),
    "interface_lookup_by_mac_string": (
        NoInterface,
        lambda args: f"couldn't find interface with MAC address '{args.mac}'",
    ),
    "node_device_lookup_by_name": (
        NoNodeDevice,
        lambda args: f"no node device with matching name '{args.name}'",
    ),
    "node_device_lookup_scsi_host_by_wwn": (
        NoNodeDevice,
        lambda args: f"no SCSI host with matching WWNN '{args.wwnn}' and WWPN '{args.wwpn}'",
    ),
    "nwfilter_lookup_by_name": (NoNWFilter, lambda args: f"no nwfilter with matching name '{args.name}'"),
    "nwfilter_lookup_by_uuid": (NoNWFilter, lambda args: f"no nwfilter with matching uuid '{UUID(bytes=args.uuid)}'"),
    "nwfilter_binding_lookup_by_port_dev": (
        NoNWFilterBinding,
        lambda args: f"no nwfilter binding for port dev '{args.name}'",
    ),
}

#: Procedures that look something up in one domain.
LOOKUPS_OF_DOMAIN: dict[str, tuple[type[CorralError], Callable[[Any], str]]] = {
    "domain_snapshot_lookup_by_name": (
        NoDomainSnapshot,
        lambda args: f"no domain snapshot with matching name '{args.name}'",
    ),
    "domain_snapshot_current": (NoDomainSnapshot, lambda args: "the domain does not have a current snapshot"),
    "domain_checkpoint_lookup_by_name": (
        NoDomainCheckpoint,
        lambda args: f"no domain checkpoint with matching name '{args.name}'",
    ),
}


def _nothing(name: str, answer: dict[str, Any], register: Callable[[Function], Function]) -> None:
    def empty(session: Session, *args: Any) -> dict[str, Any]:
        return answer

    empty.__name__ = name
    register(empty)  # type: ignore[arg-type]


def _missing(error: type[CorralError], text: Callable[[Any], str], register: Callable[[Function], Function]) -> None:
    def missing(session: Session, *args: Any) -> None:
        raise error(text(args[-1]))

    register(missing)  # type: ignore[arg-type]


for _name, _answer in EMPTY.items():
    _nothing(_name, _answer, handler(_name, ANY))
for _name, _answer in EMPTY_OF_DOMAIN.items():
    _nothing(_name, _answer, on_domain(_name, ANY))
for _name, (_error, _text) in LOOKUPS.items():
    _missing(_error, _text, handler(_name, ANY))
for _name, (_error, _text) in LOOKUPS_OF_DOMAIN.items():
    _missing(_error, _text, on_domain(_name, ANY))
