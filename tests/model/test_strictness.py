"""Bad documents: each gets an error that names what, where and on which line."""

# ruff: noqa: E501 (a line of a table is one case)

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corral.errors import ConfigUnsupported, CorralError, XMLError, XMLSchemaInvalid
from corral.model import names, reader
from corral.model.domain import Domain
from corral.model.schema import SCHEMAS, unusable, validate_schema

BASE = """<domain type='qemu'>
  <name>a</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>
    {device}
  </devices>
  {top}
</domain>
"""


def refused(top: str = "", device: str = "", cls: type[CorralError] = XMLError) -> str:
    text = BASE.format(top=top, device=device)
    with pytest.raises(cls) as caught:
        Domain.from_xml(text).check(text)
    assert type(caught.value) is cls
    return str(caught.value)


@pytest.mark.parametrize(
    ("top", "device", "message"),
    [
        ("<wings/>", "", "unknown element <wings> (/domain/wings, line 10)"),
        ("<a:b xmlns:a='urn:a'/>", "", "unknown element <a:b> (/domain/a:b, line 10)"),
        ("", "<disk colour='red'/>", "unknown attribute 'colour' in element <disk> (/domain/devices/disk[3]/@colour, line 8)"),
        ("<vcpu>many</vcpu>", "", "'many' is not a number (/domain/vcpu, line 10)"),
        ("<vcpu>-1</vcpu>", "", "invalid value '-1' for element <vcpu>"),
        ("<vcpu>0</vcpu>", "", "invalid value '0' for element <vcpu>"),
        ("<vcpu>1_000</vcpu>", "", "is not a number"),
        ("<vcpu>99999999999999999999999</vcpu>", "", "is not a number"),
        ("<on_poweroff>explode</on_poweroff>", "", "invalid value 'explode' for element <on_poweroff>: expected 'destroy'"),
        ("<features><apic eoi='maybe'/></features>", "", "for attribute 'eoi' of element <apic>: expected 'on' or 'off'"),
        ("<features><acpi>x</acpi></features>", "", "element <acpi> contains the unexpected text 'x'"),
        ("<features>words</features>", "", "element <features> contains the unexpected text 'words'"),
        ("<name>b</name>", "", "element <name> may occur only once (/domain/name[2], line 10)"),
        ("<uuid>zz</uuid>", "", "malformed uuid 'zz' (/domain/uuid, line 10)"),
        ("<currentMemory unit='parsec'>1</currentMemory>", "", "unknown suffix 'parsec' (/domain/currentMemory, line 10)"),
        ("<currentMemory unit='EiB'>99</currentMemory>", "", "out of range (/domain/currentMemory, line 10)"),
        ("<maxMemory>1048576</maxMemory>", "", "missing slot count for maximum memory (/domain/maxMemory, line 10)"),
        ("", "<disk type='file'><source file='/c'/></disk>", "element <target> is missing in element <disk> (/domain/devices/disk[3], line 8)"),
        ("", "<disk type='file'><source file='/c'/><target bus='virtio'/></disk>", "attribute 'dev' is missing in element <target>"),
        ("", "<disk><source file='/c'/><target dev='vda'/></disk>", "target 'vda' duplicated for disk sources '/a' and '/c' (/domain/devices/disk[3]/target/@dev, line 8)"),
        ("", "<disk><target dev='vdc'/></disk>", "no source for disk 'vdc' (/domain/devices/disk[3], line 8)"),
        ("", "<disk><source file='/c'/><target dev='disk1'/></disk>", "Invalid harddisk device name: disk1"),
        ("", "<disk type='block'><source file='/c'/><target dev='vdc'/></disk>", "disk type 'block' does not go with this source"),
        ("", "<input type='mouse'><address type='pci' slot='99'/></input>", "/domain/devices/input/address/@slot, line 8"),
        ("", "<input type='mouse'><address type='moon'/></input>", "invalid value 'moon' for attribute 'type' of element <address>"),
        ("", "<input type='mouse'><address slot='1'/></input>", "attribute 'type' of element <address> is missing"),
        ("", "<hub type='usb'><alias name='ua-../../x'/></hub>", "invalid value 'ua-../../x' for attribute 'name' of element <alias>"),
        ("", "<hub type='usb'><alias name='ua-a,b'/></hub>", "(/domain/devices/hub/alias/@name, line 8)"),
        ("", "<hub type='usb'><alias name=''/></hub>", "(/domain/devices/hub/alias/@name, line 8)"),
        ("", "<hub type='usb'><acpi index='1'/></hub>", "unknown element <acpi>"),
        ("", "<interface type='user'><mac address='01:00:00:00:00:01'/></interface>", "expected unicast mac address"),
        ("", "<interface type='user'><mac address='fish'/></interface>", "invalid value 'fish' for attribute 'address' of element <mac>"),
        ("<cpu mode='custom'/>", "", "missing CPU model name (/domain/cpu, line 10)"),
        ("<seclabel type='none'/><vcpu current='3'>2</vcpu>", "", "maxvcpus must not be less than current vcpus (2 < 3)"),
        ("<title>a\nb</title>", "", "Domain title can't contain newlines"),
        ("<iothreads>-3</iothreads>", "", "invalid value '-3' for element <iothreads>"),
    ],
)  # fmt: skip
def test_contradictions_and_nonsense(top: str, device: str, message: str) -> None:
    text = refused(top, device)
    assert text.startswith("XML error: ")
    assert message in text


