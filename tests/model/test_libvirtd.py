"""Our documents before Debian's real libvirtd, and what virt-install writes before us."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.model import corpus

from corral.model.capabilities import Capabilities
from corral.model.domain import Domain
from corral.model.domaincaps import DomainCapabilities
from labs import libvirtd
from labs.libvirtd import Libvirtd

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirtd]:
    with tempfile.TemporaryDirectory(prefix="cr") as directory, libvirtd.running(Path(directory)) as running:
        yield running


def virsh(daemon: Libvirtd, *command: str) -> str:
    answer = subprocess.run(["virsh", "-q", "-c", daemon.uri, *command], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


DEFINABLE = [name for name in corpus.LIBVIRTD + corpus.VIRT_INSTALL if "running" not in name]


@pytest.mark.parametrize("name", DEFINABLE)
@pytest.mark.beside
def test_libvirtd_takes_what_we_write_and_we_write_what_it_prints(daemon: Libvirtd, name: str, tmp_path: Path) -> None:
    document = Domain.from_xml(corpus.text(name))
    file = tmp_path / "domain.xml"
    file.write_text(document.to_xml(secure=True))
    virsh(daemon, "define", "--validate", str(file))
    try:
        printed = virsh(daemon, "dumpxml", "--security-info", "--inactive", document.name)
    finally:
        virsh(daemon, "undefine", "--nvram", document.name)
    ours = Domain.from_xml(printed)
    ours.check(printed)
    assert ours.to_xml(secure=True).strip() == printed.strip()


def test_its_capabilities(daemon: Libvirtd) -> None:
    assert Capabilities.from_xml(virsh(daemon, "capabilities")).host.cpu.arch
    offer = DomainCapabilities.from_xml(virsh(daemon, "domcapabilities", "--virttype", "qemu"))
    assert offer.domain == "qemu"


@pytest.mark.parametrize("install", ["--import", "--cdrom"])
def test_virt_install_documents_are_read_as_they_are(daemon: Libvirtd, install: str, tmp_path: Path) -> None:
    if shutil.which("virt-install") is None:
        pytest.skip("virt-install is not installed (apt-get install virtinst)")
    medium = tmp_path / "medium.iso"
    medium.write_bytes(b"\0" * 65536)
    how = ["--import"] if install == "--import" else ["--cdrom", str(medium)]
    answer = subprocess.run(
        ["virt-install", "--connect", daemon.uri, "--name", "vi", "--memory", "512", "--vcpus", "2", "--disk", "none",
         "--network", "user", "--virt-type", "qemu", "--osinfo", "linux2022", "--print-step", "1", *how],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    document = Domain.from_xml(answer.stdout)
    document.check(answer.stdout)
    assert document.metadata is not None and "libosinfo" in document.metadata.content
