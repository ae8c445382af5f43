"""virt-install, virt-xml and virt-clone, as Debian ships them, make and change domains of our daemon."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Iterator

import pytest

from labs import corrald

pytestmark = [
    pytest.mark.clients,
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("virt-install") is None, reason="virt-install is not installed (virtinst)"),
]

ALWAYS = ["--memory", "32", "--noautoconsole", "--osinfo", "detect=on,require=off", "--network", "user"]


def run(daemon: corrald.Daemon, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [program, "--connect", daemon.uri, *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)


def virsh(daemon: corrald.Daemon, *words: str) -> str:
    done = subprocess.run(["virsh", "-q", "-c", daemon.uri, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def clean(daemon: corrald.Daemon) -> Iterator[corrald.Daemon]:
    """The daemon; afterwards all its domains go."""
    yield daemon
    for name in virsh(daemon, "list", "--name").split():
        virsh(daemon, "destroy", name)
    for name in virsh(daemon, "list", "--all", "--name").split():
        virsh(daemon, "undefine", name, "--nvram")


@pytest.mark.parametrize("graphics", ["vnc", "none", "spice"])
def test_without_a_disk(clean: corrald.Daemon, graphics: str) -> None:
    done = run(clean, "virt-install", "--name", "vi", "--import", "--disk", "none", "--graphics", graphics, *ALWAYS)
    assert done.returncode == 0, done.stderr
    assert virsh(clean, "domstate", "vi") == "running"
    assert virsh(clean, "dominfo", "vi").count("yes") == 1, "it is persistent"
    shown = re.findall(r"<graphics type='(\w+)'", virsh(clean, "dumpxml", "vi"))
    assert shown == ([] if graphics == "none" else [graphics])


@pytest.mark.parametrize("how", ["boot", "install"])
def test_a_kernel(clean: corrald.Daemon, how: str) -> None:
    """`--boot kernel=` stays in the definition; `--install kernel=` is for the first start alone.

    The kernel is a header that QEMU loads; what the guest makes of the rest is not the matter here.
    """
    kernel, initrd = clean.state.parent / "kernel", clean.state.parent / "initrd"
    image = bytearray(8192)
    image[0x1F1] = 1  # sectors of set-up code
    image[0x1FE:0x208] = b"\x55\xaa\0\0HdrS\x06\x02"  # boot protocol 2.06
    image[0x211] = 1  # loaded high
    image[0x22C:0x230] = b"\xff\xff\xff\x7f"  # the highest address of an initrd
    kernel.write_bytes(image)
    initrd.write_bytes(bytes(4096))
    pair = f"kernel={kernel},initrd={initrd}"
    words = ["--boot", pair, "--import"] if how == "boot" else ["--install", pair]
    done = run(clean, "virt-install", "--name", "vk", "--disk", "none", "--graphics", "none", *words, *ALWAYS)
    assert done.returncode == 0, done.stderr
    assert "<kernel>" in virsh(clean, "dumpxml", "vk")
    assert ("<kernel>" in virsh(clean, "dumpxml", "--inactive", "vk")) == (how == "boot")


def test_uefi(clean: corrald.Daemon) -> None:
    words = ["--boot", "uefi", "--import", "--disk", "none", "--graphics", "none"]
    done = run(clean, "virt-install", "--name", "vu", *words, *ALWAYS)
    assert done.returncode == 0, done.stderr
    assert "<nvram" in virsh(clean, "dumpxml", "vu")


def test_change_and_clone(clean: corrald.Daemon) -> None:
    words = ["--import", "--disk", "none", "--graphics", "none", *ALWAYS]
    assert run(clean, "virt-install", "--name", "vx", *words).returncode == 0
    virsh(clean, "destroy", "vx")
    for change in (
        ["--edit", "--memory", "48"],
        ["--edit", "--metadata", "title=Edited"],
        ["--add-device", "--watchdog", "i6300esb"],
        ["--remove-device", "--rng", "all"],
    ):
        done = run(clean, "virt-xml", "vx", *change)
        assert done.returncode == 0, done.stderr
    document = virsh(clean, "dumpxml", "vx")
    assert "<memory unit='KiB'>49152</memory>" in document
    assert "<title>Edited</title>" in document
    assert "i6300esb" in document
    assert "<rng" not in document
    done = run(clean, "virt-clone", "-o", "vx", "-n", "copy", "--auto-clone", "--print-xml")
    assert done.returncode == 0, done.stderr
    assert "<name>copy</name>" in done.stdout
    assert virsh(clean, "domuuid", "vx") not in done.stdout
    assert run(clean, "virt-clone", "-o", "vx", "-n", "copy", "--auto-clone").returncode == 0
    assert sorted(virsh(clean, "list", "--all", "--name").split()) == ["copy", "vx"]


@pytest.mark.parametrize("kind", ["--disk", "--cdrom"])
def test_a_disk_by_its_path(clean: corrald.Daemon, kind: str) -> None:
    image = clean.state.parent / "vd.img"
    image.write_bytes(bytes(1 << 20))
    words = ["--import", "--disk", f"path={image},format=raw"] if kind == "--disk" else ["--cdrom", str(image)]
    words += ["--disk", "none"] if kind == "--cdrom" else []
    done = run(clean, "virt-install", "--name", "vd", *words, "--graphics", "none", *ALWAYS)
    assert done.returncode == 0, done.stderr
    assert virsh(clean, "domstate", "vd") == "running"
    assert f"<source file='{image}'" in virsh(clean, "dumpxml", "vd")
    assert virsh(clean, "vol-pool", str(image)), "virt-install made a pool of the disk's directory"


@pytest.mark.parametrize("options", ["", ",format=raw", ",sparse=no"])
def test_a_disk_of_a_size(clean: corrald.Daemon, options: str) -> None:
    """virt-install makes the volume, and virt-clone copies it."""
    directory = clean.state.parent / "images"
    directory.mkdir(exist_ok=True)
    if "made" not in virsh(clean, "pool-list", "--name").split():
        virsh(clean, "pool-create-as", "made", "dir", "--target", str(directory))
    disk = f"pool=made,size=0.01{options}"
    done = run(clean, "virt-install", "--name", "vs", "--import", "--disk", disk, "--graphics", "none", *ALWAYS)
    assert done.returncode == 0, done.stderr
    assert virsh(clean, "domstate", "vs") == "running"
    (name,) = [line.split()[0] for line in virsh(clean, "vol-list", "made").splitlines() if "vs" in line]
    assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    refused = subprocess.run(
        ["virsh", "-c", clean.uri, "vol-delete", name, "made"], capture_output=True, text=True, timeout=100
    )
    assert "is still in use by running domain 'vs'" in refused.stderr
    virsh(clean, "destroy", "vs")
    done = run(clean, "virt-clone", "-o", "vs", "-n", "vt", "--auto-clone")
    assert done.returncode == 0, done.stderr
    virsh(clean, "start", "vt")
    virsh(clean, "destroy", "vt")
    for domain in ("vs", "vt"):
        virsh(clean, "undefine", domain, "--remove-all-storage")
    assert not [line for line in virsh(clean, "vol-list", "made").splitlines() if line.split()]