@pytest.mark.parametrize(
    ("top", "device", "message"),
    [
        ("<sysinfo type='smbios'/>", "", "element <sysinfo> is not supported (/domain/sysinfo, line 10)"),
        (
            "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/>",
            "",
            "element <q:commandline> is not supported (/domain/q:commandline, line 10)",
        ),
        (
            "<seclabel type='static' model='selinux'><label>x</label></seclabel>",
            "",
            "static security labels are not supported",
        ),
        ("", "<disk type='volume'/>", "value 'volume' for attribute 'type' of element <disk> is not supported"),
        ("", "<nvram/>", "element <nvram> is not supported (/domain/devices/nvram, line 8)"),
        (
            "",
            "<disk><source fdgroup='x'/></disk>",
            "attribute 'fdgroup' of element <source> is not supported (/domain/devices/disk[3]/source/@fdgroup",
        ),
        ("", "<serial type='udp'/>", "value 'udp' for attribute 'type' of element <serial> is not supported"),
        (
            "",
            "<hub type='usb'><address type='ccw'/></hub>",
            "value 'ccw' for attribute 'type' of element <address> is not",
        ),
        (
            "",
            "<interface type='network'><source network='default'/></interface>",
            "network interface type 'network' is not supported yet: use type='bridge' with the network's bridge, "
            "or a user network (type='user'; --network user in virt-install)"
            " (/domain/devices/interface/@type, line 8)",
        ),
        ("", "<graphics type='vnc'/><graphics type='vnc'/>", "only 1 graphics device of each type"),
        (
            "",
            "<redirdev type='spicevmc'/><graphics type='vnc'/>",
            "'spicevmc' not supported without spice graphics (/domain/devices/redirdev, line 8)",
        ),
        (
            "",
            "<smartcard mode='passthrough' type='spicevmc'/>",
            "chardev 'spicevmc' not supported without spice graphics",
        ),
        (
            "",
            "<serial type='spiceport'><source channel='a.b'/></serial>",
            "chardev 'spiceport' not supported without spice graphics",
        ),
        ("", "<audio id='1' type='spice'/>", "Spice audio is not supported without spice graphics"),
        ("", "<audio id='1' type='alsa' path='/x'/>", "'path' does not belong to audio of type 'alsa'"),
        ("", "<audio id='1' type='file'><input dev='x'/></audio>", "'dev' does not belong to audio of type 'file'"),
        (
            "",
            "<audio id='1' type='none'><output><settings channels='2'/></output></audio>",
            "audio settings specified without fixed settings flag",
        ),
        (
            "",
            "<audio id='1' type='none'><output mixingEngine='no' fixedSettings='yes'/></audio>",
            "fixed audio settings requires mixing engine",
        ),
        ("<vcpu>3</vcpu><cpu><topology sockets='1' cores='2' threads='2'/></cpu>", "", "CPU topology doesn't match"),
        (
            "",
            "<disk device='cdrom'><target dev='vdc' bus='virtio'/></disk>",
            "disk type of 'vdc' does not support ejectable media",
        ),
    ],
)
def test_what_libvirt_knows_and_we_do_not(top: str, device: str, message: str) -> None:
    text = refused(top, device, ConfigUnsupported)
    assert text.startswith("unsupported configuration: ")
    assert message in text


