"""Disks on other machines, SCSI devices passed through, and limits, as a Linux guest and the servers see them."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from corral.client import connect
from corral.client.domain import Domain
from corral.client.events import BlockThreshold, IOError
from corral.client.host import Host
from corral.errors import CorralError
from corral.guests import tiny
from labs import corrald, nbd, tgt

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
        """Wait for the disk, and for its file, to which nothing is to be written before it is the disk's."""
        await self.until(f"[ -e /sys/block/{name} ] && [ -b /dev/{name} ] && echo yes", "yes")

    async def gone(self, name: str) -> None:
        await self.until(f"ls /sys/block/{name} >/dev/null 2>&1 || echo yes", "yes")

    async def until(self, script: str, wanted: str) -> None:
        end = time.monotonic() + 60
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
    driver = "<driver queues='2' cmd_per_lun='16' max_sectors='1024' iothread='1'/>"
    ports = "<controller type='pci' model='pcie-root-port'/>" * 10
    ports += f"<controller type='scsi' model='virtio-scsi'>{driver}</controller>"
    with tempfile.TemporaryDirectory(prefix="cp", dir="/var/tmp") as name, corrald.running(Path(name)) as daemon:
        directory = Path(name)
        directory.chmod(0o755)  # noqa: ASYNC240
        images = [directory / f"lun{number}.img" for number in (1, 2, 3)]
        for number, image in enumerate(images, 1):
            image.write_bytes(f"LUN-{number}".encode().ljust(8 << 20, b"\0"))
        with tgt.running(*images) as target:
            xml = tiny.document("passed", tiny=built, cpus=2).to_xml()
            xml = xml.replace("  <os>", "  <iothreads>2</iothreads><os>", 1)
            async with connect(daemon.uri) as host:
                found = Guest(host, None, target, directory)  # type: ignore[arg-type]
                first = found.lun(1, "lun", "sda").replace("<disk ", "<disk rawio='yes' ")
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


async def test_a_generic_device(guest: Guest) -> None:
    """A LUN as a host device: INQUIRY is the target's; two machines do not have it at once; it comes and goes."""
    device = (
        f"<hostdev mode='subsystem' type='scsi'><source protocol='iscsi' name='{tgt.IQN}/2'>"
        f"<host name='127.0.0.1' port='{guest.target.port}'/></source></hostdev>"
    )
    await guest.vm.attach(device)
    await guest.appeared("sdb")
    said = [line.strip() for line in (await guest.sh(INQUIRY.format("sdb"))).splitlines()]
    assert said == [tgt.VENDOR, tgt.PRODUCT, "SERIAL-2"]
    assert "<hostdev mode='subsystem' type='scsi' managed='no'>" in await guest.vm.xml(inactive=True)
    with pytest.raises(CorralError, match="in use by running domain 'passed'"):
        await guest.host.create(
            "<domain type='qemu'><name>other</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>"
            f"<devices><controller type='scsi' model='virtio-scsi'/>{device}</devices></domain>"
        )
    await guest.vm.detach(device)
    await guest.gone("sdb")
    assert "hostdev" not in await guest.vm.xml() + await guest.vm.xml(inactive=True)
    await guest.vm.attach(guest.lun(2, "lun", "sdb"))  # it is free again
    await guest.appeared("sdb")
    await guest.vm.detach(guest.lun(2, "lun", "sdb"))
    await guest.gone("sdb")


async def test_a_password(guest: Guest) -> None:
    """A target that wants one (CHAP): the secret's, never shown; without the right one nothing is plugged."""
    image = guest.directory / "guarded.img"
    image.write_bytes(b"GUARDED".ljust(8 << 20, b"\0"))
    name = await asyncio.to_thread(guest.target.add_guarded, image, "corral", "correct-horse")
    disk = (
        f"<disk type='network' device='lun'><source protocol='iscsi' name='{name}/1'>"
        f"<host name='127.0.0.1' port='{guest.target.port}'/>"
        "<auth username='corral'><secret type='iscsi' usage='guarded'/></auth></source>"
        "<target dev='sdg' bus='scsi'/></disk>"
    )
    with pytest.raises(CorralError, match="no secret with matching usage 'guarded'"):
        await guest.vm.attach(disk)
    xml = "<secret><usage type='iscsi'><target>guarded</target></usage></secret>"
    secret = (await guest.host.call("secret_define_xml", xml=xml, flags=0)).secret
    with pytest.raises(CorralError, match="does not have a value"):
        await guest.vm.attach(disk)
    await guest.host.call("secret_set_value", secret=secret, value=b"wrong-password", flags=0)
    with pytest.raises(CorralError, match="iSCSI"):
        await guest.vm.attach(disk)
    await guest.host.call("secret_set_value", secret=secret, value=b"correct-horse", flags=0)
    await guest.vm.attach(disk)
    await guest.appeared("sdb")
    assert await guest.sh("dd if=/dev/sdb bs=7 count=1 2>/dev/null") == "GUARDED"
    assert "correct-horse" not in await guest.vm.xml() and not list(guest.directory.glob("run/*/*.secret"))
    await guest.vm.detach(disk)
    await guest.gone("sdb")
    await guest.host.call("secret_undefine", secret=secret)


