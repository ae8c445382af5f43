"""The rows of `corral doctor`: what a person is told on different hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from corral.host.kvm import KVM
from corral.host.node import Host
from corral.host.pci import PhysicalFunction
from corral.host.pmu import PMU
from corral.host.tsc import TSC
from corral.hypervisor.host.facts import Network
from corral.hypervisor.host.report import PROGRAMS, Facts, Row, as_json, report, rows
from corral.hypervisor.settings import Settings
from corral.qemu.binary import Binary, MachineType
from corral.qemu.cpu_models import CPUModel

FAST = KVM(
    True, True, True, 1e-5, "ran 20,000 turns in 10 µs", 1024, True, TSC(2_600_000, True), PMU(2, 8, 48, 3, 48), 1
)
SLOW = KVM(True, True, False, 0.0103, "runs machines in software", max_vcpus=1024)

QEMU = Binary(
    path=Path("/usr/bin/qemu-system-x86_64"),
    version=(10, 0, 2),
    package="Debian",
    arch="x86_64",
    machines=(MachineType("pc-q35-10.0", "q35", True, False, 4096, True, "qemu64", True),),
    devices=frozenset(
        ["virtio-serial-pci", "virtserialport", "virtio-scsi-pci", "scsi-hd", "scsi-cd", "vfio-pci", "ich9-usb-ehci1"]
    ),
    objects=frozenset(),
    chardevs=frozenset(),
    accelerators=frozenset({"tcg", "kvm"}),
    commands=frozenset({"set_link"}),
    arguments=frozenset({"blockdev-add/driver=file/aio=threads"}),
    options=frozenset({"sandbox"}),
    properties={"ICH9-LPC": ("disable_s3", "disable_s4")},
    models={
        "tcg": (
            CPUModel("SandyBridge", False, ("tsc-deadline",), False, None, "Intel", ("avx",)),
            CPUModel("Opteron_G4", True, (), False, None, "AMD", ("avx",)),
        )
    },
)


@pytest.fixture
def facts() -> Facts:
    host = replace(Host.read(), arch="x86_64", iommu=False)
    host = replace(host, cpu=replace(host.cpu, physical_bits=46))
    return Facts(host, SLOW, False, (QEMU,), programs=dict.fromkeys(PROGRAMS), uri="qemu:///session")


def row(facts: Facts, start: str) -> Row:
    (found,) = [row for row in rows(facts) if start in (f"{row.number} ", row.name[: len(start)])]
    return found


def test_slow_kvm_is_named_as_the_reason_for_tcg(facts: Facts) -> None:
    accelerator = row(facts, "accelerator")
    assert accelerator.text == "tcg: runs machines in software"
    assert "software emulation" in accelerator.hint


def test_fast_kvm(facts: Facts) -> None:
    assert row(replace(facts, kvm=FAST), "accelerator").ok
    assert row(replace(facts, kvm=FAST), "accelerator").text.startswith("kvm: ")


def test_slow_kvm_by_option_is_not_called_hardware(facts: Facts) -> None:
    allowed = replace(facts, allow_slow_kvm=True)
    assert row(allowed, "accelerator").ok is None
    assert row(allowed, "4 ").ok is False


def test_all_sixteen_in_order(facts: Facts) -> None:
    assert [row.number for row in rows(facts) if row.number is not None] == list(range(1, 17))


@pytest.mark.parametrize(
    ("number", "slow", "fast"), [(1, True, True), (2, True, True), (4, False, True), (7, False, True)]
)
def test_what_needs_hardware(facts: Facts, number: int, slow: bool, fast: bool) -> None:
    assert row(facts, f"{number} ").ok is slow
    assert row(replace(facts, kvm=FAST), f"{number} ").ok is fast


def test_two_terabytes_need_the_address_bits(facts: Facts) -> None:
    small = replace(facts.host, cpu=replace(facts.host.cpu, physical_bits=39))
    assert row(replace(facts, kvm=FAST, host=small), "2 ").ok is False
    assert "39 bits (512 GiB)" in row(replace(facts, kvm=FAST, host=small), "2 ").text


def test_models_say_what_is_left_out(facts: Facts) -> None:
    assert row(facts, "3 ").text == "under tcg: SandyBridge without tsc-deadline; Opteron_G4 complete"
    none = replace(QEMU, models={})
    assert row(replace(facts, binaries=(none,)), "3 ").ok is False


def test_what_software_emulation_lacks_is_said_there(facts: Facts) -> None:
    able = replace(QEMU, machines=tuple(replace(machine, hotpluggable_cpus=True) for machine in QEMU.machines))
    soft = replace(facts, binaries=(able,))
    assert "Linux from the end of 2025 on takes none" in row(soft, "8 ").text
    assert row(replace(soft, kvm=FAST), "8 ").text == "corral set NAME --cpus N, virsh setvcpus"


def test_what_qemu_lacks_is_named(facts: Facts) -> None:
    poor = replace(QEMU, devices=QEMU.devices - {"virtserialport"}, commands=frozenset())
    lacking = replace(facts, binaries=(poor,))
    assert "virtserialport" in row(lacking, "6 ").text
    assert row(lacking, "6 ").ok is False
    assert row(lacking, "15 ").ok is False
    assert row(facts, "14 ").hint == "apt install qemu-system-modules-spice"


def test_virtual_functions_need_an_iommu(facts: Facts) -> None:
    assert "no PCI device" in row(facts, "11 ").text
    cards = replace(facts, functions=(PhysicalFunction("0000:3b:00.0", 2, 0), PhysicalFunction("0000:3b:00.1", 8, 0)))
    assert "no IOMMU" in row(cards, "11 ").text
    guarded = row(replace(cards, host=replace(facts.host, iommu=True)), "11 ")
    assert guarded.ok is not False
    assert guarded.hint == "echo 2 >/sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs makes some"


def test_no_emulator(facts: Facts) -> None:
    report_rows = rows(replace(facts, binaries=(), faults=("QEMU binary '/opt/qemu' cannot be run",)))
    emulators = [row for row in report_rows if row.name == "QEMU"]
    assert [row.ok for row in emulators] == [False, False]
    assert "/opt/qemu" in emulators[0].text
    assert "apt install qemu-system-x86" in emulators[1].hint
    assert not any(row.number for row in report_rows)


def test_programs(facts: Facts) -> None:
    missing = row(facts, "passt")
    assert (missing.ok, missing.hint) == (None, "apt install passt")
    assert row(replace(facts, programs={"passt": "/usr/bin/passt"}), "passt").ok


@pytest.mark.parametrize(
    ("network", "ok", "text"),
    [
        (Network(root=True, tun=True, bridges=("br0", "br1")), True, "bridges here: br0, br1; without vhost-net"),
        (Network(root=True, tun=True, vhost=True), True, "bridges here: none; vhost-net moves the packets"),
        (Network(root=True), False, "/dev/net/tun cannot be opened"),
        (Network(tun=True), None, "need root's daemon"),
        (Network(tun=True, helper=True), None, "by qemu-bridge-helper"),
    ],
)
def test_cards_on_bridges(facts: Facts, network: Network, ok: bool | None, text: str) -> None:
    found = row(replace(facts, network=network), "cards on bridges")
    assert found.ok is ok and text in found.text


def test_displays(facts: Facts) -> None:
    assert row(facts, "displays").ok is False
    qemu = replace(QEMU, commands=frozenset({"query-vnc"}))
    vnc = replace(facts, binaries=(qemu,), certificates=("/c", False))
    assert row(vnc, "displays") == Row(
        "displays",
        None,
        "VNC; no TLS: no certificates in /c; no OpenGL: no render node in /dev/dri",
        "apt install qemu-system-modules-spice",
    )
    qemu = replace(qemu, chardevs=frozenset({"spicevmc"}), displays=frozenset({"egl-headless"}))
    both = replace(facts, binaries=(qemu,), certificates=("/c", True), render_nodes=("/dev/dri/renderD128",))
    expected = "SPICE and VNC; TLS with the certificates in /c; OpenGL on /dev/dri/renderD128"
    assert row(both, "displays") == Row("displays", True, expected)


def test_json_is_what_the_wire_carries(facts: Facts) -> None:
    whole = json.loads(as_json(rows(facts), Settings.under(Path("/x"))))
    assert whole["images"] == "/x/images"
    decoded = whole["rows"]
    assert decoded[0] == {"name": "accelerator", "ok": None, "text": "tcg: runs machines in software"} | {
        "hint": decoded[0]["hint"],
        "number": None,
    }
    assert {each["number"]: each["name"] for each in decoded}[6] == "guest agent"


@pytest.mark.qemu
async def test_this_host(tmp_path: Path) -> None:
    found = await report(Settings.under(tmp_path))
    assert found[0].name == "accelerator"
    assert any(row.name == "QEMU x86_64" and row.ok for row in found)
    assert sum(row.number is not None for row in found) == 16


@pytest.mark.qemu
async def test_an_emulator_that_is_none(tmp_path: Path) -> None:
    found = await report(Settings.under(tmp_path, emulator=Path("/bin/cat")))
    (fault, missing) = [row for row in found if row.name == "QEMU"]
    assert "/bin/cat" in fault.text
    assert missing.ok is False


def test_how_many_vcpus(facts: Facts) -> None:
    """The largest machine's figure, and the one that `virsh maxvcpus` knows, where it is another."""
    (q35,) = QEMU.machines
    smaller = MachineType("pc-i440fx-10.0", "pc", False, False, 255, True, "qemu64", True)
    two = replace(QEMU, machines=(replace(q35, default=False), replace(smaller, default=True)))
    of_two = replace(facts, binaries=(two,))
    assert "up to 4096 (machine type q35); in software" in row(replace(facts, binaries=(QEMU,)), "1 ").text
    assert (
        "up to 4096 (machine type q35); 255 on pc, the type of a document that names none; in" in row(of_two, "1 ").text
    )
    assert "up to 1024 (machine type q35); 255 on pc" in row(replace(of_two, kvm=FAST), "1 ").text


def test_devices_of_the_host(facts: Facts) -> None:
    """What can be lent, and for each of the others why not; programs are looked for where they are."""
    lendable: dict[str, str | None] = {"USB devices": None, "vsock": "there is no /dev/vhost-vsock"}
    found = row(replace(facts, lendable=lendable), "devices of the host")
    assert (found.ok, found.text) == (None, "USB devices; vsock: there is no /dev/vhost-vsock")
    assert row(replace(facts, lendable={"USB devices": None}), "devices of the host").ok
    assert row(facts, "crypto devices").ok is False
    assert row(facts, "swtpm").hint == "apt install swtpm"
    assert row(facts, "virtiofsd").hint == "apt install virtiofsd"


def test_usb_redirection(facts: Facts) -> None:
    lacks = row(facts, "USB redirection")
    assert lacks.ok is False and "QEMU lacks usb-redir" in lacks.text and "qemu-system-common" in lacks.hint
    has = replace(facts, binaries=(replace(QEMU, devices=QEMU.devices | {"usb-redir", "qemu-xhci"}),))
    assert row(has, "USB redirection") == Row(
        *("USB redirection", True),
        "corral usb share, stick, serial, keyboard; controllers: qemu-xhci, ich9-usb-ehci1",
    )
