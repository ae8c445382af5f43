"""What this host could lend, read from a sysfs of the test's own."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]

from corral.errors import ConfigUnsupported, DeviceMissing
from corral.host import scsi
from corral.network import function

CARD = "0000:01:00.0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A card with two virtual functions, a SCSI disk and a tape."""
    devices = tmp_path / "sys/bus/pci/devices"
    (devices / CARD / "net/eth7").mkdir(parents=True)
    for number, address in enumerate(("0000:01:10.0", "0000:01:10.2")):
        (devices / address).mkdir()
        (devices / address / "physfn").symlink_to(devices / CARD)
        (devices / CARD / f"virtfn{number}").symlink_to(devices / address)
    places = tmp_path / "sys/bus/scsi/devices"
    (places / "0:0:0:0/block/sdb").mkdir(parents=True)
    for number, place in enumerate(("0:0:0:0", "2:0:1:3")):
        (places / place / f"scsi_generic/sg{number}").mkdir(parents=True)
    return tmp_path


def test_virtual_functions(root: Path) -> None:
    assert function.of("0000:01:10.2", root) == function.VirtualFunction("eth7", 1)
    with pytest.raises(ConfigUnsupported, match="no virtual function of a network card"):
        function.of(CARD, root)
    with pytest.raises(DeviceMissing, match="no PCI device"):
        function.of("0000:01:10.4", root)


def test_scsi_devices(root: Path) -> None:
    assert [scsi.generic_of(place, root) for place in ("0:0:0:0", "2:0:1:3")] == ["/dev/sg0", "/dev/sg1"]
    assert (scsi.disk_of("0:0:0:0", root), scsi.disk_of("2:0:1:3", root)) == ("/dev/sdb", None)
    with pytest.raises(DeviceMissing, match="no SCSI device 9:0:0:0"):
        scsi.generic_of("9:0:0:0", root)


class Route:
    """A netlink socket to a card whose driver tells `told`, and takes VLANs only where it has any to tell of."""

    def __init__(self, told: list[ifinfmsg]) -> None:
        self.told = told
        self.asked: list[dict[str, object]] = []

    def get_links(self, _index: int, ext_mask: int) -> list[ifinfmsg]:
        assert ext_mask == 1
        return self.told

    def link_lookup(self, ifname: str) -> list[int]:
        assert ifname == "eth7"
        return [7]

    def link(self, _command: str, *, index: int, vf: dict[str, object]) -> None:
        assert index == 7
        self.asked.append(vf)


def told(*functions: dict[str, object]) -> list[ifinfmsg]:
    """A link's message as the kernel's bytes are read, of a card with those functions."""
    link = ifinfmsg()
    if functions:
        told = [("IFLA_VF_INFO", {"attrs": list(each.items())}) for each in functions]
        link["attrs"] = [("IFLA_VFINFO_LIST", {"attrs": told})]
    link.encode()
    read = ifinfmsg(link.data)
    read.decode()
    return [read]


@pytest.fixture
def route(monkeypatch: pytest.MonkeyPatch) -> Route:
    route = Route(told())
    monkeypatch.setattr(function, "netlink", lambda _doing: contextlib.nullcontext(route))
    return route


MAC, NONE = "52:54:00:c0:44:b0", "00:00:00:00:00:00"


def test_a_driver_that_tells_nothing_of_its_functions_is_named(route: Route) -> None:
    second = function.VirtualFunction("eth7", 1)
    address = {"IFLA_VF_MAC": {"vf": 1, "mac": NONE}}
    for route.told in (told(), told({}), told(address), told({"IFLA_VF_VLAN": {"vf": 1, "vlan": 0, "qos": 0}})):
        with pytest.raises(ConfigUnsupported, match="the driver of 'eth7' tells nothing of virtual function 1"):
            function.identity(second)


def test_of_a_function_only_what_differs_is_changed(route: Route) -> None:
    second = function.VirtualFunction("eth7", 1)
    first = {"IFLA_VF_MAC": {"vf": 0, "mac": MAC}, "IFLA_VF_VLAN": {"vf": 0, "vlan": 42, "qos": 0}}
    route.told = told(first, {"IFLA_VF_MAC": {"vf": 1, "mac": NONE}, "IFLA_VF_VLAN": {"vf": 1, "vlan": 0, "qos": 0}})
    assert function.identity(second) == function.Identity(NONE)
    for wanted in (function.Identity(NONE), function.Identity(MAC), function.Identity(NONE, 42)):
        function.become(second, wanted)
    assert route.asked == [{"vf": 1, "mac": MAC}, {"vf": 1, "vlan": 42}]
