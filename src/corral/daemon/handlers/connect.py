"""Opening a connection and asking what is at its other end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from corral.constants import ConnectGetDomainCapabilitiesFlags, ConnectListAllDomainsFlags
from corral.daemon.dispatch import handler, reference
from corral.errors import AuthFailed, InternalError, InvalidArgument, NoConnect

if TYPE_CHECKING:
    from corral.daemon.session import Session

#: libvirt's API level that we speak, as virConnectGetLibVersion counts it; clients gate features by it.
LIB_VERSION = 11 * 1_000_000 + 3 * 1_000

#: virConnectFlags: the connection is read-only; the client resolves no URI aliases.
OPEN_RO, OPEN_NO_ALIASES = 1, 2

#: remote_auth_type: the socket's permissions have decided already.
AUTH_NONE = 0

#: VIR_DRV_FEATURE_* of libvirt's protocol that we have; every other is answered 0.
FEATURE_FD_PASSING = 8
FEATURE_TYPED_PARAM_STRING = 9
FEATURE_PROGRAM_KEEPALIVE = 10
FEATURE_XML_MIGRATABLE = 11
FEATURE_REMOTE_EVENT_CALLBACK = 14
FEATURE_REMOTE_CLOSE_CALLBACK = 15
FEATURE_NETWORK_UPDATE_HAS_CORRECT_ORDER = 16
FEATURES = frozenset(
    {
        FEATURE_FD_PASSING,
        FEATURE_TYPED_PARAM_STRING,
        FEATURE_PROGRAM_KEEPALIVE,
        FEATURE_XML_MIGRATABLE,
        FEATURE_REMOTE_EVENT_CALLBACK,
        FEATURE_REMOTE_CLOSE_CALLBACK,
        FEATURE_NETWORK_UPDATE_HAS_CORRECT_ORDER,
    }
)

ALL_LIST_FLAGS = sum(value for name, value in vars(ConnectListAllDomainsFlags).items() if name.isupper())


@handler("auth_list")
def auth_list(session: Session, args: None) -> dict[str, Any]:
    """No authentication on the wire: who may open the socket may use it."""
    return {"types": [AUTH_NONE]}


@handler("connect_open", flags=OPEN_RO | OPEN_NO_ALIASES)
def connect_open(session: Session, args: Any) -> None:
    """Accept the URIs that mean this daemon; whoever reached this socket meant it, so both modes' paths do."""
    if session.opened:
        raise InternalError("connection already open")
    if args.name:
        uri = urlsplit(args.name)
        driver = uri.scheme.split("+")[0]
        if driver not in ("qemu", "corral"):
            raise NoConnect(f"No connection for URI {args.name}")
        if uri.path not in ("/system", "/session", "/embed", "/", ""):
            raise InternalError(f"unexpected QEMU URI path '{uri.path}', try {session.hypervisor.uri}")
    session.open(readonly=bool(args.flags & OPEN_RO))


@handler("connect_close")
def connect_close(session: Session, args: None) -> None:
    """The client leaves; the connection ends once this is answered."""
    session.close_after_reply()


@handler("connect_supports_feature")
def supports_feature(session: Session, args: Any) -> dict[str, Any]:
    """Asking for keepalive also tells that we may ping."""
    if args.feature == FEATURE_PROGRAM_KEEPALIVE:
        session.enable_keepalive()
    return {"supported": int(args.feature in FEATURES)}


@handler("connect_get_type")
def get_type(session: Session, args: None) -> dict[str, Any]:
    """Clients compare it with "QEMU"."""
    return {"type": "QEMU"}


@handler("connect_get_version")
def get_version(session: Session, args: None) -> dict[str, Any]:
    """QEMU's own version."""
    return {"hv_ver": session.hypervisor.version}


@handler("connect_get_lib_version")
def get_lib_version(session: Session, args: None) -> dict[str, Any]:
    """The API level, not Corral's version."""
    return {"lib_ver": LIB_VERSION}


@handler("connect_get_hostname")
def get_hostname(session: Session, args: None) -> dict[str, Any]:
    """The host's name."""
    return {"hostname": session.hypervisor.hostname}


