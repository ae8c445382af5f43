"""What only the guest knows, asked of its agent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from corral.constants import DomainInterfaceAddressesSource, DomainQemuAgentCommandTimeout, IPAddrType
from corral.daemon.dispatch import on_domain
from corral.errors import AgentCommandFailed, InvalidArgument, OperationInvalid

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

#: Interfaces, and addresses of one, that a reply may hold (remote_domain_interface_addresses_ret).
ENTRIES_MAX = 2048

FAMILIES = {"ipv4": IPAddrType.IPV4, "ipv6": IPAddrType.IPV6}


@on_domain("domain_interface_addresses")
async def interface_addresses(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The guest's network addresses: from its agent; we lease none, and user networks are in no ARP table."""
    if not domain.active:
        raise OperationInvalid("domain is not running")
    if args.source in (DomainInterfaceAddressesSource.LEASE, DomainInterfaceAddressesSource.ARP):
        return {"ifaces": []}
    if args.source != DomainInterfaceAddressesSource.AGENT:
        raise InvalidArgument(f"unknown IP address data source {args.source}")
    text = await domain.agent_command(
        '{"execute":"guest-network-get-interfaces"}', DomainQemuAgentCommandTimeout.DEFAULT
    )
    return {"ifaces": interfaces(text)}


def interfaces(text: str) -> list[dict[str, Any]]:
    """The agent's answer to guest-network-get-interfaces as the protocol has it; AgentCommandFailed for nonsense."""
    try:
        return [
            {
                "name": str(interface["name"]),
                "hwaddr": interface.get("hardware-address"),
                "addrs": [
                    {
                        "type": FAMILIES[address["ip-address-type"]],
                        "addr": str(address["ip-address"]),
                        "prefix": int(address["prefix"]),
                    }
                    for address in interface.get("ip-addresses", ())[:ENTRIES_MAX]
                ],
            }
            for interface in json.loads(text)["return"][:ENTRIES_MAX]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentCommandFailed(f"the agent's list of interfaces makes no sense: {error!r}") from error
