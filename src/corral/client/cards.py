"""Network cards from a few choices, and what is known of a machine's addresses, by whom."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral import constants
from corral.errors import CorralError, InvalidArgument

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.devices.interface import Interface, InterfaceSource, PortForward

#: The range of MAC addresses that QEMU and KVM use.
QEMU_PREFIX = (0x52, 0x54, 0x00)
MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
MODES = ("bridge", "vepa", "private", "passthrough")


def card(
    *,
    bridge: str | None = None,
    macvtap: str | None = None,
    mode: str = "bridge",
    tap: str | None = None,
    listen: str | None = None,
    connect: str | None = None,
    multicast: str | None = None,
    passt: bool = False,
    publish: Sequence[str] = (),
    model: str = "virtio",
    mac: str | None = None,
    mtu: int | None = None,
    queues: int | None = None,
) -> Interface:
    """A card to attach, on one of: a host's bridge, a link of the host's (macvtap), a tap that is there, another guest.

    Guests reach each other without the host: one listens at HOST:PORT and the other connects to it, or all meet at a
    multicast ADDRESS:PORT. Else it is a user network, with `passt` one that can `publish` ports:
    [ADDRESS:]PORT:GUEST'S, with /udp behind it for UDP. Raises InvalidArgument for what does not go together.
    """
    from corral.model.devices import interface as model_of

    places = {"bridge": bridge, "macvtap": macvtap, "tap": tap, "listen": listen, "connect": connect}
    others = {"multicast": multicast, "passt": passt or bool(publish)}
    chosen = [name for name, value in (places | others).items() if value]
    if len(chosen) > 1:
        raise InvalidArgument(f"{' and '.join(chosen)} do not go together", hint="a card is on one network")
    if mode not in MODES:
        raise InvalidArgument(f"mode '{mode}'", hint=f"one of {', '.join(MODES)}")
    if mac is not None and not MAC.fullmatch(mac):
        raise InvalidArgument(f"'{mac}' is no MAC address", hint="write six bytes, such as 52:54:00:12:34:56")
    kind, source = "user", None
    new = model_of.InterfaceSource.model_validate
    match chosen:
        case ["bridge"]:
            kind, source = "bridge", new({"bridge": bridge})
        case ["macvtap"]:
            kind, source = "direct", new({"dev": macvtap, "mode": mode})
        case ["tap"]:
            kind = "ethernet"
        case ["listen" | "connect" | "multicast" as what]:
            kind = {"listen": "server", "connect": "client", "multicast": "mcast"}[what]
            source = _place(str(listen or connect or multicast))
    return model_of.Interface.model_validate(
        {
            "type": kind,
            "mac": model_of.Mac(address=mac or new_mac()),
            "source": source,
            "port_forwards": [_forward(text) for text in publish],
            "target": model_of.InterfaceTarget(dev=tap, managed="no") if tap is not None else None,
            "model": model_of.InterfaceModel(type=model),
            "driver": model_of.InterfaceDriver.model_validate({"queues": queues}) if queues is not None else None,
            "backend": model_of.InterfaceBackend(type="passt") if passt or publish else None,
            "mtu": model_of.MTU(size=mtu) if mtu is not None else None,
        }
    )


def new_mac() -> str:
    """An address of QEMU's range."""
    return ":".join(f"{byte:02x}" for byte in (*QEMU_PREFIX, *secrets.token_bytes(3)))


def _place(text: str) -> InterfaceSource:
    """HOST:PORT, with an IPv6 address in brackets."""
    from corral.model.devices.interface import InterfaceSource

    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]*)):(\d{1,5})", text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise InvalidArgument(f"'{text}' is no HOST:PORT")
    return InterfaceSource(address=match[1] or match[2] or "127.0.0.1", port=int(match[3]))


_PUBLISHED = re.compile(
    r"(?:(?:\[(?P<six>[^\]]+)\]|(?P<four>\d+(?:\.\d+){3})):)?"
    r"(?P<port>\d{1,5})(?::(?P<to>\d{1,5}))?(?:/(?P<proto>tcp|udp))?"
)


def _forward(text: str) -> PortForward:
    """[ADDRESS:]PORT[:GUEST'S PORT][/tcp|/udp]."""
    from corral.model.devices.interface import PortForward, PortRange

    match = _PUBLISHED.fullmatch(text)
    address = (match["six"] or match["four"]) if match else None
    try:
        if match is None or (address is not None and not ipaddress.ip_address(address)):
            raise ValueError
        ranges = [PortRange(start=int(match["port"]), to=int(match["to"]) if match["to"] else None)]
    except ValueError as error:
        hint = "write [ADDRESS:]PORT[:GUEST'S PORT][/udp]"
        raise InvalidArgument(f"'{text}' is no port to publish", hint=hint) from error
    return PortForward(proto="udp" if match["proto"] == "udp" else "tcp", address=address, ranges=ranges)


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """An IP address of a guest's: `source` knows it, by its own `name` for the card (the guest's, or the host's)."""

    mac: str | None
    address: str
    prefix: int
    source: str
    name: str


@dataclass(frozen=True, slots=True)
class Addresses:
    """What each source knew; `silent` says why one of them had nothing to say."""

    known: tuple[KnownAddress, ...]
    silent: dict[str, str]


async def addresses(domain: Domain) -> Addresses:
    """All addresses of a running machine that its agent, its networks' leases and the host's neighbours tell."""
    found: list[KnownAddress] = []
    silent: dict[str, str] = {}
    kinds = constants.DomainInterfaceAddressesSource
    for source, number in (("agent", kinds.AGENT), ("lease", kinds.LEASE), ("arp", kinds.ARP)):
        try:
            answer = await domain.host.call("domain_interface_addresses", dom=domain.reference, source=number, flags=0)
        except CorralError as error:
            silent[source] = error.detail or str(error)
            continue
        found += [
            KnownAddress(each.hwaddr, address.addr, address.prefix, source, each.name)
            for each in answer.ifaces
            for address in each.addrs
        ]
        if not any(each.source == source for each in found):
            silent[source] = "knows none"
    return Addresses(tuple(found), silent)


async def limit(
    domain: Domain, name: str, *, inbound: int | None = None, outbound: int | None = None, config: bool | None = None
) -> None:
    """Limit a card (by address or host's link) to kilobytes a second; 0 takes a limit away, None leaves it.

    `config`: None for now and the next starts, as far as each applies; False: only now.
    """
    from corral.protocol.typed_params import TypedParam, pack

    given = {"inbound.average": inbound, "outbound.average": outbound}
    params = pack(TypedParam.uint(key, value) for key, value in given.items() if value is not None)
    flags = await domain.impact(None, config)
    await domain.host.call(
        "domain_set_interface_parameters", dom=domain.reference, device=name, params=params, flags=flags
    )
