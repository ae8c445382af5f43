"""Addresses for any mixture of devices: no place twice, nothing moves that was placed, buses exist."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.errors import XMLError
from corral.model.address import PCIAddress, USBAddress
from corral.model.devices.controller import Controller
from corral.model.devices.hub import Hub, Redirdev
from corral.model.domain import Domain
from corral.qemu import addresses, pci_slots
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete

FAMILIES = {
    "virtio disk": "<disk type='file'><source file='/i/{n}.raw'/><target dev='{vd}' bus='virtio'/></disk>",
    "virtio net": "<interface type='user'><model type='virtio'/></interface>",
    "rtl8139": "<interface type='user'><model type='rtl8139'/></interface>",
    "e1000e": "<interface type='user'><model type='e1000e'/></interface>",
    "ac97": "<sound model='ac97'/>",
    "ich9": "<sound model='ich9'/>",
    "usb sound": "<sound model='usb'/>",
    "tablet": "<input type='tablet' bus='usb'/>",
    "virtio input": "<input type='mouse' bus='virtio'/>",
    "channel": "<channel type='unix'><target type='virtio' name='org.example.{n}'/></channel>",
    "rng": "<rng><backend model='builtin'/></rng>",
    "hub": "<hub type='usb'/>",
    "virtio-scsi": "<controller type='scsi' model='virtio-scsi'/>",
    "lsi": "<controller type='scsi' model='lsilogic'/>",
    "sata": "<controller type='sata'/>",
    "pci-serial": "<serial type='null'><target type='pci-serial'/></serial>",
    "pvpanic": "<panic model='pvpanic'/>",
    "i6300esb": "<watchdog model='i6300esb'/>",
    "placed": "<interface type='user'><model type='e1000e'/>"
    "<address type='pci' bus='{bus}' slot='{slot}'/></interface>",
}


def make(machine: str, families: list[str]) -> Domain:
    q35 = machine == "q35"
    devices, used = [], {"i6300esb": 0, "pvpanic": 0, "placed": 0}
    for number, family in enumerate(families):
        if family in used:
            used[family] += 1
            if used[family] > 1:
                continue
        place = {"bus": 6, "slot": 0} if q35 else {"bus": 0, "slot": 7}
        devices.append(FAMILIES[family].format(n=number, vd=name_of(number), **place))
    body = "".join(devices)
    return Domain.from_xml(
        f"<domain type='qemu'><name>d</name><memory>65536</memory><os><type machine='{machine}'>hvm</type></os>"
        f"<features><acpi/></features><devices>{body}</devices></domain>"
    )


def name_of(number: int) -> str:
    high, low = divmod(number, 26)
    return "vd" + (chr(96 + high) if high else "") + chr(97 + low)


@settings(max_examples=60, deadline=None)
@given(machine=st.sampled_from(["q35", "pc"]), families=st.lists(st.sampled_from(sorted(FAMILIES)), max_size=24))
def test_any_mixture_has_places(machine: str, families: list[str], binary: Binary, host: Host) -> None:
    full = complete(make(machine, families), binary, host)
    buses = {c.index: c.model for c in full.devices.controllers if c.type == "pci"}
    taken: set[tuple[int, int, int]] = set()
    devices = [device for device, _ in pci_slots._devices(full)]
    for device in devices:
        address = device.address
        assert isinstance(address, PCIAddress)
        place = (address.bus, address.slot, address.function)
        assert place not in taken
        taken.add(place)
        assert address.slot in pci_slots.SLOTS[buses[address.bus] or ""]
    for bus, slot, function in taken:
        if function:  # a slot with several functions says so on its first, or that one is the chipset's
            first = [d.address for d in devices if isinstance(d.address, PCIAddress)]
            heads = [a for a in first if (a.bus, a.slot, a.function) == (bus, slot, 0)]
            assert not heads or heads[0].multifunction == "on"
    ports = [device.address for device in addresses.usb_devices(full)]
    assert all(isinstance(port, USBAddress) for port in ports)
    assert len({str(port) for port in ports}) == len(ports)
    assert complete(full, binary, host).to_xml() == full.to_xml()


@pytest.mark.parametrize(("name", "index"), [("sda", 0), ("vdz", 25), ("vdaa", 26), ("hdzz", 701), ("sdaaa", 702)])
def test_disk_index(name: str, index: int) -> None:
    assert addresses.disk_index(name) == index


def test_disk_index_of_nonsense() -> None:
    with pytest.raises(XMLError, match="unknown disk name"):
        addresses.disk_index("disk1")


def test_free_place_for_hotplug(binary: Binary, host: Host) -> None:
    full = complete(make("q35", ["virtio net"]), binary, host)
    device = full.devices.interfaces[0].copy()
    device.address = None
    place = pci_slots.free_place(full, device)
    assert (place.slot, place.function) == (0, 0)
    device.address = place
    full.devices.interfaces.append(device)
    third = device.copy()
    third.address = None
    with pytest.raises(XMLError, match="No more available PCI slots"):
        pci_slots.free_place(full, third)


HUB = "<hub type='usb'><address type='usb' bus='0' port='1'/></hub>"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("bus='0' port='20'", "requested USB port 20 not present on USB bus 0"),
        ("bus='0' port='1.9'", "requested USB port 1.9 not present on USB bus 0"),
        ("bus='0' port='2.4'", "there is no hub at port 2 in USB address bus: 0 port: 2.4"),
        ("bus='3' port='1'", "Missing USB bus 3"),
    ],
)
def test_usb_ports_that_are_not_there(place: str, says: str, binary: Binary, host: Host) -> None:
    document = make("q35", [])
    document.devices.hubs = [Hub.from_xml(HUB)]
    document.devices.redirdevs = [
        Redirdev.from_xml(f"<redirdev bus='usb' type='null'><address type='usb' {place}/></redirdev>")
    ]
    with pytest.raises(XMLError, match=f"{says}$"):
        complete(document, binary, host)


def test_a_usb_device_gets_the_bus_of_its_speed(binary: Binary, host: Host) -> None:
    document = make("q35", [])
    document.devices.controllers += [
        Controller(type="usb", index=0, model="piix3-uhci"),
        Controller(type="usb", index=1, model="ich9-ehci1"),
        Controller(type="usb", index=2, model="qemu-xhci", ports=1),
    ]
    full = complete(document, binary, host)
    assert [addresses.usb_bus(full, speed) for speed in range(4)] == [0, 0, 1, 2]
    full.devices.redirdevs = [Redirdev(type="null", address=USBAddress(bus=2, port="1"))]
    assert addresses.usb_bus(full, 3) == 0, "a port of another speed is better than none"
    full.devices.redirdevs += [
        Redirdev(type="null", address=USBAddress(bus=bus, port=str(port)))
        for bus, n in ((0, 2), (1, 6))
        for port in range(1, n + 1)
    ]
    assert addresses.usb_bus(full, 2) is None
