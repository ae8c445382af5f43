"""Root's daemon runs QEMU as an account that may open nothing, and the guest has its files all the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.hypervisor.life import document, opened
from tests.waiting import until

from corral.constants import DomainModificationImpact
from corral.errors import CorralError, HostError, InternalError, ResourceBusy
from corral.host import account as accounts
from corral.hypervisor.domain import Domain
from corral.hypervisor.hotplug import hotplug
from corral.hypervisor.hypervisor import Hypervisor

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run QEMU as somebody else"),
    pytest.mark.skipif(os.geteuid() == 0 and accounts.choose() is None, reason="no account for QEMU (make setup)"),
]

#: Writes itself over the disk's second sector and halts: mov ax,0301h; bx,7C00h; cx,2; dx,80h; int 13h; hlt; jmp.
BOOT = bytes.fromhex("b80103 bb007c b90200 ba8000 cd13 f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"
DISK = (
    "<disk type='file'><driver type='{format}'{more}/><source file='{path}'/><target dev='{dev}' bus='{bus}'/></disk>"
)


@pytest.fixture
async def hypervisor(directory: Path) -> AsyncIterator[Hypervisor]:
    async with opened(directory) as (found, _):
        yield found


def image(path: Path, content: bytes = b"") -> Path:
    path.write_bytes(content.ljust(1 << 20, b"\0"))
    path.chmod(0o600)
    return path


def overlay(base: Path, top: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top], check=True)


def disk(path: Path, *, dev: str = "vda", bus: str = "virtio", format: str = "raw", more: str = "") -> str:
    return DISK.format(path=path, dev=dev, bus=bus, format=format, more=more)


def writable(path: Path) -> bool:
    """Whether another program that heeds QEMU's locks may write the image."""
    done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", str(path)], capture_output=True, text=True)
    assert done.returncode == 0 or 'Failed to get "write" lock' in done.stderr, done.stderr
    return done.returncode == 0


