"""Pools and volumes with virsh and libvirt's Python binding: beside Debian's libvirtd, the same words to the letter.

Both daemons get the same commands in the same order, each in a directory of its own. What rightly differs is not in
SCRIPT: formats and kinds of pools that are not ours, and documents that libvirt reads with half an eye.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labs import corrald, libvirtd

REASON = libvirtd.missing()
BACKENDS = Path("/usr/lib/x86_64-linux-gnu/libvirt/storage-backend/libvirt_storage_backend_fs.so")
pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed (qemu-utils)"),
]

#: One virsh command a line; DIR is the daemon's own directory.
SCRIPT = """
pool-define-as p dir --target DIR/p
pool-dumpxml p --xpath //target/path
pool-start p
pool-build p
pool-start p
pool-start p
pool-list --all
pool-list --type dir --name
pool-list --type logical --all
pool-autostart p
pool-list --autostart
pool-autostart p --disable
pool-define-as p3 dir --target DIR/p
pool-define-as p5 dir
pool-define-as p7 logical --source-name vg --target /dev/vg
pool-create-as u dir --target DIR/nope
pool-define DIR/slash.xml
pool-define DIR/nameless.xml
pool-build p --overwrite
vol-create-as p a.img 1M
vol-create-as p a.img 1M
vol-create-as p b.qcow2 10M --format qcow2
vol-create-as p c.qcow2 20M --format qcow2 --backing-vol b.qcow2 --backing-vol-format qcow2
vol-create-as p d.img 1M --allocation 0
vol-create-as p dir1 0 --format dir
vol-create-as p e/f 1M
vol-create-as p e.foo 1M --format foo
vol-create-as p e.vmdk 1M --format vmdk
vol-create p DIR/small.xml
vol-create p DIR/sizeless.xml
vol-create p DIR/unnamed.xml
vol-create p DIR/lost.xml
vol-create p DIR/features.xml
vol-info a.img p
vol-info a.img p --physical
vol-info d.img p
vol-info dir1 p
vol-list p --details
vol-path a.img p
vol-key a.img p
vol-name DIR/p/a.img
vol-pool DIR/p/a.img
vol-pool DIR/p/zzz
vol-dumpxml d.img p --xpath //volume/name|//key|//capacity|//allocation|//physical|//format|//permissions
vol-dumpxml c.qcow2 p --xpath //volume/name|//backingStore/path|//backingStore/format
vol-dumpxml features p --xpath //compat|//clusterSize|//features
vol-resize a.img 2M p
vol-resize a.img 1M p
vol-resize a.img 1M --shrink p
vol-resize a.img 1M --delta p
vol-resize a.img 4M --allocate p
vol-resize b.qcow2 30M p
vol-resize b.qcow2 5M p --shrink
vol-wipe a.img p
vol-wipe a.img p --algorithm trim
vol-clone a.img a2.img p
vol-clone b.qcow2 b2.qcow2 p
vol-clone c.qcow2 c2.qcow2 p
vol-create-from p DIR/converted.xml a.img --inputpool p
vol-list p --details
vol-upload a.img DIR/up p
vol-upload d.img DIR/up p --sparse
vol-download a.img DIR/down p
vol-download d.img DIR/down p --sparse
vol-upload dir1 DIR/up p
vol-delete dir1 p
vol-delete a.img p
vol-delete a.img p
pool-refresh p
pool-undefine p
pool-delete p
pool-destroy p
pool-destroy p
pool-refresh p
vol-list p
vol-create-as p z 1M
pool-delete p
pool-undefine p
pool-undefine p
pool-create-as t dir --target DIR/p
pool-autostart t
pool-undefine t
pool-create-as u dir --target DIR/p
pool-create-as u dir --target DIR/made --build
pool-destroy t
pool-destroy u
pool-list --all
find-storage-pool-sources dir
find-storage-pool-sources-as logical
pool-info nope
pool-event --event lifecycle --timeout 1
"""
FILES = {
    "slash.xml": "<pool type='dir'><name>a/b</name><target><path>/x</path></target></pool>",
    "nameless.xml": "<pool type='dir'><target><path>/x</path></target></pool>",
    "small.xml": "<volume><name>small</name><capacity unit='KB'>100</capacity><allocation unit='k'>4</allocation>"
    "<target><permissions><mode>0640</mode></permissions></target></volume>",
    "sizeless.xml": "<volume><name>v</name></volume>",
    "unnamed.xml": "<volume><name></name><capacity>100</capacity></volume>",
    "lost.xml": "<volume><name>v</name><capacity>100</capacity><target><format type='qcow2'/></target>"
    "<backingStore><path>/nowhere</path><format type='raw'/></backingStore></volume>",
    "features.xml": "<volume><name>features</name><capacity unit='M'>1</capacity><target><format type='qcow2'/>"
    "<compat>1.1</compat><clusterSize unit='KiB'>128</clusterSize><features><lazy_refcounts/></features></target>"
    "</volume>",
    "converted.xml": "<volume><name>conv</name><capacity unit='M'>3</capacity>"
    "<target><format type='qcow2'/></target></volume>",
    "up": "hello" * 100,
}


def virsh(uri: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["virsh", "-c", uri, *words], capture_output=True, text=True, timeout=60)


def told(uri: str, directory: Path) -> dict[str, str]:
    """What virsh says to each line of SCRIPT, with what differs by nature made equal."""
    for name, content in FILES.items():
        (directory / name).write_text(content)
    answers = {}
    for number, line in enumerate(SCRIPT.strip().splitlines()):
        done = virsh(uri, *line.replace("DIR", str(directory)).split())
        text = (done.stdout + done.stderr).replace(str(directory), "DIR")
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
        text = re.sub(r"-+", "-", re.sub(r" +", " ", text))
        answers[f"{number} {line}"] = f"{done.returncode} {text.strip()}"
    return answers


@pytest.mark.skipif(not BACKENDS.exists(), reason="libvirtd has no storage driver (libvirt-daemon-driver-storage)")
@pytest.mark.beside
def test_virsh_is_told_what_libvirtd_tells() -> None:
    with tempfile.TemporaryDirectory(prefix="cs") as ours, tempfile.TemporaryDirectory(prefix="cs") as theirs:
        for directory in (ours, theirs):
            (Path(directory) / "lab").mkdir()
        with (
            corrald.running(Path(ours) / "lab") as daemon,
            libvirtd.running(Path(theirs) / "lab") as real,
            ThreadPoolExecutor() as pool,
        ):
            mine = pool.submit(told, daemon.uri, Path(ours))
            reference = pool.submit(told, real.uri, Path(theirs)).result()
            assert mine.result() == reference
            assert sum(not answer.startswith("0 ") for answer in reference.values()) > 25, "failures agree, too"


@pytest.fixture(scope="module")
def daemon() -> Iterator[corrald.Daemon]:
    with tempfile.TemporaryDirectory(prefix="cs") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon


def test_documents_validate(daemon: corrald.Daemon) -> None:
    directory = daemon.state.parent
    virsh(daemon.uri, "pool-create-as", "doc", "dir", "--target", str(directory / "doc"), "--build")
    virsh(daemon.uri, "vol-create-as", "doc", "base", "1M", "--format", "qcow2")
    virsh(daemon.uri, "vol-create-as", "doc", "top", "1M", "--format", "qcow2", "--backing-vol", "base")
    for command in (["pool-dumpxml", "doc"], ["vol-dumpxml", "top", "doc"]):
        text = virsh(daemon.uri, *command).stdout
        assert text
        (directory / "shown.xml").write_text(text)
        checked = subprocess.run(["virt-xml-validate", str(directory / "shown.xml")], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr + text
    capabilities = virsh(daemon.uri, "pool-capabilities").stdout
    assert re.findall(r"<pool type='(\S+)' supported='yes'>", capabilities) == ["dir"]
    assert stat.S_IMODE((directory / "doc" / "top").stat().st_mode) == 0o600


def test_a_read_only_client_only_looks(daemon: corrald.Daemon) -> None:
    uri = daemon.uri.replace("/sock", "/sock-ro")
    assert virsh(uri, "pool-list").returncode == 0
    for command in (["pool-create-as", "x", "dir", "--target", "/x"], ["pool-undefine", "doc"]):
        assert "read only access prevents" in virsh(uri, *command).stderr


TRANSFERS = """
import os, sys, threading
import libvirt

