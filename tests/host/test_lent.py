"""What this host could lend, read from a sysfs of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    (places / "2:0:1:3").mkdir()
    for number, place in enumerate(("0:0:0:0", "2:0:1:3")):
        generic = tmp_path / f"sys/class/scsi_generic/sg{number}"
        generic.mkdir(parents=True)
        (generic / "device").symlink_to(places / place)
    return tmp_path


def test_virtual_functions(root: Path) -> None:
    assert function.of("0000:01:10.2", root) == function.VirtualFunction("eth7", 1)
    with pytest.raises(ConfigUnsupported, match="no virtual function of a network card"):
        function.of(CARD, root)
    with pytest.raises(DeviceMissing, match="no PCI device"):
        function.of("0000:01:10.4", root)


def test_scsi_devices(root: Path) -> None:
    assert scsi.generics(root) == {"0:0:0:0": "/dev/sg0", "2:0:1:3": "/dev/sg1"}
    assert scsi.generic_of("2:0:1:3", root) == "/dev/sg1"
    assert (scsi.disk_of("0:0:0:0", root), scsi.disk_of("2:0:1:3", root)) == ("/dev/sdb", None)
    with pytest.raises(DeviceMissing, match="no SCSI device 9:0:0:0"):
        scsi.generic_of("9:0:0:0", root)
