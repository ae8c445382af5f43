"""Limits of a link's traffic: tc-htb(8) by netlink.

What leaves the host through a link is shaped by a queue there. What comes in cannot be queued, so it goes by way of a
second link (an `ifb`), where it leaves again and is shaped the same way: packets wait there instead of being lost.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Any, Protocol

from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from corral.errors import HostError
from corral.host.interfaces import SERVING
from corral.network.link import index_of, kind_of, netlink

_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFF0000
_HANDLE, _CLASS = 0x10000, 0x10001
_ETH_P_ALL = 0x0003
#: Bytes that a queue lets go at once where the document says nothing: a packet, and what 10 ms of the rate are.
_PACKET, _PULSE = 1600, 100


class Limits(Protocol):
    """One direction's limits, as `<inbound>` has them: kilobytes a second, and KiB."""

    average: int
    peak: int | None
    burst: int | None


def set_limits(name: str, leaving: Limits | None, coming: Limits | None) -> None:
    """Limit what leaves the host through a link, and what comes in there; None: no limit. Replaces earlier ones."""
    with netlink(f"limit the bandwidth of '{name}'") as route:
        index = index_of(route, name)
        _shape(route, index, leaving)
        serving = f"{SERVING}{index}"
        _drop(route, index, _INGRESS)
        for other in route.link_lookup(ifname=serving):
            route.link("del", index=other)
        if coming is None:
            return
        try:
            route.link("add", ifname=serving, kind="ifb", txqlen=1000)
            second = index_of(route, serving)
            route.link("set", index=second, state="up")
            _shape(route, second, coming)
            route.tc("add", "ingress", index, _INGRESS)
            action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": second}
            route.tc(
                "add-filter", "u32", index, parent=_INGRESS, protocol=_ETH_P_ALL, prio=1, target=_CLASS,
                keys=["0x0/0x0+0"], action=[action],
            )  # fmt: skip
        except BaseException as error:
            _drop(route, index, _INGRESS)
            for other in route.link_lookup(ifname=serving):
                route.link("del", index=other)
            if isinstance(error, NetlinkError) and error.code in (errno.ENOENT, errno.EOPNOTSUPP):
                raise HostError(
                    "this host's kernel cannot limit what guests send",
                    hint="load its modules ifb, act_mirred, cls_u32 and sch_ingress",
                ) from error
            raise


def _shape(route: Any, index: int, limits: Limits | None) -> None:
    _drop(route, index, _ROOT)
    if limits is None:
        return
    rate = limits.average * 1000
    ceiling = (limits.peak or limits.average) * 1000
    burst = limits.burst * 1024 if limits.burst is not None else max(_PACKET, rate // _PULSE)
    route.tc("add", "htb", index, _HANDLE, default=1)
    route.tc(
        "add-class", "htb", index, _CLASS, parent=_HANDLE, rate=rate, ceil=ceiling, burst=burst,
        cburst=max(_PACKET, ceiling // _PULSE),
    )  # fmt: skip


def _drop(route: Any, index: int, parent: int) -> None:
    """Take a link's queue away, if it has one of its own."""
    with contextlib.suppress(NetlinkError):
        route.tc("del", index=index, parent=parent)


def sweep() -> None:
    """Remove the `ifb` links whose own link is gone."""
    with netlink("look for links that nobody needs") as route:
        links = {each["index"]: each.get_attr("IFLA_IFNAME") for each in route.get_links()}
        for index, name in links.items():
            number = name.removeprefix(SERVING)
            orphan = name.startswith(SERVING) and number.isdecimal() and int(number) not in links
            if orphan and kind_of(route, index) == "ifb":
                route.link("del", index=index)