def holder(path: Path) -> subprocess.Popen[bytes]:
    """A QEMU that is not ours, with a guest that may write the image; it has the image open when this returns."""
    drive = f"file={path},format=raw,if=virtio"
    command = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-machine", "q35", "-drive", drive]
    process = subprocess.Popen([*command, "-qmp", "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b'{"execute":"qmp_capabilities"}')
    process.stdin.flush()
    while b"return" not in (line := process.stdout.readline()):  # it answers once its devices are there
        assert line, "QEMU ended"
    return process


def status(domain: Domain) -> dict[str, str]:
    """What the kernel says of the domain's process."""
    assert domain.run is not None and domain.run.process is not None
    text = Path(f"/proc/{domain.run.process.pid}/status").read_text()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


async def test_the_process_is_nobody_and_the_guest_writes_roots_image(hypervisor: Hypervisor, directory: Path) -> None:
    account = hypervisor.account
    assert account is not None and account.name in accounts.NAMES
    path = image(directory / "disk.raw", BOOT)
    domain = await hypervisor.define(document("guest", devices=disk(path)))
    await domain.create()
    known = status(domain)
    assert known["Uid"].split() == [str(account.uid)] * 4
    assert known["Gid"].split() == [str(account.gid)] * 4
    assert known["Groups"].split() == [str(group) for group in account.groups]
    assert known["Seccomp"] == "2" and int(known["CapEff"], 16) == int(known["CapPrm"], 16) == 0
    assert domain.run is not None
    own = domain.run.directory.stat()
    assert (own.st_uid, own.st_mode & 0o777) == (account.uid, 0o700)
    await until(lambda: path.read_bytes()[512:1024] == BOOT, seconds=60)
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)
    assert f"<source file='{path}'" in domain.xml() and "fdset" not in domain.xml()
    assert domain.run.log.stat().st_uid == 0
    await domain.destroy()


async def test_a_second_guest_on_the_image_is_refused(hypervisor: Hypervisor, directory: Path) -> None:
    path = image(directory / "disk.raw")
    first = await hypervisor.define(document("first", devices=disk(path)))
    second = await hypervisor.define(document("second", devices=disk(path)))
    await first.create()
    with pytest.raises(ResourceBusy, match=f"'{path}' of domain 'second' is in use by running domain 'first'"):
        await second.create()
    await first.destroy()
    await second.create()
    await second.destroy()


async def test_an_image_that_somebody_elses_qemu_has_is_refused(hypervisor: Hypervisor, directory: Path) -> None:
    path = image(directory / "disk.raw")
    domain = await hypervisor.define(document("late", devices=disk(path)))
    other = holder(path)
    try:
        assert not writable(path)
        with pytest.raises(InternalError, match="Failed to get") as refusal:
            await domain.create()
    finally:
        other.kill()
        other.communicate()
    assert str(path) in str(refusal.value) and "fdset" not in str(refusal.value)
    await domain.create()
    assert not writable(path), "our lock is one that others see"
    await domain.destroy()
    assert writable(path)


@pytest.mark.parametrize("cache", ["none", "writeback", "directsync"])
async def test_backing_chains_and_cache_modes(hypervisor: Hypervisor, directory: Path, cache: str) -> None:
    base, top = image(directory / "base.raw", BOOT), directory / "top.qcow2"
    overlay(base, top)
    devices = disk(top, format="qcow2", more=f" cache='{cache}'")
    domain = await hypervisor.define(document("chain", devices=devices))
    try:
        await domain.create()
    except HostError as error:
        assert "direct I/O" in str(error), error
        pytest.skip("no direct I/O where temporary files are")
    assert base.read_bytes()[512:1024] == bytes(512)
    await domain.destroy()


async def test_plug_and_unplug(hypervisor: Hypervisor, directory: Path) -> None:
    controller = "<controller type='scsi' index='0' model='virtio-scsi'/>"
    domain = await hypervisor.define(document("plugs", devices=controller))
    await domain.create()
    assert domain.run is not None and domain.run.machine is not None
    monitor = domain.run.machine.monitor
    for _ in range(2):
        path = image(directory / "more.raw")
        shared = disk(path, dev="sda", bus="scsi").replace("</disk>", "<shareable/></disk>")
        await hotplug.attach(domain, shared, DomainModificationImpact.LIVE)
        (files,) = await monitor.execute("query-fdsets")
        assert [each["opaque"] for each in files["fds"]] == [str(path)]
        node = f"libvirt-{files['fdset-id']}-storage"
        await monitor.human(f'qemu-io {node} "write -P 0x61 0 512"')
        assert path.read_bytes()[:512] == b"a" * 512
        await hotplug.detach(domain, shared, DomainModificationImpact.LIVE)
        assert await monitor.execute("query-fdsets") == []
    missing = disk(directory / "none.raw", dev="sda", bus="scsi")
    with pytest.raises(CorralError, match=r"none\.raw"):
        await hotplug.attach(domain, missing, DomainModificationImpact.LIVE)
    await domain.destroy()


async def test_a_kernel_that_only_root_may_read(hypervisor: Hypervisor, directory: Path) -> None:
    header = bytearray(1 << 16)
    header[0x1F1], header[0x202:0x208], header[0x22C:0x230] = 4, b"HdrS\x0c\x02", b"\xff\xff\xff\x37"
    kernel, initrd = image(directory / "vmlinuz", bytes(header)), image(directory / "initrd")
    told = f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd>"
    text = document("direct").replace("</type></os>", f"</type>{told}</os>")
    domain = await hypervisor.define(text)
    await domain.create()
    assert f"<kernel>{kernel}</kernel>" in domain.xml()
    await domain.destroy()
    kernel.unlink()
    with pytest.raises(HostError, match=f"cannot read '{kernel}' for QEMU: No such file"):
        await domain.create()


async def test_what_a_serial_port_says_goes_to_a_file_of_roots(hypervisor: Hypervisor, directory: Path) -> None:
    output = directory / "serial.txt"
    text = document("writes").replace(
        "<serial type='pty'/>", f"<serial type='file'><source path='{output}'/></serial><serial type='pty'/>"
    )
    domain = await hypervisor.define(text)
    await domain.create()
    assert output.stat().st_uid == 0
    await domain.destroy()


def test_reading_rights_are_told_by_owner_group_and_mode(tmp_path: Path) -> None:
    account = accounts.Account("somebody", 64055, 64055, (64056,))
    tmp_path.chmod(0o755)
    public = [place for place in tmp_path.parents if not place.stat().st_mode & 0o001]
    file = image(tmp_path / "file")
    assert not account.may(file, os.R_OK)
    os.chown(file, -1, 64056)
    file.chmod(0o640)
    assert account.may(file, os.R_OK) == (not public)
    assert not account.may(file, os.R_OK | os.W_OK)
    assert account.may(Path("/dev/null"), os.R_OK | os.W_OK)
    assert not account.may(tmp_path / "none", os.R_OK)


def test_an_account_that_is_not_there() -> None:
    with pytest.raises(HostError, match="cannot run QEMU as user 'nobody-of-that-name': there is no such user"):
        accounts.choose("nobody-of-that-name")
    assert accounts.choose("root") is None
