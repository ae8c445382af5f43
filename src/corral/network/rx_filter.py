"""Which packets a macvtap takes: its guest's own choice, where the document trusts it (`trustGuestRxFilters`).

QEMU's query-rx-filter (QAPI, net) tells what a virtio card's driver asked for.
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any

from corral.network.link import index_of, netlink

_SIOCADDMULTI, _SIOCDELMULTI = 0x8931, 0x8932
_ALL_MULTICAST, _PROMISCUOUS = 0x200, 0x100
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
#: Groups of one guest that are followed; beyond, the macvtap takes all multicast.
GROUPS_MAX = 256


def follow(name: str, told: Mapping[str, Any], before: frozenset[str]) -> tuple[str, frozenset[str]]:
    """Set a macvtap's address, groups and modes to what its card wants; the address and the groups that it has now.

    `before` are the groups that were added by an earlier call. Raises HostError.
    """
    groups = {str(each).lower() for each in told.get("multicast-table") or []}
    groups = {each for each in groups if _MAC.fullmatch(each)}
    everything = told.get("multicast") == "all" or bool(told.get("multicast-overflow")) or len(groups) > GROUPS_MAX
    groups = set() if everything else groups
    promiscuous = bool(told.get("promiscuous")) or bool(told.get("unicast-overflow"))
    address = str(told.get("main-mac", "")).lower()
    with netlink(f"follow the guest's filters on '{name}'") as route:
        index = index_of(route, name)
        link = route.get_links(index)[0]
        if not _MAC.fullmatch(address):
            address = str(link.get_attr("IFLA_ADDRESS"))
        elif address != link.get_attr("IFLA_ADDRESS"):
            route.link("set", index=index, address=address)
        flags = (_ALL_MULTICAST if everything else 0) | (_PROMISCUOUS if promiscuous else 0)
        route.link("set", index=index, flags=flags, change=_ALL_MULTICAST | _PROMISCUOUS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for wanted, groups_of in ((_SIOCADDMULTI, groups - before), (_SIOCDELMULTI, before - groups)):
            for group in groups_of:
                packed = struct.pack("16sH14s", name.encode(), 0, bytes.fromhex(group.replace(":", "")))
                fcntl.ioctl(control, wanted, packed)
    return address, frozenset(groups)
