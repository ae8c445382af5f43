"""Disks on other machines, SCSI devices passed through, and limits, as a Linux guest and the servers see them."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from corral.client import connect
from corral.client.domain import Domain
from corral.client.host import Host
from corral.errors import CorralError
from corral.guests import tiny
from labs import corrald, tgt

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

INITIATOR = "iqn.2026-01.org.corral:tested"


@dataclass(frozen=True)
class Guest:
    """The tiny guest, the daemon's client, an iSCSI target with three LUNs, and where its images are."""

    host: Host
    vm: Domain
    target: tgt.Target
    directory: Path

    async def sh(self, script: str) -> str:
        result = await self.vm.exec(["sh", "-c", script], agent_timeout=60)
        return (result.stdout + result.stderr).decode(errors="replace").strip()

    async def appeared(self, name: str) -> None:
        await self.until(f"ls /sys/block/{name} >/dev/null 2>&1 && echo yes", "yes")

    async def gone(self, name: str) -> None:
        await self.until(f"ls /sys/block/{name} >/dev/null 2>&1 || echo yes", "yes")

    async def until(self, script: str, wanted: str) -> None:
        end = time.monotonic() + 30
        while (said := await self.sh(script)) != wanted:
            assert time.monotonic() < end, f"{script}: {said}"
            await asyncio.sleep(0.05)

    def lun(self, number: int, device: str, target: str, bus: str = "scsi", more: str = "") -> str:
        return (
            f"<disk type='network' device='{device}'><driver name='qemu' type='raw'/>"
            f"<source protocol='iscsi' name='{tgt.IQN}/{number}'><host name='127.0.0.1' port='{self.target.port}'/>"
            f"<initiator><iqn name='{INITIATOR}'/></initiator></source>"
            f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    if reason := tgt.missing():
        pytest.skip(reason)
    built = await tiny.build()
    ports = "<controller type='pci' model='pcie-root-port'/>" * 10 + "<controller type='scsi' model='virtio-scsi'/>"
    with tempfile.TemporaryDirectory(prefix="cp", dir="/var/tmp") as name, corrald.running(Path(name)) as daemon:
        directory = Path(name)
        directory.chmod(0o755)  # noqa: ASYNC240
        images = [directory / f"lun{number}.img" for number in (1, 2, 3)]
        for number, image in enumerate(images, 1):
            image.write_bytes(f"LUN-{number}".encode().ljust(8 << 20, b"\0"))
        with tgt.running(*images) as target:
            xml = tiny.document("passed", tiny=built, cpus=2).to_xml()
            async with connect(daemon.uri) as host:
                found = Guest(host, None, target, directory)  # type: ignore[arg-type]
                first = found.lun(1, "lun", "sda")
                vm = await host.define(xml.replace("<devices>", f"<devices>{ports}{first}"))
                await vm.start()
                await vm.wait_for_agent(timeout=120)
                yield Guest(host, vm, target, directory)
                await vm.destroy()


INQUIRY = "cd /sys/block/{0}/device && cat vendor model && dd if=vpd_pg80 bs=1 skip=4 2>/dev/null"


async def test_inquiry_is_answered_by_the_target(guest: Guest) -> None:
    """Vendor, product and serial number are the target's own, from a start and from a plug; writes arrive there."""
    for name, number in (("sda", 1), ("sdb", 2)):
        if number == 2:
            await guest.vm.attach(guest.lun(2, "lun", "sdb"))
        await guest.appeared(name)
        vendor, product, serial = (line.strip() for line in (await guest.sh(INQUIRY.format(name))).splitlines())
        assert (vendor, product, serial) == (tgt.VENDOR, tgt.PRODUCT, f"SERIAL-{number}")
        assert await guest.sh(f"dd if=/dev/{name} bs=5 count=1 2>/dev/null") == f"LUN-{number}"
    await guest.sh("echo WRITTEN | dd of=/dev/sdb bs=512 conv=sync oflag=direct")
    assert (guest.directory / "lun2.img").read_bytes()[:7] == b"WRITTEN"
    assert INITIATOR in guest.target.admin("--op", "show", "--mode", "conn", "--tid", "1")
    await guest.vm.detach(guest.lun(2, "lun", "sdb"))
    await guest.gone("sdb")


async def test_a_lun_as_a_plain_disk(guest: Guest) -> None:
    """The same LUN behind QEMU's own disk: INQUIRY is QEMU's, the bytes are the target's; nobody else may have it."""
    await guest.vm.attach(guest.lun(3, "disk", "vda", "virtio", "<serial>ours</serial>"))
    await guest.appeared("vda")
    assert await guest.sh("cat /sys/block/vda/serial; dd if=/dev/vda bs=5 count=1 2>/dev/null") == "oursLUN-3"
    other = "<domain type='qemu'><name>other</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>"
    other += f"<devices>{guest.lun(3, 'disk', 'vda', 'virtio')}</devices></domain>"
    with pytest.raises(CorralError, match="in use by running domain 'passed'"):
        await guest.host.create(other)
    await guest.vm.detach("<disk><target dev='vda'/></disk>")
    await guest.gone("vda")


async def test_a_target_that_is_not_there(guest: Guest) -> None:
    before = await guest.vm.xml()
    wrong = guest.lun(2, "lun", "sdb").replace(f"{tgt.IQN}/2", f"{tgt.IQN}/9")
    with pytest.raises(CorralError, match="iSCSI"):
        await guest.vm.attach(wrong)
    assert await guest.vm.xml() == before


@contextmanager
def nbd(image: Path, kind: str) -> Iterator[Path]:
    """qemu-nbd with that image on a UNIX socket, ended with the block."""
    place = image.with_suffix(".sock")
    command = ["qemu-nbd", "--format", kind, "--socket", str(place), "--persistent", "--export-name", "exp", str(image)]
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 20
        while not place.exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        place.chmod(0o666)
        yield place
    finally:
        process.kill()
        process.wait(10)


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


async def test_nbd(guest: Guest) -> None:
    """A qcow2 image that a real NBD server opens, as a raw disk: read and written."""
    image = guest.directory / "n.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(image), "4M")
    with nbd(image, "qcow2") as place:
        disk = (
            "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='exp'>"
            f"<host transport='unix' socket='{place}'/></source><target dev='vdb' bus='virtio'/></disk>"
        )
        await guest.vm.attach(disk)
        await guest.appeared("vda")
        await guest.sh("echo OVER-NBD | dd of=/dev/vda bs=512 conv=sync oflag=direct")
        await guest.vm.detach(disk)
        await guest.gone("vda")
    assert "4f 56 45 52 2d 4e 42 44" in run("qemu-io", "-f", "qcow2", "-c", "read -v 0 16", str(image))


async def test_limits(guest: Guest) -> None:
    """A disk is as fast as was said: limited as it is plugged, faster at once when the limit is lifted."""
    image = guest.directory / "slow.img"
    image.write_bytes(bytes(16 << 20))
    rate = 1 << 20
    disk = (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>"
        "<target dev='vdc' bus='virtio'/>"
        f"<iotune><total_bytes_sec>{rate}</total_bytes_sec></iotune></disk>"
    )
    await guest.vm.attach(disk)
    await guest.appeared("vda")
    assert await _rate(guest, "vda", 3) < 1.3 * rate
    limits = {"total_bytes_sec": 100 * rate}
    await guest.vm.limit_disk("vdc", **limits)
    assert (await guest.vm.disk_limits("vdc"))["total_bytes_sec"] == 100 * rate
    assert await _rate(guest, "vda", 8) > 3 * rate
    await guest.vm.detach(disk)
    await guest.gone("vda")


async def _rate(guest: Guest, name: str, megabytes: int) -> float:
    """Bytes a second that the guest reads, by its own clock, past its cache and past the first burst."""
    read = f"dd if=/dev/{name} of=/dev/null bs=64k iflag=direct"
    script = (
        f"{read} count=16 2>/dev/null; a=$(cut -d' ' -f1 /proc/uptime); {read} count={megabytes * 16} 2>/dev/null; "
        "echo $a $(cut -d' ' -f1 /proc/uptime)"
    )
    begin, end = map(float, (await guest.sh(script)).split())
    return (megabytes << 20) / max(end - begin, 0.01)


async def test_a_transient_disk(guest: Guest) -> None:
    """What is written is read again while the machine runs, and is nowhere afterwards."""
    image = guest.directory / "kept.img"
    image.write_bytes(b"KEPT".ljust(1 << 20, b"\0"))
    disk = (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>"
        "<target dev='sdq' bus='scsi'/><transient/></disk>"
    )
    before = sorted(guest.directory.iterdir())
    await guest.vm.attach(disk)
    await guest.appeared("sdb")
    await guest.sh("echo LOST | dd of=/dev/sdb bs=512 conv=sync oflag=direct")
    assert await guest.sh("dd if=/dev/sdb bs=4 count=1 iflag=fullblock 2>/dev/null") == "LOST"
    assert image.read_bytes()[:4] == b"KEPT" and sorted(guest.directory.iterdir()) == before
    await guest.vm.detach(disk)
    await guest.gone("sdb")
    await guest.vm.attach(disk)
    await guest.appeared("sdb")
    assert await guest.sh("dd if=/dev/sdb bs=4 count=1 2>/dev/null") == "KEPT"
    await guest.vm.detach(disk)
    await guest.gone("sdb")
