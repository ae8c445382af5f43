"""The commands about devices, with our own daemon and a machine that runs without an operating system."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs import corrald

pytestmark = pytest.mark.qemu

DOCUMENT = """<domain type='qemu'><name>web</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><controller type='scsi' model='virtio-scsi'/>
<disk type='file' device='cdrom'><target dev='sda' bus='scsi'/></disk></devices></domain>"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cr") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def corral(directory: Path) -> Iterator[Run]:
    with corrald.running(directory) as daemon:

        def run(*words: str, stdin: str = "", status: int = 0) -> str:
            command = [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, *words]
            result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
            assert result.returncode == status, (words, result.stdout, result.stderr)
            return result.stdout + result.stderr

        (directory / "web.xml").write_text(DOCUMENT)
        run("define", str(directory / "web.xml"))
        run("start", "--paused", "web")
        yield run


def test_a_disk_elsewhere(corral: Run, directory: Path) -> None:
    """An image behind a real NBD server, by its URL."""
    image, socket = directory / "far.img", directory / "far.sock"
    image.write_bytes(bytes(1 << 20))
    command = ["qemu-nbd", "--format", "raw", "--socket", str(socket), "--persistent", "--export-name", "e", str(image)]
    server = subprocess.Popen(command)
    try:
        end = time.monotonic() + 60
        while not socket.exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        socket.chmod(0o666)
        assert corral("disk", "add", "web", f"nbd+unix:///e?socket={socket}") == "web has sdb\n"
        assert f"nbd://{socket}/e" in corral("disk", "ls", "web")
        assert corral("disk", "rm", "web", "sdb") == "web has no sdb any more\n"
    finally:
        server.kill()
        server.wait(60)
    assert "one of iscsi://, nbd://" in corral("disk", "add", "web", "gopher://x/y", status=1)
    refused = corral("disk", "add", "web", "iscsi://127.0.0.1:1/iqn.2026-01.org.x:y/1", "--passthrough", status=1)
    assert "Failed to connect" in refused or "iSCSI" in refused


def test_a_format_is_not_taken_from_a_guest(corral: Run, directory: Path) -> None:
    """A raw disk in which a guest has written a header that names a file of the host's."""
    image = directory / "tricked.img"
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", str(image), "1M"]
    subprocess.run(made, check=True)
    assert "a guest may have written that" in corral("disk", "add", "web", str(image), status=1)
    assert corral("disk", "add", "web", str(image), "--image-format", "raw") == "web has sdb\n"
    assert corral("disk", "rm", "web", "sdb") == "web has no sdb any more\n"


def test_disks(corral: Run, directory: Path) -> None:
    image = directory / "data.img"
    image.write_bytes(b"\0" * 65536)
    assert corral("disk", "add", "web", str(image), "--serial", "DATA") == "web has sdb\n"
    rows = {row["target"]: row for row in json.loads(corral("disk", "ls", "web", "--format", "json"))}
    assert (rows["sdb"]["bus"], rows["sdb"]["image"], rows["sdb"]["serial"]) == ("scsi", str(image), "DATA")
    assert corral("disk", "resize", "web", "sdb", "2M") == "sdb of web is 2M\n"
    assert image.stat().st_size == 2 << 20
    again = corral("disk", "add", "web", str(image), status=1)
    assert f"domain 'web' has disk image '{image}' already" in again
    less = ("disk", "resize", "web", "sdb", "1M")
    assert "sdb of web has 2 MiB, and would lose what is beyond 1 MiB" in corral(*less, status=1)
    assert image.stat().st_size == 2 << 20
    assert corral(*less, "--shrink") == "sdb of web is 1M\n"
    assert image.stat().st_size == 1 << 20
    assert corral("disk", "limit", "web", "sdb", "--rate", "2M", "--iops", "50") == (
        "sdb of web: total_bytes_sec 2097152, total_iops_sec 50\n"
    )
    assert corral("disk", "limit", "web", "sdb", "--rate", "0", "--iops", "0") == "sdb of web: no limit\n"
    assert "write for example 20M" in corral("disk", "limit", "web", "sdb", "--rate", "-3", status=1)
    most = corral("disk", "limit", "web", "sdb", "--iops", "9" * 30, status=2)
    assert "less than or equal to 1000000000000000" in most
    both = corral("disk", "limit", "web", "sdb", "--rate", "2M", "--read", "1M", status=1)
    assert "cannot be set at the same time" in both
    assert corral("disk", "rm", "web", "sdb") == "web has no sdb any more\n"
    assert "there is no disk sdb\n        there are: sda" in corral("disk", "rm", "web", "sdb", status=1)
    assert "write the size of a new one, such as 20G" in corral("disk", "add", "web", "20X", status=1)
    unknown = corral("disk", "add", "web", str(image), "--image-format", "foo", status=1)
    assert "image format 'foo'\n        one of raw, qcow2" in unknown
    late = corral("disk", "add", "web", str(image), "--bus", "nvme", status=1)
    assert "cannot be hotplugged" in late and "stop the machine first, or choose virtio, scsi, usb" in late


