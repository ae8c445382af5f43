"""The two capability documents: valid by libvirt's schemas, true about this host, and what real clients look for."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from corral.errors import InvalidArgument
from corral.host.cpu import CPU, LogicalCPU, Topology
from corral.host.firmware import Firmware
from corral.host.kvm import KVM
from corral.host.memory import Cell
from corral.host.node import Host
from corral.host.tsc import TSC
from corral.hypervisor.host.capabilities import capabilities_xml, domain_capabilities_xml, emulator_for
from corral.model.schema import SCHEMAS, unusable
from corral.qemu.binary import Binary, MachineType, find_emulators, probe
from corral.qemu.cpu_models import CPUModel
from labs import libvirtd

FAST = KVM(True, True, True, 0.00001, "20,000 turns of a loop in 10 µs", max_vcpus=1024)
SLOW = KVM(True, True, False, 0.0103, "/dev/kvm opens, but runs machines in software", max_vcpus=1024)
NONE = KVM(False, False, False, None, "/dev/kvm does not exist")

MODELS = (
    CPUModel("max", True, (), False, None, "AMD", ("avx", "sse4.2", "x2apic")),
    CPUModel("qemu64", True, (), False, "qemu64-v1", "", ("sse2",)),
    CPUModel("SandyBridge", False, ("tsc-deadline",), False, "SandyBridge-v1", "Intel", ("avx", "tsc-deadline")),
    CPUModel("Old", True, (), True, None, "AMD", ("avx",)),
    CPUModel("Opteron_G4", True, (), False, None, "AMD", ("avx", "sse4.2")),
)


def machine(name: str, alias: str | None = None, *, default: bool = False, deprecated: bool = False) -> MachineType:
    return MachineType(name, alias, default, deprecated, 255 if "440" in name else 4096, True, "qemu64", True)


def binary(arch: str = "x86_64", **changes: object) -> Binary:
    made = Binary(
        path=Path(f"/usr/bin/qemu-system-{arch}"),
        version=(10, 0, 2),
        package="",
        arch=arch,
        machines=(
            machine("none"),
            machine("pc-q35-10.0", "q35"),
            machine("pc-i440fx-10.0", "pc", default=True),
            machine("pc-q35-2.4", deprecated=True),
        ),
        devices=frozenset({"virtio-blk-pci", "scsi-hd", "usb-storage", "ide-hd", "ich9-ahci", "VGA", "virtio-rng-pci"}),
        objects=frozenset({"iothread", "memory-backend-memfd", "rng-random"}),
        chardevs=frozenset({"socket", "pty"}),
        accelerators=frozenset({"tcg", "kvm"}),
        commands=frozenset({"query-vnc"}),
        arguments=frozenset(),
        options=frozenset(),
        properties={"pc-q35-10.0-machine": ("smm",)},
        cpu_features=("avx", "sse4.2", "x2apic", "aes"),
        models={"tcg": MODELS, "kvm": MODELS},
    )
    return replace(made, **changes)


@pytest.fixture
def host() -> Host:
    cpu = CPU("x86_64", "AMD", "AMD EPYC", 25, 1, 1, 0xA0011D5, 2445, 48, frozenset({"avx", "sse4_2", "aes", "nopl"}))
    cpus = tuple(LogicalCPU(i, True, 0, 0, 0, 0, i, (i,)) for i in range(2))
    cells = (Cell(0, 1048576, ((4, 262144), (2048, 0)), ((0, 10),), (0, 1)),)
    identity = Host.read().uuid
    return Host("box", identity, "x86_64", cpu, Topology(1, 1, 1, 1, 2, 1, cpus), cells, (4, 2048), True)


def firmware(name: str, machines: str, *features: str) -> Firmware:
    target = (("x86_64", (machines,)),)
    image = Path(f"/fw/{name}.fd")
    return Firmware(image, name, ("uefi",), "flash", "split", image, "raw", None, "raw", target, frozenset(features))


FIRMWARES = (firmware("secure", "pc-q35-*", "secure-boot", "requires-smm"), firmware("plain", "pc-*"))


def domain(*args: str | None, kvm: KVM = FAST, of: Binary | None = None, **options: object) -> etree._Element:
    text = domain_capabilities_xml(of or binary(), *args, kvm=kvm, firmwares=FIRMWARES, **options)
    return etree.fromstring(text)


def values(document: etree._Element, path: str) -> list[str]:
    return [str(value.text) for value in document.iterfind(path + "/value")]


def schema_errors(document: etree._Element, schema: str) -> str | None:
    if reason := unusable():
        pytest.skip(reason)
    relaxng = etree.RelaxNG(file=str(SCHEMAS / schema))
    return None if relaxng.validate(document) else str(relaxng.error_log)


@pytest.mark.parametrize("kvm", [FAST, SLOW, NONE])
def test_capabilities_are_valid(host: Host, kvm: KVM) -> None:
    document = etree.fromstring(capabilities_xml(host, [binary(), binary("i686")], kvm))
    assert schema_errors(document, "capability.rng") is None


def test_guests(host: Host) -> None:
    """What virt-install and Nova look for: hvm, the architectures, machines with limits, the accelerators."""
    document = etree.fromstring(capabilities_xml(host, [binary(), binary("i686")], FAST))
    guests = {guest.find("arch").get("name"): guest for guest in document.iterfind("guest")}
    assert list(guests) == ["i686", "x86_64"]
    guest = guests["x86_64"]
    assert guest.findtext("os_type") == "hvm"
    assert guest.findtext("arch/wordsize") == "64"
    assert guest.findtext("arch/emulator") == "/usr/bin/qemu-system-x86_64"
    machines = {element.text: dict(element.attrib) for element in guest.iterfind("arch/machine")}
    assert machines["q35"] == {"canonical": "pc-q35-10.0", "maxCpus": "4096"}
    assert machines["pc-q35-2.4"]["deprecated"] == "yes"
    assert "none" not in machines
    assert next(iter(machines)) == "pc-i440fx-10.0", "the default comes first"
    assert [element.get("type") for element in guest.iterfind("arch/domain")] == ["qemu", "kvm"]
    assert {feature.tag for feature in guest.iterfind("features/*")} >= {"acpi", "apic", "cpuselection", "deviceboot"}


@pytest.mark.parametrize(
    ("kvm", "allow", "types"), [(SLOW, False, "qemu"), (NONE, True, "qemu"), (SLOW, True, "qemu kvm")]
)
def test_kvm_is_offered_where_it_is_fast_or_allowed(host: Host, kvm: KVM, allow: bool, types: str) -> None:
    document = etree.fromstring(capabilities_xml(host, [binary()], kvm, allow_slow_kvm=allow))
    for arch in document.iterfind("guest/arch"):
        assert " ".join(element.get("type", "") for element in arch.iterfind("domain")) == types


def test_without_an_i386_emulator_the_64_bit_one_serves(host: Host) -> None:
    document = etree.fromstring(capabilities_xml(host, [binary()], FAST))
    emulators = [element.text for element in document.iterfind("guest/arch/emulator")]
    assert emulators == ["/usr/bin/qemu-system-x86_64"] * 2
    assert emulator_for("i686", [binary(), binary("i686")]).arch == "i686"
    assert emulator_for("aarch64", [binary()]) is None


def test_without_any_emulator_the_host_is_still_described(host: Host) -> None:
    document = etree.fromstring(capabilities_xml(host, [], NONE))
    assert schema_errors(document, "capability.rng") is None
    assert document.find("guest") is None
    assert document.findtext("host/cpu/arch") == "x86_64"


@pytest.mark.parametrize(("scaling", "word"), [(True, "yes"), (False, "no")])
def test_the_counter_that_guests_can_be_given(host: Host, scaling: bool, word: str) -> None:
    """As Nova and libvirt's own migration look for it; a host whose KVM does not tell has none."""
    kvm = replace(FAST, tsc=TSC(2_600_000, scaling))
    document = etree.fromstring(capabilities_xml(host, [binary()], kvm))
    assert schema_errors(document, "capability.rng") is None
    counter = document.find("host/cpu/counter")
    assert dict(counter.attrib) == {"name": "tsc", "frequency": "2600000000", "scaling": word}
    assert etree.fromstring(capabilities_xml(host, [binary()], NONE)).find("host/cpu/counter") is None