uri, directory = sys.argv[1:]
libvirt.virEventRegisterDefaultImpl()
seen = []
c = libvirt.open(uri)
c.storagePoolEventRegisterAny(None, 0, lambda c, p, event, detail, o: seen.append((p.name(), event)), None)
c.storagePoolEventRegisterAny(None, 1, lambda c, p, o: seen.append((p.name(), "refresh")), None)
p = c.storagePoolCreateXML(
    f"<pool type='dir'><name>py</name><target><path>{directory}/py</path></target></pool>", 1)
v = p.createXML("<volume><name>s</name><capacity unit='M'>8</capacity><allocation>0</allocation></volume>", 0)
source = os.path.join(directory, "source")
with open(source, "wb") as f:
    f.write(b"A" * 100000)
    f.seek(6 << 20)
    f.write(b"B" * 70000)
    f.truncate(8 << 20)

def in_data(stream, fd):
    here = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        data = os.lseek(fd, here, os.SEEK_DATA)
    except OSError:
        data = os.lseek(fd, 0, os.SEEK_END)
    end = os.lseek(fd, data, os.SEEK_HOLE) if data == here and data < 8 << 20 else data
    os.lseek(fd, here, os.SEEK_SET)
    return [data == here and end > here, end - here]

def skip(stream, length, fd):
    os.lseek(fd, length, os.SEEK_CUR)
    return 0

