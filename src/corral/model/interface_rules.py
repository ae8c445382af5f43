"""What an interface's type takes of the other elements, and what each needs; texts are libvirt's where it has one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from corral.errors import ConfigUnsupported, XMLError
from corral.model import function_rules
from corral.model.devices.interface import LINKS, Interface
from corral.model.domain import Domain
from corral.model.function_rules import Objection

#: The attributes and elements of `<source>` that each type may have, those that it must have first.
SOURCE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "user": ((), ("dev",)),
    "network": (("network",), ("portgroup", "portid")),
    "bridge": (("bridge",), ()),
    "direct": (("dev",), ("mode",)),
    "ethernet": ((), ()),
    "vhostuser": (("path", "mode"), ("type", "reconnect")),
    "mcast": (("address", "port"), ()),
    "server": (("port",), ("address",)),
    "client": (("address", "port"), ()),
    "udp": (("address", "port", "local"), ()),
    "hostdev": (("function",), ()),
}
_MACVTAP_MODES = (None, "vepa", "bridge", "private", "passthrough")
_NAME_MAX = 15
"""Characters of a link's name (IFNAMSIZ without its end)."""


def objections(interface: Interface, domain: Domain) -> Iterator[Objection]:
    """Everything in the interface that contradicts itself or would not be honoured."""
    if interface.type == "network":
        text = (
            "network interface type 'network' is not supported yet: use type='bridge' with the network's bridge, "
            "or a user network (type='user'; --network user in virt-install)"
        )
        yield ("type",), text, ConfigUnsupported
    yield from _source(interface)
    yield from _user(interface)
    yield from _host_end(interface)
    yield from _card(interface)
    if interface.type == "vhostuser":
        yield from _vhost_user(interface, domain)
    yield from function_rules.objections(interface)
    yield from function_rules.teaming(interface)


def _source(interface: Interface) -> Iterator[Objection]:
    source, kind = interface.source, interface.type
    needed, possible = SOURCE[kind]
    if source is None:
        if needed:
            yield (), f"interface type='{kind}' requires a 'source' element", XMLError
        return
    for name in needed:
        if not getattr(source, name):
            text = f"Missing required attribute '{name}' in element 'source'"
            if name == "local":
                text = "'<local>' element missing for 'udp' socket interface"
            if name == "function":
                text = "an interface of type 'hostdev' needs <source> with an <address type='pci' .../> of the host's"
            yield ("source",), text, XMLError
    for name in type(source).model_fields:
        if name not in (*needed, *possible) and getattr(source, name) is not None:
            text = f"'{name}' of <source> does not go with an interface of type '{kind}'"
            yield ("source", name), text, ConfigUnsupported
    if kind == "direct" and source.mode not in _MACVTAP_MODES:
        yield ("source", "mode"), f"unknown mode '{source.mode}' of a direct interface", XMLError
    for name in ("bridge", "dev"):
        if len(getattr(source, name) or "") > _NAME_MAX:
            yield ("source", name), f"'{getattr(source, name)}' is longer than a link's name can be", XMLError
    if kind == "mcast" and source.address is not None and not _multicast(source.address):
        yield ("source", "address"), f"'{source.address}' is not a multicast address", XMLError


def _multicast(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_multicast
    except ValueError:
        return False


def _user(interface: Interface) -> Iterator[Objection]:
    backend = interface.backend
    if interface.port_forwards and not interface.passt:
        text = "The <portForward> element can only be used with the 'passt' backend of interface type='user'"
        yield ("port_forwards",), text, ConfigUnsupported
    if interface.ips and interface.type != "user":
        yield ("ips",), f"<ip> does not go with an interface of type '{interface.type}'", ConfigUnsupported
    source = interface.source
    if interface.type == "user" and not interface.passt and source is not None and source.dev is not None:
        yield ("source", "dev"), "<source dev='…'/> of a user network needs the 'passt' backend", ConfigUnsupported
    if backend is None:
        return
    if backend.type == "passt" and interface.type != "user":
        yield ("backend", "type"), "The 'passt' backend can only be used with interface type='user'", ConfigUnsupported
    if backend.log_file is not None and not interface.passt:
        yield ("backend", "log_file"), "logFile is only for the 'passt' backend", ConfigUnsupported
    for name in ("tap", "vhost"):
        if getattr(backend, name) is not None and interface.type not in ("bridge", "ethernet"):
            text = f"<backend {name}='…'/> does not go with an interface of type '{interface.type}'"
            yield ("backend", name), text, ConfigUnsupported


def _host_end(interface: Interface) -> Iterator[Objection]:
    kind = interface.type
    if interface.bandwidth is not None and kind not in LINKS:
        text = f"the bandwidth of an interface of type '{kind}' cannot be limited: the host has no link for it"
        yield ("bandwidth",), text, ConfigUnsupported
    if interface.port is not None and interface.port.isolated == "yes" and kind != "bridge":
        mac = f" {interface.mac.address}" if interface.mac is not None else ""
        text = f"interface{mac} - <port isolated='yes'/> is not supported for network interfaces with type='{kind}'"
        yield ("port",), text, ConfigUnsupported
    if interface.tune is not None and kind not in ("bridge", "ethernet"):
        yield ("tune",), f"<sndbuf> is for taps, not for an interface of type '{kind}'", ConfigUnsupported
    if interface.trust_guest_rx_filters == "yes" and kind != "direct":
        text = f"trustGuestRxFilters does nothing for an interface of type '{kind}'; it is for type 'direct'"
        yield ("trust_guest_rx_filters",), text, ConfigUnsupported
    target = interface.target
    if target is not None and (len(target.dev) > _NAME_MAX or "/" in target.dev or not target.dev.strip()):
        yield ("target", "dev"), f"'{target.dev}' cannot be a link's name", XMLError
    if target is not None and target.managed == "no" and kind != "ethernet":
        text = f"target managed='no' is only supported for type 'ethernet', not '{kind}'"
        yield ("target", "managed"), text, ConfigUnsupported


def _card(interface: Interface) -> Iterator[Objection]:
    kind, driver = interface.type, interface.driver
    if driver is None:
        return
    if driver.name == "vhost" and kind not in LINKS:
        yield ("driver", "name"), f"vhost is not available to an interface of type '{kind}'", ConfigUnsupported
    if interface.queues > 1 and kind not in (*LINKS, "vhostuser"):
        text = f"an interface of type '{kind}' has one queue"
        yield ("driver", "queues"), text, ConfigUnsupported


def _vhost_user(interface: Interface, domain: Domain) -> Iterator[Objection]:
    if not shares_memory(domain):
        text = (
            "'interface' requires shared memory: add"
            " <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
        )
        yield ("type",), text, ConfigUnsupported
    if not interface.virtio:
        yield ("model",), "an interface of type 'vhostuser' needs the model 'virtio'", ConfigUnsupported
    source = interface.source
    again = source.reconnect if source is not None else None
    if source is None or again is None:
        return
    if source.mode == "server":
        yield ("source", "reconnect"), "'reconnect' attribute unsupported for server mode", ConfigUnsupported
    if again.enabled == "yes" and again.timeout is None:
        yield ("source", "reconnect"), "Missing required attribute 'timeout' in element 'reconnect'", XMLError


def shares_memory(domain: Domain) -> bool:
    """Whether another process may map all of the guest's memory."""
    backing = domain.memory_backing
    general = backing is not None and backing.access is not None and backing.access.mode == "shared"
    cells = domain.cpu.numa.cells if domain.cpu is not None and domain.cpu.numa is not None else []
    return all((cell.mem_access or ("shared" if general else None)) == "shared" for cell in cells) if cells else general
