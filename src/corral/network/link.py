"""The host's links by netlink: a tap brought up and put on its bridge, a macvtap made and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from corral.errors import HostError


@contextlib.contextmanager
def netlink(doing: str) -> Iterator[IPRoute]:
    """A netlink socket; what the kernel refuses becomes a HostError that says what was being done."""
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        words = os.strerror(error.code)
        hint = "the daemon has no right to change the host's network" if error.code == errno.EPERM else None
        raise HostError(f"cannot {doing}: {words}", hint=hint) from error


def index_of(route: IPRoute, name: str) -> int:
    """The number of a link; HostError when there is none of that name."""
    found = route.link_lookup(ifname=name)
    if not found:
        raise HostError(f"there is no network link '{name}' on this host")
    return int(found[0])


def kind_of(route: IPRoute, index: int) -> str | None:
    """`bridge`, `macvtap`, `ifb` …; None for a piece of hardware."""
    info = route.get_links(index)[0].get_attr("IFLA_LINKINFO")
    return info.get_attr("IFLA_INFO_KIND") if info is not None else None


def require_bridge(name: str) -> int:
    """The number of a bridge; HostError when it is not there, or is none."""
    with netlink(f"look at bridge '{name}'") as route:
        found = route.link_lookup(ifname=name)
        if not found:
            raise HostError(
                f"there is no bridge '{name}' on this host",
                hint=f"make one (ip link add {name} type bridge; ip link set {name} up)",
            )
        if kind_of(route, found[0]) not in ("bridge", "openvswitch"):
            raise HostError(f"the network link '{name}' is not a bridge")
        return int(found[0])


def tap_mac(guest: str) -> str:
    """The address of the host's end: the guest's with a first byte so high that no bridge takes it for its own."""
    first, _, rest = guest.lower().partition(":")
    return f"{'fa' if int(first, 16) == 0xFE else 'fe'}:{rest}"


def connect_tap(name: str, *, mac: str, mtu: int | None, bridge: str | None, isolated: bool = False) -> None:
    """Give the tap its address and MTU (None: its bridge's), put it on the bridge, bring it up."""
    with netlink(f"set up '{name}'") as route:
        index = index_of(route, name)
        changes: dict[str, Any] = {"address": tap_mac(mac)}
        if bridge is not None:
            master = index_of(route, bridge)
            changes |= {"mtu": mtu or route.get_links(master)[0].get_attr("IFLA_MTU"), "master": master}
        elif mtu is not None:
            changes["mtu"] = mtu
        for key, value in changes.items():
            route.link("set", index=index, **{key: value})
        if isolated:
            route.brport("set", index=index, isolated=1)
        route.link("set", index=index, state="up")


def set_bridge(name: str, bridge: str) -> None:
    """Put a link on a bridge, away from the one that it is on."""
    with netlink(f"put '{name}' on bridge '{bridge}'") as route:
        route.link("set", index=index_of(route, name), master=index_of(route, bridge))


def set_isolated(name: str, isolated: bool) -> None:
    """Whether a port of a bridge reaches only those that are not isolated."""
    with netlink(f"isolate the bridge's port '{name}'") as route:
        route.brport("set", index=index_of(route, name), isolated=int(isolated))


def neighbours() -> list[tuple[str, str, str]]:
    """What the host knows of its neighbours: (hardware address, `ipv4` or `ipv6`, address)."""
    with netlink("look at the neighbours") as route:
        found = [
            (
                each.get_attr("NDA_LLADDR"),
                "ipv6" if each["family"] == socket.AF_INET6 else "ipv4",
                each.get_attr("NDA_DST"),
            )
            for each in route.get_neighbours()
            if each["family"] in (socket.AF_INET, socket.AF_INET6)
        ]
    return [(str(mac).lower(), family, str(address)) for mac, family, address in found if mac and address]


def make_macvtap(name: str, *, parent: str, mode: str, mac: str, mtu: int | None) -> None:
    """A macvtap on a link of the host's, up; HostError when its name or its parent is taken."""
    # The kernel calls libvirt's mode passthrough `passthru`.
    with netlink(f"make the macvtap '{name}' on '{parent}'") as route:
        below = index_of(route, parent)
        kernel_mode = "passthru" if mode == "passthrough" else mode
        route.link("add", ifname=name, kind="macvtap", link=below, macvtap_mode=kernel_mode, address=mac.lower())
        try:
            index = index_of(route, name)
            # With passthru the kernel begins with the parent's address; set on the macvtap it becomes the parent's,
            # and the parent has its own again when the macvtap is gone.
            route.link("set", index=index, address=mac.lower())
            if mtu is not None:
                route.link("set", index=index, mtu=mtu)
            route.link("set", index=index, state="up")
        except BaseException:
            route.link("del", ifname=name)
            raise


def open_macvtap(name: str, queues: int) -> list[int]:
    """A descriptor for each queue of a macvtap; HostError when its device cannot be opened."""
    try:
        link = Path("/sys/class/net", name)
        index = int((link / "ifindex").read_text())
        numbers = (link / f"macvtap/tap{index}/dev").read_text().split(":")
        device = os.makedev(int(numbers[0]), int(numbers[1]))
        return [_open_node(Path(f"/dev/tap{index}"), device) for _ in range(queues)]
    except OSError as error:
        raise HostError(f"cannot open the macvtap '{name}': {error.strerror}") from error


def _open_node(node: Path, device: int) -> int:
    """The device of a macvtap; in a namespace of one's own another's may have its number in /dev, or none has."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(fd).st_rdev == device:
            return fd
        os.close(fd)
    own = node.with_name(f".corral-{os.getpid()}-{os.major(device)}-{os.minor(device)}")
    own.unlink(missing_ok=True)
    os.mknod(own, 0o20600, device)
    try:
        return os.open(own, os.O_RDWR | os.O_CLOEXEC)
    finally:
        own.unlink()


def remove_macvtap(name: str, mac: str) -> bool:
    """Remove the macvtap of that name and address; False when there is none such."""
    with netlink(f"remove the macvtap '{name}'") as route:
        for index in route.link_lookup(ifname=name):
            address = str(route.get_links(index)[0].get_attr("IFLA_ADDRESS"))
            if kind_of(route, index) == "macvtap" and address == mac.lower():
                route.link("del", index=index)
                return True
    return False