@pytest.mark.parametrize(
    "device",
    [
        "<hub type='usb'><alias name='ua-x'/></hub><hub type='usb'><alias name='ua-x'/></hub>",
        "<hub type='usb'><address type='usb' bus='0' port='1'/></hub><hub type='usb'><address type='usb' bus='0' port='1'/></hub>",
        "<rng model='virtio'><backend model='builtin'/><address type='pci' slot='5'/></rng>"
        "<watchdog model='i6300esb'><address type='pci' slot='0x05'/></watchdog>",
        "<disk><source file='/c'/><target dev='sda' bus='scsi'/><address type='drive'/></disk>"
        "<disk><source file='/d'/><target dev='sdb' bus='scsi'/><address type='drive'/></disk>",
        "<controller type='scsi' index='1'/><controller type='scsi' index='1'/>",
        "<interface type='user'><boot order='1'/></interface><interface type='user'><boot order='1'/></interface>",
        "<channel type='pty'><target type='virtio' name='a'/></channel><channel type='pty'><target type='virtio' name='a'/></channel>",
    ],
)
def test_duplicates(device: str) -> None:
    refused(device=device)


def test_a_shared_index_of_usb_companions_is_no_duplicate() -> None:
    text = BASE.format(
        top="",
        device="<controller type='usb' index='0' model='ich9-ehci1'/>"
        "<controller type='usb' index='0' model='ich9-uhci1'><master startport='0'/></controller>",
    )
    Domain.from_xml(text).check(text)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\nb", "x" * 256])
def test_names(name: str) -> None:
    with pytest.raises(XMLError):
        Domain.from_xml(BASE.format(top="", device="").replace("<name>a</name>", f"<name>{name}</name>")).check()


def test_memory_is_required() -> None:
    text = BASE.format(top="", device="").replace("<memory unit='MiB'>64</memory>", "")
    with pytest.raises(XMLError, match="Memory size must be specified"):
        Domain.from_xml(text).check(text)


def test_the_check_names_the_path_without_the_source() -> None:
    document = Domain.from_xml(BASE.format(top="", device=""))
    document.devices.disks[1].target.dev = "vda"
    with pytest.raises(XMLError, match=re.escape("(/domain/devices/disk[2]/target/@dev)")):
        document.check()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "<domain>",
        "<domain type='qemu'",
        "not xml",
        "<domain/><domain/>",
        "<network/>",
        "<domain xmlns='urn:other' type='qemu'/>",
        "<domain>\x00</domain>",
        "<domain>&undefined;</domain>",
        b"\xff\xfe<\x00d\x00/\x00>\x00",
        b"<domain>\xff</domain>",
        "<domain>\udcff</domain>",
        "<!DOCTYPE domain><domain type='qemu'/>",
        "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><domain type='&b;'/>",
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>",
    ],
)
def test_what_is_no_document(text: str | bytes) -> None:
    with pytest.raises(XMLError):
        Domain.from_xml(text)


def test_the_line_of_a_syntax_error() -> None:
    with pytest.raises(XMLError, match=r"^at line 3: "):
        Domain.from_xml("<domain>\n  <name>\n  </nome>\n</domain>")


def test_size_and_depth_are_bounded() -> None:
    with pytest.raises(XMLError, match="larger than"):
        Domain.from_xml("<domain>" + " " * reader.MAX_BYTES + "</domain>")
    chain = "<backingStore type='file'><format type='raw'/><source file='/x'/>"
    deep = f"<disk><source file='/c'/>{chain * 200}{'</backingStore>' * 200}<target dev='vdc'/></disk>"
    assert "nested deeper than" in refused(device=deep)
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"devices":' + "[" * 500 + "]" * 500 + "}"):
        with pytest.raises(XMLError):
            Domain.from_json(text)


