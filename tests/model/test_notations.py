"""Three notations of one document, on real documents."""

from __future__ import annotations

import json

import pytest
import yaml
from tests.model import corpus

from corral.model.address import PCIAddress
from corral.model.capabilities import Capabilities
from corral.model.devices.disk import Disk, DiskSource, DiskTarget
from corral.model.domain import VCPU, Devices, Domain
from corral.model.domaincaps import DomainCapabilities
from corral.model.element import Element
from corral.model.os import OS, OSType
from corral.model.schema import unusable, validate_schema
from corral.model.units import Memory

schemas = pytest.mark.skipif(unusable() is not None, reason=str(unusable()))


@pytest.mark.parametrize("name", corpus.LIBVIRTD)
def test_libvirtd_documents_come_out_byte_for_byte(name: str) -> None:
    text = corpus.text(name)
    assert Domain.from_xml(text).to_xml(secure=True) == text


@pytest.mark.parametrize("name", corpus.LIBVIRTD + corpus.VIRT_INSTALL)
def test_every_notation_says_the_same(name: str) -> None:
    document = Domain.from_xml(corpus.text(name))
    assert Domain.from_xml(document.to_xml(secure=True)) == document
    assert Domain.from_json(document.to_json(secure=True)) == document
    assert Domain.from_data(yaml.safe_load(yaml.safe_dump(document.to_data(secure=True)))) == document
    assert document.copy() == document


@schemas
@pytest.mark.parametrize("name", corpus.LIBVIRTD + corpus.VIRT_INSTALL)
def test_what_we_write_validates(name: str) -> None:
    assert validate_schema(Domain.from_xml(corpus.text(name)).to_xml(secure=True))


@pytest.mark.parametrize("name", corpus.LIBVIRTD + corpus.VIRT_INSTALL)
def test_real_documents_pass_the_check(name: str) -> None:
    text = corpus.text(name)
    passt_and_all = Domain.from_xml(text)
    passt_and_all.check(text)


@schemas
@pytest.mark.parametrize(
    ("name", "cls", "schema"),
    [("capabilities.xml", Capabilities, "capability"), ("domcapabilities.xml", DomainCapabilities, None)],
)
def test_capabilities_documents(name: str, cls: type[Element], schema: str | None) -> None:
    document = cls.from_xml(corpus.text(name))
    assert cls.from_xml(document.to_xml()) == document
    assert cls.from_json(document.to_json()) == document
    if schema is not None:
        assert validate_schema(document.to_xml(), schema)


def test_capabilities_are_readable() -> None:
    host = Capabilities.from_xml(corpus.text("capabilities.xml"))
    assert host.host.cpu.arch == "x86_64"
    assert [guest.arch.name for guest in host.guests] == ["i686", "x86_64"]
    offer = DomainCapabilities.from_xml(corpus.text("domcapabilities.xml"))
    assert offer.devices is not None and offer.devices.disk is not None
    assert "virtio" in offer.devices.disk.values("bus")
    assert offer.devices.disk.values("nonsense") == []


def test_a_document_written_in_python() -> None:
    document = Domain(
        type="qemu",
        name="web",
        memory=Memory.of("512M"),
        vcpu=VCPU(count=2),
        os=OS(type=OSType(arch="x86_64", machine="q35")),
        devices=Devices(
            disks=[
                Disk(
                    source=DiskSource(file="/srv/web.img"),
                    target=DiskTarget(dev="vda", bus="virtio"),
                    readonly=True,
                    address=PCIAddress(bus=3, multifunction="on"),
                )
            ]
        ),
    )
    document.check()
    assert (
        document.to_xml()
        == """\
<domain type='qemu'>
  <name>web</name>
  <memory unit='KiB'>524288</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/srv/web.img'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
      <address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0' multifunction='on'/>
    </disk>
  </devices>
</domain>
"""
    )
    assert json.loads(document.to_json())["devices"]["disks"][0] == {
        "type": "file",
        "device": "disk",
        "source": {"file": "/srv/web.img"},
        "target": {"dev": "vda", "bus": "virtio"},
        "readonly": True,
        "address": {"type": "pci", "domain": 0, "bus": 3, "slot": 0, "function": 0, "multifunction": "on"},
    }


def test_json_takes_sizes_with_units() -> None:
    document = Domain.from_json('{"type":"qemu","name":"a","memory":"2 GiB","os":{"type":{}}}')
    assert document.memory is not None and document.memory.kib == 2 * 1024 * 1024


def test_children_come_in_any_order() -> None:
    text = (
        "<domain type='qemu'><os><type>hvm</type></os><devices><disk><target dev='vda'/><source file='/a'/></disk>"
        "<emulator>/q</emulator><disk><target dev='vdb'/><source file='/b'/></disk></devices>"
        "<memory>1</memory><name>a</name></domain>"
    )
    document = Domain.from_xml(text)
    assert [disk.target.dev for disk in document.devices.disks] == ["vda", "vdb"]
    assert document.devices.emulator == "/q"


def test_an_empty_path_is_an_empty_drive() -> None:
    text = (
        "<domain type='qemu'><name>a</name><memory>1</memory><os><type>hvm</type></os><devices>"
        "<disk type='file' device='cdrom'><source file=''/><target dev='sda' bus='sata'/></disk></devices></domain>"
    )
    document = Domain.from_xml(text)
    document.check(text)
    source = document.devices.disks[0].source
    assert source is not None and source.file is None and source.path is None


def test_passwords_are_shown_only_on_request() -> None:
    text = (
        "<domain type='qemu'><name>a</name><memory>1</memory><os><type>hvm</type></os><devices>"
        "<graphics type='vnc' passwd='geheim'/></devices></domain>"
    )
    document = Domain.from_xml(text)
    assert "passwd='geheim'" in document.to_xml(secure=True)
    assert "geheim" not in document.to_xml()
    assert "geheim" in document.to_json(secure=True)
    assert "geheim" not in document.to_json()


def test_copies_share_nothing() -> None:
    first = Domain.from_xml(corpus.text(corpus.LIBVIRTD[0]))
    second = first.copy()
    second.devices.disks[0].target.dev = "vdz"
    second.devices.disks.append(second.devices.disks[0])
    second.name = "other"
    assert first.to_xml(secure=True) == corpus.text(corpus.LIBVIRTD[0])


@pytest.mark.parametrize("text", ["a & b < c > d 'e' \"f\"", "two\nlines\tand tabs", "žluťoučký 🐎", "]]>", " padded "])
def test_text_survives(text: str) -> None:
    document = Domain.from_xml("<domain type='qemu'><name>a</name><memory>1</memory><os><type>hvm</type></os></domain>")
    document.description = text
    document.os.cmdline = text
    document.devices.disks = [Disk(source=DiskSource(file=text), target=DiskTarget(dev="vda"))]
    again = Domain.from_xml(document.to_xml())
    assert again == document
