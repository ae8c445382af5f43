"""What is filled in, and what is refused with a reason."""

from __future__ import annotations

import dataclasses

import pytest

from corral.errors import ConfigUnsupported, CorralError, OperationFailed, XMLError
from corral.model.domain import Domain
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete

DOCUMENT = """
<domain type='{type}'>
  <name>d</name>
  <memory unit='MiB'>{memory}</memory>
  {head}
  <os{firmware}><type machine='{machine}'>hvm</type>{os}</os>
  <features>{features}</features>
  <devices>{devices}</devices>
</domain>
"""


def document(devices: str = "", **changes: str) -> Domain:
    words = {"type": "qemu", "memory": "64", "head": "", "machine": "q35", "os": "", "features": "<acpi/>"}
    return Domain.from_xml(DOCUMENT.format(**{**words, "firmware": "", "devices": devices, **changes}))


DISK = "<disk type='file'>{more}<source file='/images/a.raw'/><target dev='{dev}' bus='{bus}'/></disk>"

REFUSED = {
    "kvm": ({"type": "kvm"}, ConfigUnsupported, "domain type 'kvm' cannot be used on this host: not here"),
    "machine": ({"machine": "pc-q35-99.0"}, ConfigUnsupported, "machine type 'pc-q35-99.0' is not supported by"),
    "strange machine": ({"machine": "microvm"}, ConfigUnsupported, "machine type 'microvm' is not supported"),
    "cpu": (
        {"head": "<cpu mode='custom'><model>nope</model></cpu>"},
        ConfigUnsupported,
        "CPU model 'nope' is not supported by",
    ),
    "cpu feature": (
        {"head": "<cpu mode='custom'><model>qemu64</model><feature name='nope'/></cpu>"},
        ConfigUnsupported,
        "unknown CPU feature: nope",
    ),
    "passthrough": ({"head": "<cpu mode='host-passthrough'/>"}, ConfigUnsupported, "'host-passthrough' needs KVM"),
    "vcpus": ({"head": "<vcpu>5000</vcpu>"}, ConfigUnsupported, "greater than specified machine type limit 4096"),
    "numa with a gap": (
        {"head": "<cpu><numa><cell id='1' cpus='0' memory='64' unit='MiB'/></numa></cpu>"},
        XMLError,
        "numbered from 0 without gaps",
    ),
    "numa of other vCPUs": (
        {"head": "<cpu><numa><cell id='0' cpus='0-7' memory='64' unit='MiB'/></numa></cpu>"},
        ConfigUnsupported,
        "CPU 7 of NUMA cell 0 is not one of the domain's",
    ),
    "memory mode": (
        {"head": "<numatune><memory mode='restrictive' nodeset='0'/></numatune>"},
        ConfigUnsupported,
        "<numatune> mode 'restrictive' is not supported yet",
    ),
    "device": ({"devices": "<sound model='es1370'/>"}, ConfigUnsupported, "has no device 'ES1370'"),
    "card": (
        {"devices": "<interface type='user'><model type='nosuchcard'/></interface>"},
        ConfigUnsupported,
        "has no device 'nosuchcard'",
    ),
    "network": (
        {"devices": "<interface type='network'><source network='default'/></interface>"},
        ConfigUnsupported,
        "interface type 'network' is not supported yet: use type='bridge'",
    ),
    "ide on q35": (
        {"devices": DISK.format(dev="hda", bus="ide", more="")},
        ConfigUnsupported,
        "IDE controllers are unsupported",
    ),
    "readonly ide": (
        {"devices": DISK.format(dev="hda", bus="ide", more="<readonly/>"), "machine": "pc"},
        ConfigUnsupported,
        "readonly ide disks are not supported",
    ),
    "native io": (
        {"devices": DISK.format(dev="vda", bus="virtio", more="<driver io='native'/>")},
        ConfigUnsupported,
        "io='native' needs either no disk cache or directsync",
    ),
    "hyperv panic": ({"devices": "<panic model='hyperv'/>"}, ConfigUnsupported, "panic model 'hyperv' needs KVM"),
    "itco on pc": (
        {"devices": "<watchdog model='itco'/>", "machine": "pc"},
        ConfigUnsupported,
        "itco watchdog is only supported with the q35 machine type",
    ),
    "two actions": (
        {"devices": "<watchdog model='i6300esb' action='pause'/><watchdog model='ib700' action='reset'/>"},
        ConfigUnsupported,
        "all watchdogs must have the same action",
    ),
    "tablet on ps2": ({"devices": "<input type='tablet' bus='ps2'/>"}, ConfigUnsupported, "does not support tablet"),
    "usb off": (
        {"devices": "<controller type='usb' model='none'/><input type='tablet' bus='usb'/>"},
        ConfigUnsupported,
        "USB is disabled for this domain",
    ),
    "secondary vga": (
        {"devices": "<video><model type='vga'/></video><video><model type='vga'/></video>"},
        ConfigUnsupported,
        "'vga' is only valid as primary",
    ),
    "firmware": (
        {"machine": "pc", "firmware": " firmware='efi'"},
        OperationFailed,
        "Unable to find 'efi' firmware",
    ),
    "smm": ({"machine": "pc", "features": "<smm state='on'/>"}, ConfigUnsupported, "smm is only supported with q35"),
    "iothread": (
        {"devices": DISK.format(dev="vda", bus="virtio", more="<driver iothread='1'/>")},
        ConfigUnsupported,
        "Disk iothread '1' not defined in iothreadid",
    ),
    "queues of sata": (
        {"devices": DISK.format(dev="sda", bus="sata", more="<driver queues='2'/>")},
        ConfigUnsupported,
        "queues attribute in disk driver element is only supported for virtio bus",
    ),
    "two listeners": (
        {"devices": "<graphics type='vnc'><listen type='address'/><listen type='socket' socket='/x'/></graphics>"},
        ConfigUnsupported,
        "more than one <listen>",
    ),
    "tick catchup": (
        {"head": "<clock><timer name='rtc' tickpolicy='catchup'><catchup slew='1'/></timer></clock>"},
        ConfigUnsupported,
        "<catchup> of timer 'rtc' is not supported yet",
    ),
    "boot twice": (
        {"os": "<boot dev='hd'/>", "devices": DISK.format(dev="vda", bus="virtio", more="<boot order='1'/>")},
        CorralError,
        "per-device boot elements cannot be used together with os/boot elements",
    ),
    "address twice": (
        {
            "devices": "<rng><backend model='builtin'/><address type='pci' bus='0' slot='0x1f' function='0x2'/></rng>"
            "<controller type='sata' index='0'><address type='pci' bus='0' slot='0x1f' function='0x2'/></controller>"
        },
        XMLError,
        "Attempted double use of PCI Address 0000:00:1f.2",
    ),
    "chipset's address": (
        {"devices": "<rng><backend model='builtin'/><address type='pci' bus='0' slot='0x1f' function='0'/></rng>"},
        XMLError,
        "Attempted double use of PCI Address 0000:00:1f.0",
    ),
    "no such slot": (
        {"devices": "<rng><backend model='builtin'/><address type='pci' bus='1' slot='5'/></rng>"},
        XMLError,
        "Invalid PCI address 0000:01:05.0",
    ),
    "usb port twice": (
        {
            "devices": "<input type='tablet' bus='usb'><address type='usb' bus='0' port='1'/></input>"
            "<input type='mouse' bus='usb'><address type='usb' bus='0' port='1'/></input>"
        },
        XMLError,
        "0:1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, binary: Binary, host: Host) -> None:
    changes, error_class, text = REFUSED[case]
    if case == "device":
        binary = without(binary, "ES1370")
    if case == "cpu feature":
        binary = dataclasses.replace(binary, cpu_features=("aes", "avx"))
    with pytest.raises(error_class) as caught:
        complete(document(**changes), binary, host)
    assert text in str(caught.value)


def without(binary: Binary, *devices: str) -> Binary:
    from dataclasses import replace

    return replace(binary, devices=binary.devices - set(devices))


def test_the_input_is_left_alone(binary: Binary, host: Host) -> None:
    given = document("<graphics type='vnc'/>")
    before = given.to_xml()
    complete(given, binary, host)
    assert given.to_xml() == before


def test_random_ids_differ(binary: Binary, host: Host) -> None:
    given = document("<interface type='user'/>")
    first, second = complete(given, binary, host), complete(given, binary, host)
    assert first.uuid != second.uuid
    macs = {full.devices.interfaces[0].mac.address for full in (first, second) if full.devices.interfaces[0].mac}
    assert len(macs) == 2 and all(mac.startswith("52:54:00:") for mac in macs)


def test_display_falls_back_without_cirrus_and_qxl(binary: Binary, host: Host) -> None:
    poor = without(binary, "cirrus-vga", "qxl-vga", "virtio-vga")
    models = [v.model.type for v in complete(document("<graphics type='vnc'/>"), poor, host).devices.videos if v.model]
    assert models == ["vga"]


def test_kvm_where_it_serves(binary: Binary, host: Host) -> None:
    from dataclasses import replace

    full = complete(document(type="kvm", head="<cpu mode='host-passthrough'/>"), binary, replace(host, kvm=True))
    assert full.cpu is not None
    assert (full.cpu.check, full.cpu.migratable) == ("none", "on")


def test_firmware_by_feature(binary: Binary, host: Host) -> None:
    wanted = "<firmware><feature enabled='no' name='secure-boot'/></firmware>"
    full = complete(document(firmware=" firmware='efi'", os=wanted), binary, host)
    assert full.os.loader is not None and full.os.nvram is not None
    assert full.os.loader.path == "/usr/share/OVMF/OVMF_CODE_4M.fd"
    assert full.os.nvram.path == "/nvram/d_VARS.fd"
    assert full.features is not None and full.features.smm is None
