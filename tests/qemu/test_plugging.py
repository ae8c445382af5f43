"""What becomes of a device before it is plugged: its place, its controller, its parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from corral.errors import ConfigUnsupported, XMLError
from corral.guests import tiny
from corral.model import device_set, growth
from corral.model.address import DriveAddress
from corral.model.devices.disk import Disk
from corral.model.devices.hub import Redirdev
from corral.model.devices.interface import Interface
from corral.model.domain import Domain
from corral.qemu import plugging
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete
from corral.qemu.plan import settle
from corral.qemu.runtime import Runtime

RUNTIME = Runtime(accel="tcg", run_dir=Path("/run/d1"))
SCSI = "<controller type='scsi' model='virtio-scsi'/>"


def running(binary: Binary, host: Host, devices: str, machine: str = "q35", memory: str = "") -> Domain:
    xml = f"""<domain type='qemu'><name>a</name><memory unit='MiB'>64</memory>{memory}
    <os><type arch='x86_64' machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"""
    return settle(complete(Domain.from_xml(xml), binary, host), RUNTIME)


def disk(target: str) -> Disk:
    xml = f"<disk type='file'><source file='/d/{target}'/><target dev='{target}' bus='scsi'/></disk>"
    return Disk.from_xml(xml)


def place(plug: plugging.Plug) -> tuple[int, int, int]:
    address = plug.devices[-1].address
    assert isinstance(address, DriveAddress)
    return address.controller, address.target, address.unit


def test_a_further_controller_comes_first(binary: Binary, host: Host) -> None:
    live = running(binary, host, SCSI + "<controller type='pci' model='pcie-root-port'/>" * 8)
    plug = plugging.prepare(live, disk("sdh"), binary, RUNTIME)
    assert [part.id for part in plug.parts if part.kind == "device"] == ["scsi1", "scsi1-0-0-0"]
    assert all(part.kind != "device" for part in plug.parts[:-2])
    assert place(plug) == (1, 0, 0)
    assert len(live.devices.disks) == 0  # the document that was given is as it was


def test_where_there_is_no_slot_a_free_target_serves(binary: Binary, host: Host) -> None:
    live = running(binary, host, SCSI + disk("sda").to_xml())  # one root port is free
    live = plugging.prepare(live, disk("sdh"), binary, RUNTIME).document
    plug = plugging.prepare(live, disk("sdo"), binary, RUNTIME)
    assert [part.id for part in plug.parts if part.kind == "device"] == ["scsi0-0-1-0"]
    assert place(plug) == (0, 1, 0)


def test_a_name_far_down_the_alphabet_asks_for_no_empty_controllers(binary: Binary, host: Host) -> None:
    live = running(binary, host, SCSI)
    assert place(plugging.prepare(live, disk("sdzz"), binary, RUNTIME)) == (0, 0, 0)


def test_a_place_that_the_user_names_is_that_or_none(binary: Binary, host: Host) -> None:
    wanted = disk("sda")
    wanted.address = DriveAddress(controller=3)
    with pytest.raises(XMLError, match="No more available PCI slots"):
        plugging.prepare(running(binary, host, SCSI), wanted, binary, RUNTIME)


def test_no_boot_index_is_given_twice(binary: Binary, host: Host) -> None:
    live = running(binary, host, SCSI + disk("sdb").to_xml())
    plug = plugging.prepare(live, disk("sda"), binary, RUNTIME)
    assert "bootindex" not in plug.parts[-1].props


def test_numbers_of_nodes_are_not_used_again(binary: Binary, host: Host) -> None:
    live = running(binary, host, SCSI)
    plug = plugging.prepare(live, disk("sda"), binary, RUNTIME, first_node=7)
    assert "libvirt-7-storage" in [part.id for part in plug.parts]
    assert plugging.next_node(plug.document) == 8


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("<disk><target dev='sda'/></disk>", "scsi0-0-0-0"),
        ("<interface type='user'><mac address='52:54:00:00:00:02'/></interface>", "net1"),
        ("<controller type='scsi' index='0'/>", "scsi0"),
        ("<rng model='virtio'><backend model='builtin'/></rng>", "rng0"),
    ],
)
def test_which_device_is_meant(binary: Binary, host: Host, wanted: str, found: str) -> None:
    cards = "".join(f"<interface type='user'><mac address='52:54:00:00:00:0{n}'/></interface>" for n in (1, 2))
    rng = "<rng model='virtio'><backend model='builtin'/></rng>"
    live = running(binary, host, SCSI + disk("sda").to_xml() + cards + rng)
    device = device_set.find(live, device_set.read_device(wanted))
    assert device.alias is not None and device.alias.name == found


def test_open_displays_keep_the_ports_that_were_chosen(binary: Binary, host: Host) -> None:
    live = running(binary, host, SCSI + "<graphics type='vnc' autoport='yes'/><graphics type='spice' autoport='yes'/>")
    vnc, spice = live.devices.graphics
    vnc.port, vnc.websocket, spice.port, spice.tls_port = 5907, 5701, 5908, 5909
    after = plugging.prepare(live, disk("sda"), binary, RUNTIME).document.devices.graphics
    assert [(each.port, each.tls_port, each.websocket) for each in after] == [(5907, None, 5701), (5908, 5909, None)]


def test_a_card_for_conventional_pci_is_told_what_it_lacks(binary: Binary, host: Host) -> None:
    """Root ports are free, and of no use to it."""
    card = Interface.from_xml("<interface type='user'><model type='rtl8139'/></interface>")
    with pytest.raises(XMLError, match=r"No more available PCI slots; .*pcie-to-pci-bridge.* choose a virtio model"):
        plugging.prepare(running(binary, host, ""), card, binary, RUNTIME)


def test_a_slot_for_spice_needs_spice(binary: Binary, host: Host) -> None:
    slot = Redirdev(type="spicevmc")
    with pytest.raises(ConfigUnsupported, match="chardev 'spicevmc' not supported without spice graphics"):
        plugging.prepare(running(binary, host, "<graphics type='vnc'/>"), slot, binary, RUNTIME)
    assert plugging.prepare(running(binary, host, "<graphics type='spice'/>"), slot, binary, RUNTIME).parts


def test_room_in_a_machine_of_ours(binary: Binary, host: Host) -> None:
    """What we start leaves ports free; a port that is free again is the next to be used; a restart moves nothing."""
    xml = tiny.document("room", tiny=tiny.Tiny(Path("/k"), Path("/i"), "", Path("/p"))).to_xml()
    live = settle(complete(Domain.from_xml(xml), binary, host), RUNTIME)

    def virtio(number: int) -> Disk:
        name = f"vd{chr(ord('b') + number)}"
        return Disk.from_xml(f"<disk type='file'><source file='/d/{name}'/><target dev='{name}' bus='virtio'/></disk>")

    plugged = 0
    with pytest.raises(XMLError, match="No more available PCI slots"):
        for number in range(32):
            live = plugging.prepare(live, virtio(number), binary, RUNTIME).document
            plugged += 1
    assert plugged == growth.ROOT_PORTS - 5  # a card, USB, the agent's serial bus, random numbers, the balloon
    gone = live.devices.disks[3]
    device_set.remove(live, gone)
    again = plugging.prepare(live, virtio(20), binary, RUNTIME)
    assert str(again.devices[-1].address) == str(gone.address)
    places = [str(each.address) for each in device_set.all_of(again.document)]
    restarted = settle(complete(again.document, binary, host), RUNTIME)
    assert [str(each.address) for each in device_set.all_of(restarted)] == places


def test_an_old_qemu_gets_no_vhost_user_card_in_emulation(binary: Binary, host: Host) -> None:
    """One that cannot reconnect sockets would end by a signal; with KVM it may have the card."""
    known = (name for name in binary.arguments if not name.startswith("netdev_add/type=stream"))
    old = replace(binary, arguments=frozenset(known))
    live = running(old, host, "", memory="<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>")
    card = Interface.from_xml(
        "<interface type='vhostuser'><source type='unix' path='/s' mode='client'/><model type='virtio'/></interface>"
    )
    with pytest.raises(ConfigUnsupported, match="too old for vhost-user cards in software emulation"):
        plugging.prepare(live, card, old, RUNTIME)
    assert plugging.prepare(live, card, old, replace(RUNTIME, accel="kvm")).parts
    assert plugging.prepare(live, card, binary, RUNTIME).parts
