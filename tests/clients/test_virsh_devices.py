"""virsh's commands about devices, word by word the same against our daemon and against a real libvirtd."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from labs import corrald, libvirtd

pytestmark = [pytest.mark.clients, pytest.mark.qemu]

DOCUMENT = """<domain type='qemu'><name>v</name><uuid>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</uuid>
<memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='scsi' model='virtio-scsi'/>
<disk type='file' device='cdrom'><source file='DIR/c.iso'/><target dev='sda' bus='scsi'/></disk>
<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface></devices></domain>"""

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
    "e1000.xml": "<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='e1000'/></interface>",
}

COMMANDS = """
define DIR/dom.xml
attach-disk v DIR/a.img vda --config
detach-disk v vda --config
attach-disk v DIR/a.img vda --live
start v
attach-disk v DIR/a.img vdb --live --config
attach-disk v DIR/b.img vdb --live
attach-disk v DIR/b.img sdb --targetbus scsi --live
attach-disk v DIR/none.img sdd --targetbus scsi --live
domblklist v
domblklist v --details
domblklist v --inactive
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
domblkinfo v vdb
domblkerror v
detach-device-alias v ua-mine --live
destroy v
attach-device v DIR/tablet.xml --live
undefine v
"""


def said(uri: str, directory: Path) -> list[str]:
    """All that virsh says to the commands, with what differs from host to host taken out."""
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "sockets").mkdir()
    (directory / "sockets").chmod(0o777)  # where QEMU makes one itself
    for name, text in FILES.items():
        (directory / name).write_text(text.replace("DIR", str(directory)))
    for name, size in (("a.img", 1 << 20), ("b.img", 1 << 20), ("c.iso", 4096), ("d.iso", 4096)):
        with (directory / name).open("wb") as file:
            file.truncate(size)
    environment = {**os.environ, "LC_ALL": "C"}
    lines = []
    for command in COMMANDS.strip().splitlines():
        words = command.replace("DIR", str(directory)).split()
        done = subprocess.run(
            ["virsh", "-c", uri, *words], capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        output = (done.stdout + done.stderr).replace(str(directory), "DIR")
        lines += [f"$ virsh {command}", *(line for line in output.splitlines() if line.strip())]
    return lines


@pytest.mark.beside
def test_as_with_libvirtd() -> None:
    with tempfile.TemporaryDirectory(prefix="vd") as name, libvirtd.running(Path(name)) as peer:
        Path(name).chmod(0o755)
        theirs = said(peer.uri, Path(name) / "files")
    with tempfile.TemporaryDirectory(prefix="vd") as name, corrald.running(Path(name)) as daemon:
        Path(name).chmod(0o755)
        ours = said(daemon.uri, Path(name) / "files")
    assert ours == theirs