def test_host_cpu_is_a_model_and_what_exceeds_it(host: Host) -> None:
    document = etree.fromstring(capabilities_xml(host, [binary()], FAST))
    cpu = document.find("host/cpu")
    assert cpu.findtext("model") == "Opteron_G4"
    assert cpu.findtext("vendor") == "AMD"
    assert [feature.get("name") for feature in cpu.iterfind("feature")] == ["aes"]
    assert cpu.find("topology").get("cores") == "2"
    assert document.find("host/iommu").get("support") == "yes"
    assert [c.get("siblings") for c in document.iterfind("host/topology/cells/cell/cpus/cpu")] == ["0", "1"]


@pytest.mark.parametrize("name", ["pc", "q35", "pc-q35-2.4", None])
@pytest.mark.parametrize("virttype", ["qemu", "kvm", None])
def test_domain_capabilities_are_valid(name: str | None, virttype: str | None) -> None:
    assert schema_errors(domain(None, name, virttype), "domaincaps.rng") is None


def test_our_own_documents_read_both(host: Host) -> None:
    """The strict reader knows every element and attribute that we write."""
    from corral.model.capabilities import Capabilities
    from corral.model.domaincaps import DomainCapabilities

    capabilities = Capabilities.from_xml(capabilities_xml(host, [binary()], FAST))
    assert [guest.arch.name for guest in capabilities.guests] == ["i686", "x86_64"]
    text = domain_capabilities_xml(binary(), None, "q35", "kvm", FAST, host=host, firmwares=FIRMWARES)
    document = DomainCapabilities.from_xml(text)
    assert document.devices is not None
    assert document.devices.disk is not None
    assert document.devices.disk.values("diskDevice") == ["disk", "cdrom", "lun"]


