"""virsh's commands about devices, word by word the same against our daemon and against a real libvirtd."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

import pytest
from tests.clients.beside import Said, compare, said

from labs import corrald, libvirtd

pytestmark = [pytest.mark.clients, pytest.mark.qemu]

DOCUMENT = """<domain type='qemu'><name>v</name><uuid>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</uuid>
<memory unit='MiB'>32</memory><vcpu current='2'>4</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='scsi' model='virtio-scsi'/><controller type='virtio-serial'/>
<disk type='file' device='cdrom'><source file='DIR/c.iso'/><target dev='sda' bus='scsi'/></disk>
<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>
<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1' passwd='one'/></devices></domain>"""
DISK = "<disk type='file' device='{}'><driver name='qemu' type='raw'/>{}</disk>"
CARD = "<interface type='user'><mac address='52:54:00:aa:bb:{}'/><model type='virtio'/>{}</interface>"
CD, ROOT = "<target dev='sda' bus='scsi'/>", "<target dev='vdb' bus='virtio'/>"

FILES = {
    "dom.xml": DOCUMENT,
    "rng.xml": "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "tablet.xml": "<input type='tablet' bus='usb'/>",
    "named.xml": "<input type='tablet' bus='usb'><alias name='ua-mine'/></input>",
    "redir.xml": "<redirdev bus='usb' type='unix'><source mode='bind' path='DIR/sockets/r'/></redirdev>",
    "far.xml": "<redirdev bus='usb' type='null'><address type='usb' bus='0' port='9'/></redirdev>",
    "balloon.xml": "<memballoon model='virtio'/>",
    "bogus.xml": "<bogus/>",
    "watchdog.xml": "<watchdog model='ib700'/>",
    "channel.xml": "<channel type='unix'><target type='virtio' name='org.example.0'/></channel>",
    "vsock.xml": "<vsock><cid auto='yes'/></vsock>",
    "nvme.xml": "<disk type='nvme' device='disk'><driver name='qemu' type='raw' cache='none'/>"
    "<source type='pci' managed='yes' namespace='1'><address domain='0' bus='0xfa' slot='0' function='0'/></source>"
    "<target dev='vdn' bus='virtio'/></disk>",
    "scsi.xml": "<controller type='scsi' index='1' model='virtio-scsi'/>",
    "vnc.xml": "<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1' passwd='two'/>",
    "listen.xml": "<graphics type='vnc' port='-1' autoport='yes' listen='0.0.0.0' passwd='two'/>",
    "other-cd.xml": DISK.format("cdrom", f"<source file='DIR/d.iso'/>{CD}"),
    "no-such-cd.xml": DISK.format("cdrom", f"<source file='DIR/none.iso'/>{CD}"),
    "readonly.xml": DISK.format("disk", f"<source file='DIR/a.img'/>{ROOT}<readonly/>"),
    "elsewhere.xml": DISK.format("disk", f"<source file='DIR/b.img'/>{ROOT}"),
    "pulled.xml": CARD.format("cc", "<link state='down'/>"),
    "second.xml": CARD.format("d2", ""),
    "third.xml": CARD.format("d1", ""),
    "multicast.xml": CARD.format("d3", "").replace("52:54", "01:54"),
    "broken.xml": "<rng model='virtio'>\n<backend model='random'>\n</rng>",
    "e1000.xml": "<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='e1000'/></interface>",
}