async def test_raw_io(guest: Guest) -> None:
    """A machine whose disk asks for it may send any SCSI command, and is nobody all the same."""
    (pid,) = corrald.machines(guest.directory)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())  # noqa: ASYNC240
    if status["Uid"].split()[1] == "0":
        pytest.skip("there is no account for QEMU on this host")
    assert int(status["CapEff"], 16) == 1 << 17  # CAP_SYS_RAWIO
    assert status["NoNewPrivs"].strip() == "1" and "rawio='yes'" in await guest.vm.xml()


async def test_a_target_that_is_not_there(guest: Guest) -> None:
    before = await guest.vm.xml()
    wrong = guest.lun(2, "lun", "sdb").replace(f"{tgt.IQN}/2", f"{tgt.IQN}/9")
    with pytest.raises(CorralError, match="iSCSI"):
        await guest.vm.attach(wrong)
    assert await guest.vm.xml() == before


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


async def test_nbd(guest: Guest) -> None:
    """A qcow2 image that a real NBD server opens, as a raw disk: read and written."""
    image = guest.directory / "n.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(image), "4M")
    with nbd.serving(image, "qcow2") as place:
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
    await guest.vm.limit_disk("vdc", {"total_bytes_sec": 100 * rate})
    assert (await guest.vm.disk_limits("vdc"))["total_bytes_sec"] == 100 * rate
    rates = [await _rate(guest, "vda", 8)]
    while rates[-1] <= 1.5 * rate and len(rates) < 4:  # the machine itself may be slow at times
        rates.append(await _rate(guest, "vda", 8))
    assert rates[-1] > 1.5 * rate, rates
    await guest.host.call("domain_set_block_threshold", dom=guest.vm.reference, dev="vdc", threshold=1 << 20, flags=0)
    async with guest.vm.events(BlockThreshold) as events, asyncio.timeout(60):
        await guest.sh("dd if=/dev/zero of=/dev/vda bs=64k seek=20 count=1 oflag=direct")
        event = await anext(events)
    assert isinstance(event, BlockThreshold) and (event.disk, event.threshold) == ("vdc", 1 << 20)
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


def plain(path: Path, target: str, bus: str, driver: str = "type='raw'", more: str = "", shown: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' {driver}/><source file='{path}'/>"
        f"<target dev='{target}' bus='{bus}' {shown}/>{more}</disk>"
    )


async def test_what_a_disk_says_of_itself(guest: Guest) -> None:
    """Names, numbers, rotation, caches and queues of disks and of the controller, as the guest lists them."""
    image = guest.directory / "said.img"
    image.write_bytes(bytes(1 << 20))
    host = "cd /sys/block/sda; cat $(readlink -f device | sed 's,/target.*,,')/scsi_host/*/cmd_per_lun"
    controller = f"{host}; ls mq; cat queue/max_hw_sectors_kb"
    assert (await guest.sh(controller)).split() == ["16", "0", "1", "512"]
    names = "<serial>S-1</serial><wwn>5000c50015ea71ad</wwn><vendor>ACME</vendor><product>ROCKET DISK</product>"
    cases = {
        "type='raw' cache='writethrough'": ("rotation_rate='1'", "0", "write through"),
        "type='raw' cache='writeback'": ("rotation_rate='7200'", "1", "write back"),
    }
    for driver, (rate, rotational, cache) in cases.items():
        disk = plain(image, "sdr", "scsi", driver, names, f"{rate} removable='on'")
        await guest.vm.attach(disk)
        await guest.appeared("sdb")
        place = "/sys/block/sdb"
        script = f"cd {place}; cat device/vendor device/model device/wwid removable queue/rotational queue/write_cache"
        said = [line.strip() for line in (await guest.sh(script)).splitlines()]
        assert said == ["ACME", "ROCKET DISK", "naa.5000c50015ea71ad", "1", rotational, cache]
        assert "S-1" in await guest.sh(f"dd if={place}/device/vpd_pg80 bs=1 skip=4 2>/dev/null")
        await guest.vm.detach(disk)
        await guest.gone("sdb")
    fast = plain(image, "vdr", "virtio", "type='raw' queues='2' queue_size='128' iothread='2'", "<serial>V-1</serial>")
    await guest.vm.attach(fast)
    await guest.appeared("vda")
    assert (await guest.sh("ls /sys/block/vda/mq; cat /sys/block/vda/serial")).split() == ["0", "1", "V-1"]
    await guest.vm.detach(fast)
    await guest.gone("vda")