def test_the_question_is_completed() -> None:
    document = domain()
    assert document.findtext("domain") == "kvm", "the fastest that works here"
    assert document.findtext("machine") == "pc-i440fx-10.0"
    assert document.findtext("arch") == "x86_64"
    assert domain(kvm=SLOW).findtext("domain") == "qemu"
    assert domain(None, "q35", "qemu").find("vcpu").get("max") == "4096"
    assert domain(None, "q35", "kvm").find("vcpu").get("max") == "1024", "no more than this kernel's KVM can"


def test_modes_and_models() -> None:
    cpu = domain(None, None, "qemu").find("cpu")
    modes = {mode.get("name"): mode for mode in cpu.iterfind("mode")}
    assert modes["host-passthrough"].get("supported") == "no"
    assert modes["maximum"].get("supported") == "yes"
    assert modes["host-model"].findtext("model") == "Opteron_G4"
    assert [(f.get("policy"), f.get("name")) for f in modes["host-model"].iterfind("feature")] == [
        ("require", "x2apic")
    ]
    models = {model.text: model.attrib for model in modes["custom"].iterfind("model")}
    assert models["SandyBridge"]["usable"] == "no"
    assert models["SandyBridge"]["canonical"] == "SandyBridge-v1"
    assert models["qemu64"] == {"usable": "yes", "vendor": "unknown", "canonical": "qemu64-v1"}
    assert models["Old"]["deprecated"] == "yes"
    assert "max" not in models
    blockers = {blocker.get("model"): blocker for blocker in modes["custom"].iterfind("blockers")}
    assert [feature.get("name") for feature in blockers["SandyBridge"]] == ["tsc-deadline"]


def test_kvm_passes_the_processor_through() -> None:
    passthrough = domain(None, None, "kvm").find("cpu/mode[@name='host-passthrough']")
    assert passthrough.get("supported") == "yes"
    assert values(passthrough, "enum") == ["on", "off"]


def test_devices_follow_the_binary() -> None:
    poor = domain(None, "q35", "qemu")
    assert values(poor, "devices/disk/enum[@name='bus']") == ["virtio", "scsi", "sata", "usb"]
    assert "ide" in values(domain(None, "pc", "qemu"), "devices/disk/enum[@name='bus']")
    assert values(poor, "devices/disk/enum[@name='model']") == ["virtio"]
    assert values(poor, "devices/graphics/enum[@name='type']") == ["vnc"]
    assert values(poor, "devices/video/enum[@name='modelType']") == ["vga", "none"]
    assert values(poor, "devices/channel/enum[@name='type']") == ["pty", "unix"]
    assert values(poor, "memoryBacking/enum[@name='sourceType']") == ["memfd"]
    rich = binary()
    rich = replace(rich, chardevs=rich.chardevs | {"spicevmc"}, devices=rich.devices | {"qxl", "usb-redir"})
    document = domain(None, "q35", "qemu", of=rich)
    assert values(document, "devices/graphics/enum[@name='type']") == ["vnc", "spice"]
    assert "qxl" in values(document, "devices/video/enum[@name='modelType']")
    assert "spicevmc" in values(document, "devices/channel/enum[@name='type']")


def test_what_our_documents_cannot_say_is_not_offered() -> None:
    """virt-install adds a TPM or a filesystem where it is offered; `define` would then refuse its document."""
    from corral.model.domain import Devices

    document = domain()
    for family, field in {
        "hostdev": "hostdevs",
        "filesystem": "filesystems",
        "tpm": "tpms",
        "crypto": "cryptos",
    }.items():
        assert document.find(f"devices/{family}").get("supported") == "no" or field in Devices.model_fields


def test_firmware() -> None:
    q35, pc = domain(None, "q35"), domain(None, "pc")
    assert values(q35, "os/enum[@name='firmware']") == ["efi"]
    assert values(q35, "os/loader") == ["/fw/secure.fd", "/fw/plain.fd"]
    assert values(q35, "os/loader/enum[@name='secure']") == ["yes", "no"]
    assert values(pc, "os/loader") == ["/fw/plain.fd"]
    assert values(pc, "os/loader/enum[@name='secure']") == ["no"]


