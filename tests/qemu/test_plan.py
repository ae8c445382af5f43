"""Plans: aliases, boot order, what settles at start, and both renderings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from corral.model.domain import Domain
from corral.model.element import State
from corral.model.features import HyperV
from corral.qemu import aliases, live
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete
from corral.qemu.plan import GraphicsPorts, Image, Part, Plan, Runtime, plan, settle
from corral.qemu.render import argv, attach, detach

RUNTIME = Runtime(accel="tcg", run_dir=Path("/run/d"), graphics={0: GraphicsPorts(port=5901)})


def make(devices: str, binary: Binary, host: Host, *, head: str = "", os: str = "", machine: str = "q35") -> Domain:
    text = (
        f"<domain type='qemu'><name>d</name><memory>65536</memory>{head}"
        f"<os><type machine='{machine}'>hvm</type>{os}</os>"
        f"<features><acpi/></features><devices>{devices}</devices></domain>"
    )
    return complete(Domain.from_xml(text), binary, host)


def devices_of(planned: Plan) -> dict[str, dict[str, Any]]:
    return {part.id: part.props for part in planned.parts if part.kind == "device"}


DISKS = """
<disk type='file'><source file='/i/a.raw'/><target dev='vda' bus='virtio'/></disk>
<disk type='file'><source file='/i/b.raw'/><target dev='vdb' bus='virtio'/></disk>
<disk device='cdrom'><target dev='sda' bus='sata'/></disk>
<interface type='user'><model type='virtio'/></interface>
"""


def test_boot_classes_take_the_first_of_each(binary: Binary, host: Host) -> None:
    os = "<boot dev='network'/><boot dev='cdrom'/><boot dev='hd'/>"
    known = devices_of(plan(make(DISKS, binary, host, os=os), binary, RUNTIME))
    order = {name: props["bootindex"] for name, props in known.items() if "bootindex" in props}
    assert order == {"net0": 1, "sata0-0-0": 2, "virtio-disk0": 3}


def test_boot_order_of_devices(binary: Binary, host: Host) -> None:
    disks = DISKS.replace("<target dev='vdb' bus='virtio'/>", "<target dev='vdb' bus='virtio'/><boot order='7'/>")
    known = devices_of(plan(make(disks, binary, host), binary, RUNTIME))
    assert {name: props["bootindex"] for name, props in known.items() if "bootindex" in props} == {"virtio-disk1": 7}


def test_aliases_of_the_user_stay_and_numbers_do_not_clash(binary: Binary, host: Host) -> None:
    nets = "".join(
        f"<interface type='user'>{alias}<model type='virtio'/></interface>"
        for alias in ("", "<alias name='ua-mine'/>", "<alias name='net2'/>", "")
    )
    named = aliases.assign(make(nets, binary, host)).devices.interfaces
    names = [device.alias.name for device in named if device.alias is not None]
    assert names[1:3] == ["ua-mine", "net2"]
    assert len(set(names)) == 4


def test_chains_become_nodes_from_the_base_up(binary: Binary, host: Host) -> None:
    disk = "<disk type='file'><driver type='qcow2'/><source file='/i/top'/><target dev='vda' bus='virtio'/></disk>"
    chain = (
        Image(path=Path("/i/top"), format="qcow2"),
        Image(path=Path("/dev/vg/base"), format="raw", block=True),
    )
    runtime = Runtime(accel="tcg", run_dir=Path("/run/d"), chains={"vda": chain})
    full = make(disk, binary, host)
    nodes = [part for part in plan(full, binary, runtime).parts if part.kind == "blockdev"]
    assert [node.props["driver"] for node in nodes] == ["host_device", "file", "qcow2"]
    assert nodes[0].props["read-only"] is True
    assert nodes[2].props["backing"] == nodes[0].id
    store = settle(full, runtime).devices.disks[0].backing_store
    assert store is not None and store.source is not None and store.source.dev == "/dev/vg/base"
    assert store.backing_store is not None and store.backing_store.terminator


def test_a_chain_of_one_has_no_backing_whatever_its_header_says(binary: Binary, host: Host) -> None:
    disk = "<disk type='file'><driver type='qcow2'/><source file='/i/top'/><target dev='vda' bus='virtio'/></disk>"
    chain = (Image(path=Path("/i/top"), format="qcow2"),)
    planned = plan(make(disk, binary, host), binary, Runtime(accel="tcg", run_dir=Path("/r"), chains={"vda": chain}))
    assert next(part for part in planned.parts if part.props.get("driver") == "qcow2").props["backing"] is None


def test_channels_and_ptys_settle(binary: Binary, host: Host) -> None:
    full = make(
        "<serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        binary,
        host,
    )
    document = settle(full, RUNTIME)
    source = document.devices.channels[0].source
    assert source is not None and source.path == "/run/d/channel-org.qemu.guest_agent.0"
    live.set_ptys(document, {"charserial0": "/dev/pts/5"})
    text = document.to_xml()
    assert "<console type='pty' tty='/dev/pts/5'>" in text
    assert text.count("<source path='/dev/pts/5'/>") == 2


def test_passwords_never_stand_on_the_command_line(binary: Binary, host: Host) -> None:
    planned = plan(make("<graphics type='vnc' passwd='hush'/>", binary, host), binary, RUNTIME)
    words = argv(planned, {})
    assert not any("hush" in word for word in words)
    assert words[words.index("-vnc") + 1] == "127.0.0.1:1,password=on,audiodev=audio1"
    assert ("set_password", {"protocol": "vnc", "password": "hush"}) in planned.setup


def test_commas_are_doubled(binary: Binary, host: Host) -> None:
    full = make("<serial type='file'><source path='/tmp/a,b=c'/></serial>", binary, host)
    full.name = "one,two"
    planned = plan(full, binary, RUNTIME)
    file = next(part.id for part in planned.parts if part.kind == "fdset")
    words = argv(planned, {file: 9})
    assert "guest=one,,two,debug-threads=on" in words
    assert f"fd=9,set={file},opaque=/tmp/a,,b=c" in words


def test_current_memory_and_a_pulled_cable_are_set_before_the_guest_runs(binary: Binary, host: Host) -> None:
    head = "<currentMemory>32768</currentMemory>"
    cable = "<interface type='user'><link state='down'/></interface>"
    planned = plan(make(cable, binary, host, head=head), binary, RUNTIME)
    assert planned.setup == (("set_link", {"name": "net0", "up": False}), ("balloon", {"value": 32768 * 1024}))


def test_detach_is_attach_backwards() -> None:
    parts = [
        Part("object", "o", {"qom-type": "rng-builtin"}),
        Part("chardev", "c", {"type": "null", "data": {}}),
        Part("netdev", "n", {"type": "user"}),
        Part("blockdev", "b", {"driver": "file", "filename": "/i"}),
        Part("device", "sound0", {"driver": "intel-hda"}),
        Part("device", "sound0-codec0", {"driver": "hda-duplex", "bus": "sound0.0"}),
    ]
    assert attach(parts) == [
        ("object-add", {"qom-type": "rng-builtin", "id": "o"}),
        ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
        ("netdev_add", {"type": "user", "id": "n"}),
        ("blockdev-add", {"driver": "file", "node-name": "b", "filename": "/i"}),
        ("device_add", {"driver": "intel-hda", "id": "sound0"}),
        ("device_add", {"driver": "hda-duplex", "id": "sound0-codec0", "bus": "sound0.0"}),
    ]
    assert detach(parts) == [
        ("device_del", {"id": "sound0"}),
        ("blockdev-del", {"node-name": "b"}),
        ("netdev_del", {"id": "n"}),
        ("chardev-remove", {"id": "c"}),
        ("object-del", {"id": "o"}),
    ]


def test_host_model_names_a_model_and_the_differences(binary: Binary, host: Host) -> None:
    words = argv(plan(make("", binary, host, head="<cpu mode='host-model'/>"), binary, RUNTIME), {})
    cpu = words[words.index("-cpu") + 1].split(",")
    assert cpu[0] in {model.name for model in binary.cpu_models()}
    assert all(word.endswith(("=on", "=off")) for word in cpu[1:])


def test_hyperv_services_under_kvm(binary: Binary, host: Host) -> None:
    given = make("<panic model='isa'/>", binary, host, head="<clock><timer name='hypervclock' present='yes'/></clock>")
    assert given.features is not None
    given.features.hyperv = HyperV(mode="custom", relaxed=State(state="on"), vpindex=State(state="off"))
    words = argv(plan(given, binary, replace(RUNTIME, accel="kvm")), {})
    assert words[words.index("-cpu") + 1] == "qemu64,hv-relaxed=on,hv-time=on"
    assert words[words.index("-accel") + 1] == "kvm"


def test_timezone_is_an_environment_variable(binary: Binary, host: Host) -> None:
    head = "<clock offset='timezone' timezone='Europe/Berlin'/>"
    planned = plan(make("", binary, host, head=head), binary, RUNTIME)
    assert planned.environment == {"TZ": "Europe/Berlin"}
    assert ("-rtc", "base=localtime") in planned.options