COMMANDS = """
define DIR/dom.xml
attach-disk v DIR/a.img vda --config
detach-disk v vda --config
attach-disk v DIR/a.img vda --live
attach-disk v DIR/a.img xyz
domblkstat v
domblkinfo v sda
domblkinfo v --all --human
blockresize v sda 2M
change-media v sda --eject
change-media v sda --eject
domblkinfo v sda
change-media v sda DIR/c.iso --insert --print-xml
change-media v sda DIR/c.iso --insert
change-media v sda DIR/c.iso --live
update-device v DIR/vnc.xml --live
update-device v DIR/vnc.xml
dumpxml v --security-info --xpath //graphics/@passwd
update-device v DIR/rng.xml --config
update-device v DIR/other-cd.xml --config
update-device v DIR/pulled.xml
domif-getlink v 52:54:00:aa:bb:cc
domif-setlink v 52:54:00:aa:bb:cc up --config
dumpxml v --xpath //disk|//interface/link
change-media v sda DIR/c.iso --config
attach-device v DIR/second.xml
attach-device v DIR/second.xml
attach-device v DIR/multicast.xml
attach-interface v nonsense x
detach-interface v user --mac 52:54:00:aa:bb:d2
detach-interface v user --mac 52:54:00:aa:bb:d2
detach-interface v bridge
detach-device v DIR/scsi.xml
detach-device v DIR/other-cd.xml --live
detach-device-alias v net0
attach-device v DIR/nvme.xml --config
dumpxml v --xpath //disk[target/@dev="vdn"]/source
detach-device v DIR/nvme.xml --config
attach-device v DIR/vsock.xml --config
attach-device v DIR/vsock.xml --config
update-device v DIR/vsock.xml --config
dumpxml v --xpath //vsock/cid
detach-device v DIR/vsock.xml --config
detach-device v DIR/vsock.xml --config
start v
update-device v DIR/vsock.xml
detach-device v DIR/vsock.xml --live
attach-device v DIR/vsock.xml --live
setvcpus v 1 --live
setvcpus v 3 --live
setvcpus v 5 --live
setvcpu v 1 --disable
domblkstat v
domblkstat v --human
domblkstat v sda
domblkstat v sdx
attach-disk v DIR/a.img xyz
attach-device v DIR/broken.xml
attach-device v DIR/nothing.xml
attach-device v DIR/scsi.xml --live
attach-device v DIR/scsi.xml --live
attach-device v DIR/channel.xml --live
attach-device v DIR/channel.xml --live
update-device v DIR/channel.xml
update-device v DIR/rng.xml
update-device v DIR/vnc.xml --live --config
update-device v DIR/listen.xml
dumpxml v --security-info --xpath //graphics/@passwd
update-device v DIR/other-cd.xml --live
update-device v DIR/no-such-cd.xml
change-media v sda DIR/c.iso --block
change-media v sda DIR/c.iso --update --live
attach-device v DIR/third.xml --live
attach-device v DIR/third.xml --live
detach-interface v user --mac 52:54:00:aa:bb:d1 --print-xml
detach-interface v nothing
attach-disk v DIR/a.img vdb --live --config
attach-disk v DIR/b.img vdb --live
attach-disk v DIR/b.img sdb --targetbus scsi --live
attach-disk v DIR/none.img sdd --targetbus scsi --live
domblklist v
domblklist v --details
domblklist v --inactive
update-device v DIR/readonly.xml
update-device v DIR/elsewhere.xml
update-device v DIR/elsewhere.xml --force
detach-disk v vdb --print-xml
detach-disk v sdb --live
detach-disk v sdb --live
detach-disk v vdx --config
domblkinfo v vdb
domiflist v
domif-getlink v 52:54:00:aa:bb:cc
domif-setlink v 52:54:00:aa:bb:cc down
domif-getlink v 52:54:00:aa:bb:cc
domif-getlink v 52:54:00:aa:bb:cc --config
domif-setlink v 52:54:00:aa:bb:cc down --config
domif-getlink v 52:54:00:aa:bb:cc --config
domif-setlink v 52:54:00:aa:bb:cc up
domif-getlink v 52:54:00:aa:bb:cc
domif-setlink v 52:54:00:aa:bb:ff up
change-media v sda DIR/d.iso --update
change-media v sda --eject
change-media v sda DIR/c.iso --insert
change-media v sda DIR/d.iso --insert
change-media v sda --eject --config
change-media v sda --eject --live
change-media v sda DIR/none.iso --insert
blockresize v sda 2M
domblkinfo v sda
domblkstat v sda
change-media v sda DIR/d.iso --insert --live
change-media v sda DIR/c.iso --update --force
change-media v nothing --eject
change-media v vdb DIR/d.iso
domblklist v
domblklist v --inactive
attach-device v DIR/rng.xml --live --config
detach-device v DIR/rng.xml --config
detach-device v DIR/rng.xml --config
attach-device v DIR/tablet.xml --live
detach-device v DIR/tablet.xml --live
detach-device v DIR/tablet.xml --live
attach-device v DIR/named.xml --live --config
detach-device-alias v ua-none --live
detach-device-alias v ua-none --config
detach-device-alias v ua-mine --config
attach-device v DIR/redir.xml --live --config
dumpxml v --xpath //redirdev/address
detach-device v DIR/redir.xml --live --config
detach-device v DIR/redir.xml --live
detach-device v DIR/redir.xml --config
attach-device v DIR/far.xml --live
attach-device v DIR/balloon.xml --live
attach-device v DIR/balloon.xml --config
detach-device v DIR/balloon.xml --live
attach-device v DIR/bogus.xml --live
attach-device v DIR/watchdog.xml --live
update-device v DIR/e1000.xml --live
detach-interface v user --mac 52:54:00:aa:bb:cd
detach-interface v user --mac 52:54:00:aa:bb:cc --config
domiflist v --inactive
blockresize v vdb 2M
blockresize v vdx 2M
blockresize v vdb 1000
blockresize v vdb 1025B
blockresize v vdb 2M --capacity
blockresize v vdb --capacity
blockresize v vdb 99999999999G
blockresize v vdb x
blockresize v sda 2M
attach-disk v DIR/e.qcow2 vdc --subdriver qcow2 --cache none --io threads --serial S1 --mode readonly --live
attach-disk v DIR/e.qcow2 vdd --subdriver qcow2 --type cdrom --live
blockresize v vdc 4M
domblkinfo v vdc
domblkinfo v --all --human
domblklist v --details --inactive
blkdeviotune v nothing --total-iops-sec 5 --live --config
blkdeviotune v nothing --total-iops-sec 5 --config
blkdeviotune v nothing --config
domblkinfo v vdb
domblkerror v
detach-device-alias v ua-mine --live
suspend v
domif-setlink v 52:54:00:aa:bb:cc down
change-media v sda --eject --live
attach-disk v DIR/b.img sdf --targetbus scsi --live
detach-disk v sdf --live
dompmsuspend v mem
domtime v
resume v
destroy v
attach-device v DIR/tablet.xml --live
undefine v
"""


