"""Network interfaces. https://libvirt.org/formatdomain.html#network-interfaces"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.address import HostPCIAddress, TypedHostPCIAddress
from corral.model.devices.chardev import Reconnect
from corral.model.devices.device import BootableDevice, Queues, VirtioOptions
from corral.model.element import Element, OnOff, YesNo

InterfaceType = Literal[
    "user", "network", "bridge", "direct", "ethernet", "vhostuser", "mcast", "server", "client", "udp", "hostdev"
]

#: Kinds whose host's end is a link of the host's own, which has counters, an MTU and a queue that can be limited.
LINKS = ("bridge", "ethernet", "direct")

Port = Annotated[int, Field(ge=1, le=65535)]


class Mac(Element, tag="mac"):
    address: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}$")] = attr()
    type: Literal["generated", "static"] | None = attr(default=None)
    check: YesNo | None = attr(default=None)


class LocalEnd(Element, tag="local"):
    """Where type udp listens."""

    address: str = attr()
    port: Port = attr()


class InterfaceSource(Element, tag="source"):
    """The host's side, whose attributes belong to the interface's type.

    `network` with `portgroup`; `bridge`; `dev`, with `mode` for type direct; `type`, `path` and `mode` of a vhost-user
    socket; `address` and `port` of the sockets between guests; `function` of a virtual function that is lent.
    """

    network: str | None = attr(default=None)
    portgroup: str | None = attr(default=None)
    portid: str | None = attr(default=None)
    bridge: str | None = attr(default=None)
    type: Literal["unix"] | None = attr(default=None)
    path: str | None = attr(default=None)
    dev: str | None = attr(default=None)
    mode: Literal["vepa", "bridge", "private", "passthrough", "client", "server"] | None = attr(default=None)
    address: str | None = attr(default=None)
    port: Port | None = attr(default=None)
    function: TypedHostPCIAddress | None = element(tag="address", default=None)
    local: LocalEnd | None = element(default=None)
    reconnect: Reconnect | None = element(default=None)


class Inbound(Element, tag="inbound"):
    """What the guest may receive: kilobytes (1000 bytes) a second on average and at most, KiB in one burst."""

    average: Annotated[int, Field(ge=1, le=2**32 - 1)] = attr()
    peak: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = attr(default=None)
    burst: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = attr(default=None)


class Outbound(Inbound, tag="outbound"):
    """What the guest may send, in the same units."""


class Bandwidth(Element, tag="bandwidth"):
    """Limits of the traffic, seen from the guest."""

    inbound: Inbound | None = element(default=None)
    outbound: Outbound | None = element(default=None)


class BridgePort(Element, tag="port"):
    """The port on the bridge; isolated ones do not reach each other."""

    isolated: YesNo | None = attr(default=None)


class Tune(Element, tag="tune"):
    """How many bytes of sent packets the tap holds before the guest has to wait."""

    sndbuf: Annotated[int, Field(ge=0, le=2**64 - 1)] = element()


class VlanTag(Element, tag="tag"):
    id: Annotated[int, Field(ge=0, le=2**32 - 1)] = attr()


class Vlan(Element, tag="vlan"):
    """The VLAN that a virtual function's packets are in on the cable, 0 for none; its guest sees no tag."""

    tags: list[VlanTag] = element(tag="tag", default_factory=list)


class Teaming(Element, tag="teaming"):
    """A card that stays while its partner, hardware of the host's, comes and goes (virtio failover).

    `persistent` names in the partner, which is transient, the alias of the card that stays.
    """

    type: Literal["persistent", "transient"] = attr()
    persistent: str | None = attr(default=None)


class IP(Element, tag="ip"):
    """The guest's address in a user network."""

    address: str = attr()
    family: Literal["ipv4", "ipv6"] | None = attr(default=None)
    prefix: Annotated[int, Field(ge=0, le=128)] | None = attr(default=None)


class PortRange(Element, tag="range"):
    start: Annotated[int, Field(ge=0, le=65535)] = attr()
    end: Annotated[int, Field(ge=0, le=65535)] | None = attr(default=None)
    to: Annotated[int, Field(ge=0, le=65535)] | None = attr(default=None)
    exclude: YesNo | None = attr(default=None)


class PortForward(Element, tag="portForward"):
    """Ports of the host that reach the guest (backend passt)."""

    proto: Literal["tcp", "udp"] = attr()
    address: str | None = attr(default=None)
    dev: str | None = attr(default=None)
    ranges: list[PortRange] = element(tag="range", default_factory=list)