def hole(stream, length, fd):
    os.ftruncate(fd, os.lseek(fd, length, os.SEEK_CUR))
    return 0

s = c.newStream(0)
v.upload(s, 0, 0, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
s.sparseSendAll(lambda s, n, fd: os.read(fd, n), in_data, skip, os.open(source, os.O_RDONLY))
s.finish()
want = open(source, "rb").read()
assert open(f"{directory}/py/s", "rb").read() == want
assert os.stat(f"{directory}/py/s").st_blocks * 512 < 1 << 20
out = os.open(os.path.join(directory, "out"), os.O_RDWR | os.O_CREAT)
s = c.newStream(0)
v.download(s, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
s.sparseRecvAll(lambda s, b, fd: os.write(fd, b), hole, out)
s.finish()
assert open(os.path.join(directory, "out"), "rb").read() == want
assert os.fstat(out).st_blocks * 512 < 1 << 20
s, got = c.newStream(0), []
v.download(s, 6 << 20, 70000, 0)
s.recvAll(lambda s, b, o: got.append(b), None)
s.finish()
assert b"".join(got) == b"B" * 70000
s = c.newStream(0)
v.upload(s, 0, 0, 0)
s.send(b"x")
try:
    v.delete()
    raise SystemExit("a volume was removed while it was uploaded")
except libvirt.libvirtError as error:
    assert error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID, error
s.abort()
for _ in range(100):
    try:
        v.delete()
        break
    except libvirt.libvirtError as error:
        assert "still in use" in str(error), error
p.destroy()
for _ in range(10):
    libvirt.virEventRunDefaultImpl()
    if ("py", 3) in seen:
        break
assert seen == [("py", 2), ("py", "refresh"), ("py", 3)], seen
print("well")
"""


def test_transfers_and_events_in_python(daemon: corrald.Daemon) -> None:
    directory = daemon.state.parent
    (directory / "transfers.py").write_text(TRANSFERS)
    done = subprocess.run(
        ["/usr/bin/python3", str(directory / "transfers.py"), daemon.uri, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "well\n", done.stderr