@pytest.mark.parametrize(
    ("question", "kvm", "text"),
    [
        ((None, "pdp11", None), FAST, "the machine 'pdp11' is not supported by emulator '/usr/bin/qemu-system-x86_64'"),
        (("aarch64", None, None), FAST, "Emulator '/usr/bin/qemu-system-x86_64' does not support arch 'aarch64'"),
        (
            (None, None, "kvm"),
            SLOW,
            "the accel 'kvm' is not supported by .* on this host: .* runs machines in software",
        ),
        ((None, None, "kvm"), NONE, "on this host: /dev/kvm does not exist"),
        ((None, None, "vmware"), FAST, "unknown virttype: vmware"),
    ],
)
def test_wrong_questions(question: tuple[str | None, ...], kvm: KVM, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        domain(*question, kvm=kvm)


def test_slow_kvm_by_option() -> None:
    assert domain(None, None, "kvm", kvm=SLOW, allow_slow_kvm=True).findtext("domain") == "kvm"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Binary, ...]:
    cache = tmp_path_factory.mktemp("cache")
    return tuple(asyncio.run(probe(path, cache)) for path in find_emulators())


@pytest.mark.qemu
def test_this_machine(installed: tuple[Binary, ...]) -> None:
    """The documents of the real host and the real QEMU are valid too."""
    document = etree.fromstring(capabilities_xml(Host.read(), installed, NONE))
    assert schema_errors(document, "capability.rng") is None
    for emulator in installed:
        for name in ("q35", "pc"):
            text = domain_capabilities_xml(emulator, None, name, "qemu", NONE)
            assert schema_errors(etree.fromstring(text), "domaincaps.rng") is None


@pytest.mark.clients
@pytest.mark.qemu
@pytest.mark.beside
def test_as_libvirt_tells_it(installed: tuple[Binary, ...], short_path: Path) -> None:
    """Debian's libvirtd about the same host and QEMU: where both speak of something, they say the same."""
    with libvirtd.running(short_path) as reference:

        def ask(*command: str) -> etree._Element:
            return etree.fromstring(virsh(reference.uri, *command))

        theirs, ours = ask("capabilities"), etree.fromstring(capabilities_xml(Host.read(), installed, NONE))
        for arch in ("i686", "x86_64"):
            path = f"guest/arch[@name='{arch}']"
            assert _machines(ours.find(path)) == _machines(theirs.find(path))
            for tag in ("emulator", "wordsize"):
                assert ours.findtext(f"{path}/{tag}") == theirs.findtext(f"{path}/{tag}")
        for attribute in ("vendor", "arch"):
            assert ours.findtext(f"host/cpu/{attribute}") == theirs.findtext(f"host/cpu/{attribute}")
        for name in ("q35", "pc"):
            theirs = ask("domcapabilities", "--machine", name, "--virttype", "qemu")
            text = domain_capabilities_xml(installed[0], "x86_64", name, "qemu", NONE)
            _same_domain_capabilities(etree.fromstring(text), theirs)


def virsh(uri: str, *command: str) -> str:
    return subprocess.run(["virsh", "-c", uri, *command], check=True, capture_output=True, text=True, timeout=60).stdout


def _machines(arch: etree._Element) -> dict[str, dict[str, str]]:
    return {element.text: dict(element.attrib) for element in arch.iterfind("machine")}


def _same_domain_capabilities(ours: etree._Element, theirs: etree._Element) -> None:
    for tag in ("path", "domain", "machine", "arch"):
        assert ours.findtext(tag) == theirs.findtext(tag)
    assert ours.find("vcpu").get("max") == theirs.find("vcpu").get("max")
    assert values(ours, "os/loader") == values(theirs, "os/loader")
    for enum in ("os/enum", "os/loader/enum"):
        for element in theirs.iterfind(enum):
            assert values(ours, f"{enum}[@name='{element.get('name')}']") == [value.text for value in element]
    models = {model.text: dict(model.attrib) for model in ours.iterfind("cpu/mode/model[@usable]")}
    for model in theirs.iterfind("cpu/mode/model[@usable]"):
        assert models[model.text] == dict(model.attrib)
    blockers = {element.get("model"): {f.get("name") for f in element} for element in ours.iter("blockers")}
    for element in theirs.iter("blockers"):
        assert blockers[element.get("model")] == {feature.get("name") for feature in element}
    host_model = "cpu/mode[@name='host-model']"
    assert ours.findtext(f"{host_model}/model") == theirs.findtext(f"{host_model}/model")
    for family in ours.iterfind("devices/*"):
        assert theirs.find(f"devices/{family.tag}") is not None
        for enum in family:
            path = f"devices/{family.tag}/enum[@name='{enum.get('name')}']"
            newer = {"nvme"} if path == "devices/disk/enum[@name='bus']" else set()  # libvirt has it since 11.5
            assert {value.text for value in enum} - newer <= set(values(theirs, path))
