"""Virtual functions of network cards: what their physical function has them be (rtnetlink(7), IFLA_VFINFO_LIST).

A virtual function's address and VLAN are set at its physical function, so that a guest that has the function can
change neither.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from corral.errors import ConfigUnsupported
from corral.host.vfio import place_of
from corral.network.link import index_of, netlink

_VF_INFORMATION = 1
"""RTEXT_FILTER_VF: the kernel tells of virtual functions whom asks for them."""


@dataclass(frozen=True, slots=True)
class VirtualFunction:
    """The link of its physical function, and its number there."""

    link: str
    number: int


@dataclass(frozen=True, slots=True)
class Identity:
    """The address of a virtual function, all zero for none, and its VLAN, 0 for none."""

    mac: str
    vlan: int = 0


def of(address: str, root: Path = Path("/")) -> VirtualFunction:
    """The network card at a PCI address. Raises DeviceMissing, or ConfigUnsupported for what is no virtual one."""
    place = place_of(address, root)
    card = place / "physfn"
    links = sorted(path.name for path in (card / "net").glob("*"))
    for virtual in card.glob("virtfn*"):
        if links and virtual.resolve() == place.resolve():
            return VirtualFunction(links[0], int(virtual.name.removeprefix("virtfn")))
    raise ConfigUnsupported(
        f"PCI device {address} is no virtual function of a network card of the host's,"
        " as an interface of type 'hostdev' has to be",
        hint=f"lend any other as <hostdev type='pci'>; /sys/bus/pci/devices/{address}/sriov_numvfs makes functions",
    )


def identity(function: VirtualFunction) -> Identity:
    """What a function is now."""
    with netlink(f"look at the virtual functions of '{function.link}'") as route:
        return _told(route, index_of(route, function.link), function)


def _told(route: IPRoute, index: int, function: VirtualFunction) -> Identity:
    (link,) = route.get_links(index, ext_mask=_VF_INFORMATION)
    functions = link.get_attr("IFLA_VFINFO_LIST")  # each None where the driver has nothing to tell
    for each in functions.get_attrs("IFLA_VF_INFO") if functions is not None else ():
        address, vlan = each.get_attr("IFLA_VF_MAC"), each.get_attr("IFLA_VF_VLAN")
        if address is not None and vlan is not None and address["vf"] == function.number:
            return Identity(address["mac"], vlan["vlan"])
    raise ConfigUnsupported(f"the driver of '{function.link}' tells nothing of virtual function {function.number}")


def become(function: VirtualFunction, wanted: Identity) -> None:
    """Have a function be another, also of one that a guest has.

    Only what differs is asked for: a driver without VLANs refuses also the one that is none.
    """
    with netlink(f"set up virtual function {function.number} of '{function.link}'") as route:
        index = index_of(route, function.link)
        before = asdict(_told(route, index, function))
        change = {name: value for name, value in asdict(wanted).items() if value != before[name]}
        if change:
            route.link("set", index=index, vf={"vf": function.number, **change})