async def test_space_given_back(guest: Guest) -> None:
    """What the guest discards, or overwrites with zeroes where that is looked for, takes no room any more."""
    image = guest.directory / "discarded.img"
    full = 4 << 20
    for driver, command in (
        ("type='raw' discard='unmap'", "blkdiscard /dev/sdb"),
        ("type='raw' discard='unmap' detect_zeroes='unmap'", "dd if=/dev/zero of=/dev/sdb bs=1M count=4 oflag=direct"),
    ):
        image.write_bytes(b"x" * full)
        assert image.stat().st_blocks * 512 >= full
        disk = plain(image, "sds", "scsi", driver)
        await guest.vm.attach(disk)
        await guest.appeared("sdb")
        await guest.sh(f"{command} && sync")
        assert image.stat().st_blocks * 512 < full // 4, driver
        await guest.vm.detach(disk)
        await guest.gone("sdb")


async def test_copied_as_it_is_read(guest: Guest) -> None:
    """An image over another has what the guest has read from the other, if told so; an explicit chain is followed."""
    base, top = guest.directory / "base.img", guest.directory / "top.qcow2"
    base.write_bytes(b"BELOW" * ((4 << 20) // 5))
    run("qemu-img", "create", "-q", "-f", "qcow2", str(top), str(base.stat().st_size // 512 * 512))
    chain = f"<backingStore type='file'><format type='raw'/><source file='{base}'/><backingStore/></backingStore>"
    sizes = []
    for more in ("", " copy_on_read='on'"):
        disk = plain(top, "sdt", "scsi", f"type='qcow2'{more}", chain)
        await guest.vm.attach(disk)
        await guest.appeared("sdb")
        assert await guest.sh("dd if=/dev/sdb of=/dev/null bs=1M; dd if=/dev/sdb bs=5 count=1 2>/dev/null")
        assert (await guest.sh("dd if=/dev/sdb bs=5 count=1 2>/dev/null")) == "BELOW"
        await guest.vm.detach(disk)
        await guest.gone("sdb")
        sizes.append(top.stat().st_blocks * 512)
    assert sizes[0] < 1 << 20 and sizes[1] > 3 << 20


async def test_a_full_file_system(guest: Guest) -> None:
    """The guest pauses when its disk's file cannot grow, and goes on when there is room: nothing is lost."""
    place = guest.directory / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "corral-test", str(place))
    try:
        image = place / "grows.img"
        with image.open("wb") as file:
            file.truncate(8 << 20)
        disk = plain(image, "sdu", "scsi", "type='raw'")
        await guest.vm.attach(disk)
        await guest.appeared("sdb")
        async with guest.vm.events(IOError) as events, asyncio.timeout(60):
            write = "dd if=/dev/urandom of=/tmp/r bs=1M count=4; dd if=/tmp/r of=/dev/sdb; sync; touch /tmp/written"
            # The agent may be paused with its guest before it has answered: it does when they go on.
            shell = {"path": "/bin/sh", "arg": ["-c", f"({write}) >/dev/null 2>&1 &"]}
            begun = asyncio.create_task(guest.vm.agent("guest-exec", shell, timeout=60))
            event = await anext(events)
        assert isinstance(event, IOError) and (event.reason, event.path) == ("enospc", str(image))
        state = await guest.vm.wait_for("paused")
        assert state.reason == "ioerror"
        errors = await guest.host.call("domain_get_disk_errors", dom=guest.vm.reference, maxerrors=16, flags=0)
        assert [(each.disk, each.error) for each in errors.errors] == [("sdu", 2)]
        run("mount", "-o", "remount,size=16m", str(place))
        await guest.vm.resume()
        await begun
        await guest.until("ls /tmp/written 2>/dev/null", "/tmp/written")
        read = "dd if=/dev/sdb bs=1M count=4 iflag=direct 2>/dev/null"
        assert await guest.sh(f"sync; {read} | cmp - /tmp/r && echo same") == "same"
        await guest.vm.detach(disk)
        await guest.gone("sdb")
    finally:
        run("umount", "-l", str(place))