def test_attributes_are_bounded() -> None:
    many = " ".join(f"a{number}=''" for number in range(100_000))
    with pytest.raises(XMLError, match="more than"):
        Domain.from_xml(f"<domain {many}/>")


def test_a_long_backing_chain_fits() -> None:
    chain = "<backingStore type='file'><format type='raw'/><source file='/x'/>"
    device = f"<disk><source file='/c'/>{chain * 100}{'</backingStore>' * 100}<target dev='vdc'/></disk>"
    text = BASE.format(top="", device=device)
    document = Domain.from_xml(text)
    document.check(text)
    assert Domain.from_xml(document.to_xml()) == document
    assert document.copy() == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("[]", "document"),
        ('{"type":"qemu"}', "this field is missing (name)"),
        ('{"type":"qemu","name":"a","os":{"type":{}},"colour":1}', "unknown field (colour)"),
        (
            '{"type":"qemu","name":"a","os":{"type":{}},"devices":{"disks":[{"target":{}}]}}',
            "(devices.disks[0].target.dev)",
        ),
        ('{"type":"qemu","name":"a","os":{"type":{}},"memory":"2 parsec"}', "unknown suffix 'parsec' (memory)"),
    ],
)
def test_bad_json(text: str, message: str) -> None:
    with pytest.raises(XMLError) as caught:
        Domain.from_json(text)
    assert message in str(caught.value)


def test_characters_that_xml_cannot_carry() -> None:
    document = Domain.from_json('{"type":"qemu","name":"a","os":{"type":{}},"title":"bell \\u0007"}')
    with pytest.raises(XMLError, match="cannot be written"):
        document.to_xml()


@pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
def test_the_schema_names_the_culprit() -> None:
    with pytest.raises(XMLSchemaInvalid, match=r"domain\.rng.*line 2"):
        validate_schema("<domain type='qemu'>\n<nome/></domain>")


@pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
def test_the_schema_need_not_know_nvme() -> None:
    """By its bus or by its name alone; what is wrong elsewhere in the document is still found."""
    for bus in (" bus='nvme'", ""):
        device = f"<disk><source file='/x'/><target dev='nvme0n1'{bus}/></disk>"
        assert validate_schema(BASE.format(top="", device=device))
        with pytest.raises(XMLSchemaInvalid):
            validate_schema(BASE.format(top="<wings/>", device=device))
    with pytest.raises(XMLSchemaInvalid):
        validate_schema(BASE.format(top="", device="<disk><source file='/x'/><target dev='sdz' bus='wings'/></disk>"))


@pytest.mark.parametrize("serial", ["", " ", "x" * 21, "\N{LATIN SMALL LETTER E WITH ACUTE}", "a\tb"])
def test_serials_of_nvme(serial: str) -> None:
    """No empty one is replaced by another, and no guest gets bytes that it cannot read; a disk's as a controller's."""
    drive = "<disk><source file='/x'/>{}<target dev='nvme0n1'{}/></disk>"
    element = f"<serial>{serial}</serial>"
    devices = {"controller": [f"<controller type='nvme'>{element}</controller>"]}
    if serial:  # an empty one of a disk's is none, as in libvirt
        devices["disk"] = [drive.format(element, bus) for bus in (" bus='nvme'", "")]
    for tag, device in [(tag, device) for tag, found in devices.items() for device in found]:
        text = BASE.format(top="", device=device)
        with pytest.raises(ConfigUnsupported, match=rf"1 to 20 characters.*/{tag}.*/serial, line 8\)"):
            Domain.from_xml(text).check(text)
        good = text.replace(element, "<serial>A serial of 20 chars</serial>")
        Domain.from_xml(good).check(good)


def test_a_missing_schema_is_said() -> None:
    assert validate_schema("<domain/>", "no-such-schema") is False


def test_the_table_of_names_is_libvirts(tmp_path: Path) -> None:
    assert "tpm" in names.children("domain", "devices")
    assert "network" in names.values("devices", "disk", "type")
    if not SCHEMAS.exists():
        pytest.skip("libvirt's schemas are not installed (apt-get install libvirt-common)")
    found = names.collect()
    assert "disk" in found["domain/devices"][1]
    assert found["disk/driver"][0]["cache"] is not None
