"""virsh's commands about how fast disks may be, and about what they are: the same words as with a real libvirtd."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.beside import Said, compare, said

from labs import corrald, libvirtd

pytestmark = [pytest.mark.clients, pytest.mark.qemu]

DOCUMENT = """<domain type='qemu'><name>v</name><uuid>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</uuid>
<memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='scsi' model='virtio-scsi'/>
<disk type='file' device='disk'><source file='DIR/a.img'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><source file='DIR/b.img'/><target dev='sdb' bus='scsi'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='scsi'/></disk></devices></domain>"""

DISK = "<disk type='file' device='disk' {}><driver name='qemu' {}/><source file='DIR/a.img'/>"
DISK += "<target dev='{}' bus='{}' {}/>{}</disk>"


def disk(bus: str, *, more: str = "", driver: str = "", target: str = "", attributes: str = "") -> str:
    return DISK.format(attributes, driver, "vda" if bus == "virtio" else "sda", bus, target, more)


def controller(kind: str, driver: str) -> str:
    return f"<controller {kind}><driver {driver}/></controller>"


#: What a disk's bus or a controller does not have: refused, not dropped.
LACKING = [
    *(disk(bus, more="<vendor>A</vendor>") for bus in ("virtio", "sata", "usb")),
    *(disk(bus, more="<product>A</product>") for bus in ("virtio", "usb")),
    *(disk(bus, more="<wwn>5000c50015ea71ad</wwn>") for bus in ("virtio", "usb")),
    *(disk(bus, target="removable='on'") for bus in ("virtio", "sata")),
    *(disk(bus, driver=driver) for bus in ("scsi", "sata", "usb") for driver in ("event_idx='on'", "iommu='on'")),
    *(disk(bus, driver="queues='2'") for bus in ("scsi", "usb")),
    *(disk(bus, attributes="model='virtio'") for bus in ("scsi", "sata", "usb")),
    disk("virtio", driver="copy_on_read='on'", more="<readonly/>"),
    disk("virtio", driver="io='native' cache='writeback'"),
    disk("usb", more="<geometry cyls='16' heads='16' secs='63'/>"),
    *(controller("type='scsi' model='lsilogic'", option) for option in ("queues='2'", "cmd_per_lun='4'")),
    *(controller("type='scsi' model='lsilogic'", option) for option in ("max_sectors='64'", "iothread='1'")),
    controller("type='scsi' model='lsisas1078'", "ioeventfd='on'"),
    controller("type='sata'", "queues='2'"),
    controller("type='virtio-serial'", "iothread='1'"),
]

COMMANDS = "".join(f"define DIR/lacking{number}.xml\n" for number in range(len(LACKING)))
COMMANDS += """\
define DIR/dom.xml
blkdeviotune v vda
blkdeviotune v vda --total-bytes-sec 1000000 --config
blkdeviotune v vda --read-bytes-sec 5 --total-bytes-sec 4 --config
blkdeviotune v vda --total-bytes-sec 1000000 --live
start v
blkdeviotune v vda
blkdeviotune v vda --total-iops-sec 50 --total-iops-sec-max 100 --total-iops-sec-max-length 3 --group-name g --live
blkdeviotune v vda
blkdeviotune v vda --config
blkdeviotune v vda --total-iops-sec-max 40
blkdeviotune v sdb --total-bytes-sec-max-length 3
blkdeviotune v sdb --total-bytes-sec-max 3000
blkdeviotune v sdb --read-bytes-sec 3000 --write-bytes-sec 10 --size-iops-sec 3
blkdeviotune v sdb --total-bytes-sec 77 --live --config
blkdeviotune v sdb
blkdeviotune v sdb --group-name g --live
blkdeviotune v sdb
blkdeviotune v sdb --total-bytes-sec 2000000000000000
blkdeviotune v nope --total-bytes-sec 20
blkdeviotune v nope
blkdeviotune v sda
blkdeviotune v sda --total-bytes-sec 20
blkdeviotune v vda --total-iops-sec 0 --total-bytes-sec 0
blkdeviotune v DIR/a.img
dumpxml v --xpath //disk
dumpxml v --inactive --xpath //disk/iotune
domthrottlegroupset v limit0 --total-bytes-sec 10000
domthrottlegroupset v limit1 --total-bytes-sec 10000 --config
domthrottlegroupset v limit0 --read-iops-sec 100 --live --config
domthrottlegrouplist v
domthrottlegrouplist v --inactive
domthrottlegroupinfo v limit0
domthrottlegroupinfo v limit9
domthrottlegroupdel v limit9
attach-disk v DIR/c.img sdc --targetbus scsi --throttle-groups limit0 --live
attach-disk v DIR/d.img sdd --targetbus scsi --throttle-groups limit7 --live
domthrottlegroupdel v limit0
dumpxml v --xpath //disk/throttlefilters
detach-disk v sdc
domthrottlegroupdel v limit0 --live
domthrottlegroupdel v limit1 --config
attach-disk v DIR/d.img sdd --targetbus scsi --serial abc --wwn 5000c50015ea71ad --cache none --io native --live
attach-disk v DIR/c.img sde --targetbus scsi --mode shareable --rawio --live
attach-disk v DIR/c.img sde --targetbus scsi --mode shareable --address scsi:0.0.9 --live
attach-disk v DIR/e.qcow2 sdf --targetbus scsi --subdriver qcow2 --alias ua-mine --iothread 1 --live
attach-disk v DIR/e.qcow2 sdf --targetbus scsi --subdriver qcow2 --alias ua-mine --print-xml
attach-disk v DIR/e.qcow2 sdf --targetbus scsi --subdriver qcow2 --alias ua-mine --live
attach-disk v exp sdg --targetbus scsi --sourcetype network --source-protocol nbd --source-host-name localhost:1 --live
dumpxml v --xpath "//disk[serial|shareable|alias[@name='ua-mine']]"
domblkthreshold v vda 1000
domblkthreshold v vda[1000] 1000
domblkthreshold v vdx 1000
domblkinfo v vda
domblkinfo v --all
domblkstat v sda
domblkerror v
domblklist v --details
attach-disk v DIR/loop vdb --sourcetype block --targetbus virtio --live
! truncate -s 3M DIR/grown.img
! losetup --set-capacity DIR/loop
blockresize v vdb 2M --capacity
blockresize v vdb --capacity
domblkinfo v vdb
destroy v
domblkthreshold v vda 1000
domblkstat v vda
domblkinfo v vda
undefine v
"""


def session(uri: str, directory: Path) -> Said:
    """All that virsh says to the commands, with what differs from host to host taken out."""
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "dom.xml").write_text(DOCUMENT.replace("DIR", str(directory)))
    for number, device in enumerate(LACKING):
        text = re.sub("<devices>.*</devices>", f"<devices>{device}</devices>", DOCUMENT, flags=re.DOTALL)
        (directory / f"lacking{number}.xml").write_text(text.replace("DIR", str(directory)))
    for name in "abcd":
        (directory / f"{name}.img").write_bytes(bytes(1 << 20))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", directory / "e.qcow2", "1M"], check=True)
    (directory / "grown.img").write_bytes(bytes(2 << 20))
    places = r' index="\d+"| \(/domain\S*(, line \d+)?\)'
    with loop(directory / "grown.img") as device:
        (directory / "loop").symlink_to(device)
        return said(uri, COMMANDS, directory, wash=lambda text: re.sub(places, "", text))


@contextlib.contextmanager
def loop(image: Path) -> Iterator[str]:
    """A block device that is a file; somewhere that is none to those who may not make one, which both then say."""
    made = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    assert made.returncode == 0 or os.geteuid() != 0, made.stderr
    device = made.stdout.strip()
    try:
        yield device or "/dev/nowhere"
    finally:
        if device:
            subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.beside
def test_as_with_libvirtd() -> None:
    # Direct I/O does not work everywhere that temporary files may be.
    with tempfile.TemporaryDirectory(prefix="vd", dir="/var/tmp") as name, libvirtd.running(Path(name)) as peer:
        Path(name).chmod(0o755)
        theirs = session(peer.uri, Path(name) / "files")
    with tempfile.TemporaryDirectory(prefix="vd", dir="/var/tmp") as name, corrald.running(Path(name)) as daemon:
        Path(name).chmod(0o755)
        ours = session(daemon.uri, Path(name) / "files")
    compare(ours, theirs)