#: What clients are told of; a line that has no event is there to have none.
CHANGES = """
attach-device v DIR/tablet.xml --config
detach-device v DIR/tablet.xml --config
attach-device v DIR/tablet.xml --live
detach-device v DIR/tablet.xml --live
attach-device v DIR/tablet.xml --live --config
detach-device v DIR/tablet.xml --live
detach-device v DIR/tablet.xml --config
attach-device v DIR/named.xml --live --config
detach-device-alias v ua-mine --live
detach-device v DIR/tablet.xml --live
attach-disk v DIR/a.img sdb --targetbus scsi --live --config
attach-disk v DIR/b.img sdb --targetbus scsi --live
detach-disk v sdb --live --config
attach-device v DIR/third.xml --live
attach-device v DIR/second.xml --config
change-media v sda DIR/d.iso --config
change-media v sda DIR/d.iso --live
change-media v sda --eject --live --config
domif-setlink v 52:54:00:aa:bb:cc down
update-device v DIR/vnc.xml --live --config
blkdeviotune v sda --total-iops-sec 50 --config
attach-disk v DIR/a.img sdc --targetbus scsi --live
blkdeviotune v sdc --total-iops-sec 50 --live
attach-device v DIR/bogus.xml --live
"""


def told(uri: str, directory: Path) -> list[str]:
    """The events that `virsh event` shows of the changes, without its clock."""
    prepare(directory)
    said(uri, "define DIR/dom.xml\nstart v", directory)
    with subprocess.Popen(
        ["virsh", "-c", uri, "event", "v", "--all", "--loop"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as watcher:
        assert watcher.stdout is not None
        try:
            ready = threading.Event()
            lines: list[str] = []

            def listen(stream: IO[str]) -> None:
                for line in stream:
                    lines.append(line.replace(str(directory), "DIR").strip())
                    ready.set()

            thread = threading.Thread(target=listen, args=(watcher.stdout,), daemon=True)
            thread.start()
            for _ in range(100):  # it does not say when it listens
                said(uri, "desc v --title --live begin", directory)
                if ready.wait(0.2):
                    break
            assert ready.is_set(), f"virsh event shows nothing of {uri}"
            begun = lines[0]  # it may come once more, if the first was long on its way
            said(uri, CHANGES, directory)
            said(uri, "metadata v http://example.org/x --set '<x/>' --key x --live", directory)
            deadline = time.monotonic() + 60
            while not any("example.org/x" in line for line in lines):
                assert time.monotonic() < deadline, (uri, lines)
                time.sleep(0.05)
        finally:
            watcher.terminate()
    said(uri, "destroy v\nundefine v", directory)
    return [line for line in lines if line != begun]


def prepare(directory: Path) -> None:
    """Make the directory with all documents and images."""
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "sockets").mkdir()
    (directory / "sockets").chmod(0o777)  # where QEMU makes one itself
    for name, text in FILES.items():
        (directory / name).write_text(text.replace("DIR", str(directory)))
    for name, size in (("a.img", 1 << 20), ("b.img", 1 << 20), ("c.iso", 4096), ("d.iso", 4096)):
        with (directory / name).open("wb") as file:
            file.truncate(size)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", directory / "e.qcow2", "1M"], check=True)


def session(uri: str, directory: Path) -> Said:
    """All that virsh says to the commands."""
    prepare(directory)
    return said(uri, COMMANDS, directory, wash=wash)


def wash(text: str) -> str:
    """Without how long reads have taken, numbers that libvirtd gives images, and where in a document a fault is."""
    return re.sub(r"(?<=_times )\d+|(?<=\(ns\): )\s*\d+| index=\"\d+\"| \(/domain/\S*\)", "", text)


@pytest.mark.beside
def test_as_with_libvirtd() -> None:
    with tempfile.TemporaryDirectory(prefix="vd") as name, libvirtd.running(Path(name)) as peer:
        Path(name).chmod(0o755)
        theirs = session(peer.uri, Path(name) / "files")
    with tempfile.TemporaryDirectory(prefix="vd") as name, corrald.running(Path(name)) as daemon:
        Path(name).chmod(0o755)
        ours = session(daemon.uri, Path(name) / "files")
    compare(ours, theirs)


@pytest.mark.beside
def test_events_as_with_libvirtd() -> None:
    """What is plugged, unplugged and changed in the machine is told once, and what is only in the definition is not."""
    with tempfile.TemporaryDirectory(prefix="vd") as name, libvirtd.running(Path(name)) as peer:
        Path(name).chmod(0o755)
        theirs = told(peer.uri, Path(name) / "files")
    with tempfile.TemporaryDirectory(prefix="vd") as name, corrald.running(Path(name)) as daemon:
        Path(name).chmod(0o755)
        ours = told(daemon.uri, Path(name) / "files")
    assert ours == theirs
    assert sum("'device-added'" in line for line in ours) == 6