def test_what_only_the_running_machine_or_its_definition_has(corral: Run, directory: Path) -> None:
    """As after a guest has let go of a disk late: it can be taken out, and its name is not given to another."""
    images = [directory / f"apart-{number}.img" for number in range(3)]
    for image in images:
        image.write_bytes(bytes(65536))
    assert corral("disk", "add", "web", str(images[0])) == "web has sdb\n"
    assert corral("disk", "rm", "web", "sdb", "--now") == "web has no sdb any more\n"
    assert corral("disk", "add", "web", str(images[1])) == "web has sdc\n"
    assert corral("disk", "rm", "web", "sdb") == "web has no sdb any more\n"
    assert corral("disk", "add", "web", str(images[2]), "--now") == "web has sdb\n"
    assert corral("disk", "rm", "web", "sdb") == "web has no sdb any more\n"
    assert corral("disk", "rm", "web", "sdc") == "web has no sdc any more\n"
    assert "apart-" not in corral("show", "web") + corral("show", "web", "--inactive")


def test_namespaces_of_an_nvme_drive(corral: Run, directory: Path) -> None:
    idle = directory / "idle.xml"
    idle.write_text(DOCUMENT.replace("<name>web", "<name>idle"))
    corral("define", str(idle))
    for number in (1, 2):
        image = directory / f"n{number}.img"
        image.write_bytes(bytes(65536))
        assert corral("disk", "add", "idle", str(image), "--bus", "nvme") == f"idle has nvme0n{number}\n"
    assert corral("disk", "rm", "idle", "nvme0n1") == "idle has no nvme0n1 any more\n"


def test_a_scsi_disk_brings_its_controller(corral: Run, directory: Path) -> None:
    """Not the old PCI card that a document gets by itself: running machines of today have no slot for it."""
    image, bare = directory / "bare.img", directory / "bare.xml"
    image.write_bytes(bytes(65536))
    bare.write_text(f"{DOCUMENT.partition('<devices>')[0].replace('<name>web', '<name>bare')}<devices/></domain>")
    corral("define", str(bare))
    assert corral("disk", "add", "bare", str(image), "--bus", "scsi") == "bare has sda\n"
    assert "model='virtio-scsi'" in corral("show", "bare")


def test_a_new_disk_of_a_size(corral: Run) -> None:
    for name in ("web-disk", "web-disk-2"):
        assert corral("disk", "add", "web", "3M") == "web has sdb\n"
        row = next(
            each for each in json.loads(corral("disk", "ls", "web", "--format", "json")) if each["target"] == "sdb"
        )
        assert (row["format"], Path(row["image"]).stem) == ("qcow2", name)
        assert "has 3 MiB" in corral("disk", "resize", "web", "sdb", "2M", status=1)
        assert corral("disk", "rm", "web", "sdb") == "web has no sdb any more\n"


def test_no_display_is_told_with_what_gives_one(corral: Run) -> None:
    for words in (("display", "password", "web"), ("view", "web")):
        assert "give it one with corral edit web: <graphics" in corral(*words, stdin="x\n", status=1)


def test_cds(corral: Run, directory: Path) -> None:
    for name in ("one.iso", "two.iso"):
        path = directory / name
        path.write_bytes(b"\0" * 4096)
        assert corral("disk", "insert", "web", str(path)) == f"web has {path} in sda\n"
        assert str(path) in corral("disk", "ls", "web")
    assert corral("disk", "eject", "web") == "web has nothing in sda\n"
    assert ".iso" not in corral("disk", "ls", "web")


def test_cards(corral: Run) -> None:
    said = corral("nic", "add", "web")
    mac = said.split()[-1]
    assert said == f"web has a card {mac}\n" and mac.startswith("52:54:00:")
    assert corral("nic", "link", "web", "down") == f"the cable of {mac} is down\n"
    assert json.loads(corral("nic", "ls", "web", "--format", "json"))[0]["link"] == "down"
    corral("nic", "link", "web", "up", "--nic", mac)
    assert "down" not in corral("nic", "ls", "web")
    assert "no network card 52:54:00:00:00:00" in corral(
        "nic", "link", "web", "up", "--nic", "52:54:00:00:00:00", status=1
    )


def test_any_device(corral: Run) -> None:
    tablet = "<input type='tablet' bus='usb'/>"
    assert corral("device", "add", "web", "-", stdin=tablet) == "web has the device\n"
    assert corral("device", "rm", "web", "-", stdin=tablet) == "web has the device no more\n"
    assert "matching input device not found" in corral("device", "rm", "web", "-", stdin=tablet, status=1)
    unknown = corral("device", "rm", "web", "nope0", status=1)
    assert "'nope0' is neither a file nor an alias\n        aliases are: balloon0," in unknown
    assert "unknown device type 'bogus'" in corral("device", "add", "web", "-", stdin="<bogus/>", status=1)