class InterfaceBackend(Element, tag="backend"):
    type: Literal["default", "passt"] | None = attr(default=None)
    log_file: str | None = attr(name="logFile", default=None)
    tap: str | None = attr(default=None)
    vhost: str | None = attr(default=None)


class InterfaceTarget(Element, tag="target"):
    """The tap's name on the host."""

    dev: str = attr()
    managed: YesNo | None = attr(default=None)


class InterfaceModel(Element, tag="model"):
    """The card: `virtio`, `e1000`, `e1000e`, `rtl8139` …"""

    type: Annotated[str, Field(pattern=r"^[a-zA-Z0-9\-_]+$")] = attr()


class HostOffloads(Element, tag="host"):
    csum: OnOff | None = attr(default=None)
    gso: OnOff | None = attr(default=None)
    tso4: OnOff | None = attr(default=None)
    tso6: OnOff | None = attr(default=None)
    ecn: OnOff | None = attr(default=None)
    ufo: OnOff | None = attr(default=None)
    mrg_rxbuf: OnOff | None = attr(default=None)


class GuestOffloads(Element, tag="guest"):
    csum: OnOff | None = attr(default=None)
    tso4: OnOff | None = attr(default=None)
    tso6: OnOff | None = attr(default=None)
    ecn: OnOff | None = attr(default=None)
    ufo: OnOff | None = attr(default=None)


class InterfaceDriver(VirtioOptions, tag="driver"):
    name: Literal["vhost", "qemu", "vfio"] | None = attr(default=None)
    txmode: Literal["iothread", "timer"] | None = attr(default=None)
    ioeventfd: OnOff | None = attr(default=None)
    event_idx: OnOff | None = attr(default=None)
    queues: Queues | None = attr(default=None)
    rx_queue_size: Queues | None = attr(default=None)
    tx_queue_size: Queues | None = attr(default=None)
    rss: OnOff | None = attr(default=None)
    rss_hash_report: OnOff | None = attr(default=None)
    host: HostOffloads | None = element(default=None)
    guest: GuestOffloads | None = element(default=None)


class Link(Element, tag="link"):
    state: Literal["up", "down"] = attr()


class MTU(Element, tag="mtu"):
    size: Annotated[int, Field(ge=1, le=2**31 - 1)] = attr()


class ROM(Element, tag="rom"):
    """The card's boot ROM."""

    enabled: YesNo | None = attr(default=None)
    bar: OnOff | None = attr(default=None)
    file: str | None = attr(default=None)


class Interface(BootableDevice, tag="interface"):
    """A network card and what it is plugged into."""

    type: InterfaceType = attr()
    managed: YesNo | None = attr(default=None)
    trust_guest_rx_filters: YesNo | None = attr(name="trustGuestRxFilters", default=None)
    mac: Mac | None = element(default=None)
    source: InterfaceSource | None = element(default=None)
    bandwidth: Bandwidth | None = element(default=None)
    vlan: Vlan | None = element(default=None)
    port: BridgePort | None = element(default=None)
    ips: list[IP] = element(tag="ip", default_factory=list)
    port_forwards: list[PortForward] = element(tag="portForward", default_factory=list)
    target: InterfaceTarget | None = element(default=None)
    model: InterfaceModel | None = element(default=None)
    driver: InterfaceDriver | None = element(default=None)
    backend: InterfaceBackend | None = element(default=None)
    tune: Tune | None = element(default=None)
    teaming: Teaming | None = element(default=None)
    link: Link | None = element(default=None)
    mtu: MTU | None = element(default=None)
    rom: ROM | None = element(default=None)

    @property
    def virtio(self) -> bool:
        """Whether the card is a virtio one."""
        return self.model is not None and self.model.type.startswith("virtio")

    @property
    def passt(self) -> bool:
        """Whether a passt process is behind it."""
        return self.type == "user" and self.backend is not None and self.backend.type == "passt"

    @property
    def lent(self) -> HostPCIAddress | None:
        """The host's virtual function that is the card."""
        return self.source.function if self.type == "hostdev" and self.source is not None else None

    @property
    def queues(self) -> int:
        """How many pairs of queues card and host's end have."""
        return (self.driver.queues if self.driver is not None else None) or 1