@handler("connect_get_uri")
def get_uri(session: Session, args: None) -> dict[str, Any]:
    """The canonical URI."""
    return {"uri": session.hypervisor.uri}


@handler("connect_is_secure")
def is_secure(session: Session, args: None) -> dict[str, Any]:
    """A UNIX socket is."""
    return {"secure": 1}


@handler("connect_get_max_vcpus")
def get_max_vcpus(session: Session, args: Any) -> dict[str, Any]:
    """The most vCPUs that a domain of the type can have."""
    return {"max_vcpus": session.hypervisor.max_vcpus(args.type)}


@handler("connect_get_capabilities")
def get_capabilities(session: Session, args: None) -> dict[str, Any]:
    """The host's capabilities document."""
    return {"capabilities": session.hypervisor.capabilities()}


@handler(
    "connect_get_domain_capabilities",
    flags=ConnectGetDomainCapabilitiesFlags.DISABLE_DEPRECATED_FEATURES,
    cached=True,
)
async def get_domain_capabilities(session: Session, args: Any) -> dict[str, Any]:
    """What a domain of this emulator, architecture, machine and accelerator may have; writing it takes a while."""
    text = await asyncio.to_thread(
        session.hypervisor.domain_capabilities, args.emulatorbin, args.arch, args.machine, args.virttype, args.flags
    )
    return {"capabilities": text}


@handler("node_get_info")
def node_get_info(session: Session, args: None) -> dict[str, Any]:
    """The host's CPUs and memory."""
    info = session.hypervisor.node_info()
    return {
        "model": info.model[:31],
        "memory": info.memory_kib,
        "cpus": info.cpus,
        "mhz": info.mhz,
        "nodes": info.nodes,
        "sockets": info.sockets,
        "cores": info.cores,
        "threads": info.threads,
    }


@handler("node_get_free_memory")
def node_get_free_memory(session: Session, args: None) -> dict[str, Any]:
    """Bytes."""
    return {"freeMem": session.hypervisor.free_memory()}


@handler("connect_list_all_domains", flags=ALL_LIST_FLAGS, cached=True)
def list_all_domains(session: Session, args: Any) -> dict[str, Any]:
    """The domains that pass the filters, or only how many."""
    domains = session.hypervisor.domains(args.flags)
    return {"domains": [reference(d) for d in domains] if args.need_results else [], "ret": len(domains)}


@handler("connect_num_of_domains", cached=True)
def num_of_domains(session: Session, args: None) -> dict[str, Any]:
    """How many run."""
    return {"num": len(session.hypervisor.domains(ConnectListAllDomainsFlags.ACTIVE))}


@handler("connect_list_domains", cached=True)
def list_domains(session: Session, args: Any) -> dict[str, Any]:
    """The ids of those that run."""
    active = session.hypervisor.domains(ConnectListAllDomainsFlags.ACTIVE)
    return {"ids": [domain.id for domain in active][: _limit(args.maxids)]}


@handler("connect_num_of_defined_domains", cached=True)
def num_of_defined_domains(session: Session, args: None) -> dict[str, Any]:
    """How many are defined and off."""
    return {"num": len(session.hypervisor.domains(ConnectListAllDomainsFlags.INACTIVE))}


@handler("connect_list_defined_domains", cached=True)
def list_defined_domains(session: Session, args: Any) -> dict[str, Any]:
    """The names of those that are defined and off."""
    inactive = session.hypervisor.domains(ConnectListAllDomainsFlags.INACTIVE)
    return {"names": [domain.name for domain in inactive][: _limit(args.maxnames)]}


def _limit(asked: int) -> int:
    if not 0 <= asked <= 16384:
        raise InvalidArgument(f"{asked} is not a number of entries between 0 and 16384")
    return asked


def _no_authentication(session: Session, args: Any) -> None:
    raise AuthFailed("no authentication is offered here, so none can be begun")


for _name in ("auth_sasl_init", "auth_sasl_start", "auth_sasl_step", "auth_polkit"):
    handler(_name)(_no_authentication)
