"""Network interfaces. https://libvirt.org/formatdomain.html#network-interfaces"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import BootableDevice, Queues, VirtioOptions
from corral.model.element import Element, OnOff, YesNo

InterfaceType = Literal["user", "network", "bridge", "direct", "ethernet"]


class Mac(Element, tag="mac"):
    address: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}$")] = attr()
    type: Literal["generated", "static"] | None = attr(default=None)
    check: YesNo | None = attr(default=None)


class InterfaceSource(Element, tag="source"):
    """The host's side: `network` (with `portgroup`), `bridge`, or `dev` and `mode` for type direct."""

    network: str | None = attr(default=None)
    portgroup: str | None = attr(default=None)
    portid: str | None = attr(default=None)
    bridge: str | None = attr(default=None)
    dev: str | None = attr(default=None)
    mode: Literal["vepa", "bridge", "private", "passthrough"] | None = attr(default=None)


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
    name: Literal["vhost", "qemu"] | None = attr(default=None)
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
    trust_guest_rx_filters: YesNo | None = attr(name="trustGuestRxFilters", default=None)
    mac: Mac | None = element(default=None)
    source: InterfaceSource | None = element(default=None)
    ips: list[IP] = element(tag="ip", default_factory=list)
    port_forwards: list[PortForward] = element(tag="portForward", default_factory=list)
    target: InterfaceTarget | None = element(default=None)
    model: InterfaceModel | None = element(default=None)
    driver: InterfaceDriver | None = element(default=None)
    backend: InterfaceBackend | None = element(default=None)
    link: Link | None = element(default=None)
    mtu: MTU | None = element(default=None)
    rom: ROM | None = element(default=None)
