"""Disks of every bus in one guest, as it lists them: NVMe, SATA, SCSI by target and LUN, limits, errors, formats."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.guests.inside import Inside

from corral.client import connect
from corral.client.domain import Domain
from corral.client.events import IOError
from corral.client.host import Host
from corral.errors import CorralError, OperationFailed, OperationUnsupported
from corral.guests import tiny
from labs import corrald, nbd

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

MIB = 1 << 20
RATE = 2 * MIB
READ_FAULT, WRITE_FAULT = 4 * MIB, 6 * MIB
QCOW2_MAGIC = b"QFI\xfb"


class Guest(Inside):
    """The guest, where its images are, and which process it is."""

    def __init__(self, host: Host, vm: Domain, directory: Path, pid: int) -> None:
        super().__init__(host, vm)
        self.directory, self.pid = directory, pid

    async def ask(self, command: str, **arguments: object) -> object:
        """QEMU's own word."""
        message = json.dumps({"execute": command, "arguments": arguments})
        answer = await self.host.call("qemu.domain_monitor_command", dom=self.vm.reference, cmd=message, flags=0)
        return json.loads(answer.result)["return"]

    async def property(self, device: str, name: str) -> object:
        return await self.ask("qom-get", path=f"/machine/peripheral/{device}", property=name)

    async def named(self, serial: str) -> str:
        """The guest's name for the virtio disk with that serial number."""
        return (await self.sh(f"grep -lx {serial} /sys/block/vd*/serial")).split("/")[3]


def disk(source: str, target: str, bus: str, driver: str = "type='raw'", more: str = "", kind: str = "file") -> str:
    return (
        f"<disk type='{kind}' device='disk'><driver name='qemu' {driver}/><source {source}"
        f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
    )


def image(directory: Path, name: str, content: bytes = b"", size: int = MIB) -> str:
    path = directory / name
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
    return f"file='{path}'/>"


def qcow2(directory: Path, name: str, size: str) -> str:
    path = directory / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True, timeout=100)
    return f"file='{path}'/>"


def remote(socket: Path) -> str:
    return f"protocol='nbd' name='{nbd.EXPORT}'><host transport='unix' socket='{socket}'/></source>"


POLICIES = {
    "stop": [nbd.Fault("read", READ_FAULT, once=True), nbd.Fault("write", WRITE_FAULT, once=True)],
    "report": [nbd.Fault("read", READ_FAULT), nbd.Fault("write", WRITE_FAULT)],
    "ignore": [nbd.Fault("write", WRITE_FAULT)],
}
"""Error policy → what fails."""

DRIVES = {
    "nvme": "<controller type='nvme'><serial>NVME0001</serial></controller>",
    "scsi": "<controller type='scsi' model='virtio-scsi'><driver iothread='1'/></controller>",
    "ports": "<controller type='pci' model='pcie-root-port'/>" * 16,
}


def devices(directory: Path, sockets: dict[str, Path]) -> str:
    """One document's worth of disks."""
    found = list(DRIVES.values())
    found.append(
        disk(image(directory, "n1.img", b"NVME-ONE", 4 * MIB), "nvme0n1", "nvme", "type='raw' discard='unmap'")
    )
    found.append(disk(qcow2(directory, "n2.qcow2", "8M"), "nvme0n2", "nvme", "type='qcow2' cache='writethrough'"))
    found[-1] = found[-1].replace("</disk>", "<readonly/></disk>")
    names = "<serial>SATA-1</serial><product>SPINNING RUST</product><blockio physical_block_size='4096'/>"
    found.append(disk(image(directory, "ata.img"), "sdb", "sata", more=names))
    address = "<address type='drive' controller='0' bus='0' target='3' unit='5'/>"
    found.append(disk(image(directory, "lun.img"), "sdc", "scsi", more=f"<serial>LUN-5</serial>{address}"))
    guest_made = image(directory, "made.img", QCOW2_MAGIC + (3).to_bytes(4, "big"), 2 * MIB)
    found.append(disk(guest_made, "vda", "virtio", driver="", more="<serial>MADE</serial>"))
    found.append(disk(qcow2(directory, "big.qcow2", "512G"), "vdb", "virtio", "type='qcow2' iothread='2'"))
    thrown = "<serial>THROWN</serial><transient shareBacking='yes'/>"
    kept = image(directory, "kept.img", b"KEPT")
    found.append(disk(kept, "vdc", "virtio", "type='raw' cache='none' discard='unmap'", thrown))
    for number, (policy, socket) in enumerate(sockets.items()):
        driver, serial = f"type='raw' error_policy='{policy}'", f"<serial>{policy.upper()}</serial>"
        found.append(disk(remote(socket), f"vd{'defg'[number]}", "virtio", driver, serial, "network"))
    for target in ("vdh", "vdi"):
        limit = f"<iotune><total_bytes_sec>{RATE}</total_bytes_sec><group_name>both</group_name></iotune>"
        limit += f"<serial>{target.upper()}</serial>"
        found.append(disk(image(directory, f"{target}.img", size=8 * MIB), target, "virtio", "type='raw'", limit))
    for target in ("vdj", "vdk"):
        limit = f"<throttlefilters><throttlefilter group='slow'/></throttlefilters><serial>{target.upper()}</serial>"
        found.append(disk(image(directory, f"{target}.img", size=8 * MIB), target, "virtio", "type='raw'", limit))
    return "".join(found)


SLOW = f"""<throttlegroups><throttlegroup><total_bytes_sec>{RATE}</total_bytes_sec>
<group_name>slow</group_name></throttlegroup></throttlegroups>"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    built = await tiny.build()
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cq", dir="/var/tmp")))
        directory.chmod(0o755)  # noqa: ASYNC240
        daemon = stack.enter_context(corrald.running(directory))
        sockets = {}
        for policy, faults in POLICIES.items():
            path = directory / f"{policy}.img"
            path.write_bytes(b"x" * 8 * MIB)
            sockets[policy] = stack.enter_context(nbd.serving(path, "raw", faults))
        xml = tiny.document("drives", tiny=built, cpus=2).to_xml()
        xml = xml.replace("  <os>", f"  <iothreads>2</iothreads>{SLOW}<os>", 1)
        host = await stack.enter_async_context(connect(daemon.uri))
        vm = await host.define(xml.replace("<devices>", f"<devices>{devices(directory, sockets)}", 1))
        await vm.start()
        await vm.wait_for_agent(timeout=120)
        (pid,) = corrald.machines(directory)
        yield Guest(host, vm, directory, pid)
        await vm.destroy()


async def test_nvme(guest: Guest) -> None:
    """Two namespaces of one drive, whose serial number the guest reads; written, discarded, not written."""
    listed = "cd /sys/block; for d in nvme0n*; do echo $(cat $d/nsid $d/size) $d; done | sort"
    known = (await guest.until(listed, lambda said: said.count("nvme") == 2)).splitlines()
    assert [line.rpartition(" ")[0] for line in known] == ["1 8192", "2 16384"]
    first, second = (line.split()[-1] for line in known)  # Linux names them as it finds them
    assert (await guest.sh("cat /sys/class/nvme/nvme0/serial")).strip() == "NVME0001"
    assert await guest.sh(f"dd if=/dev/{first} bs=8 count=1 2>/dev/null") == "NVME-ONE"
    await guest.sh(f"echo WRITTEN | dd of=/dev/{first} bs=512 conv=sync oflag=direct")
    path = guest.directory / "n1.img"
    assert path.read_bytes()[:7] == b"WRITTEN"
    path_full = path.stat().st_blocks
    await guest.sh(f"blkdiscard /dev/{first} && sync")
    assert path.stat().st_blocks < path_full and path.read_bytes()[:7] == bytes(7)
    refused = f"dd if=/dev/zero of=/dev/{second} bs=4k count=1 oflag=direct >/dev/null 2>&1; echo $?"
    assert await guest.sh(refused) == "1", "a read-only disk takes no writes"


async def test_an_nvme_drive_is_plugged(guest: Guest) -> None:
    """A controller comes and goes; its namespaces are there from its start on, for QEMU's bus takes none later."""
    drive = "<controller type='nvme' index='1'><serial>LATE</serial></controller>"
    await guest.vm.attach(drive)
    await guest.until("cat /sys/class/nvme/nvme1/serial", lambda said: said == "LATE")
    late = disk(image(guest.directory, "late.img"), "nvme1n1", "nvme")
    with pytest.raises(OperationUnsupported, match="disk bus 'nvme' cannot be hotplugged"):
        await guest.vm.attach(late, config=False)
    with pytest.raises(OperationFailed, match="device is busy"):
        await guest.vm.detach("<controller type='nvme' index='0'/>", config=False)
    await guest.vm.detach(drive)
    await guest.until("ls /sys/class/nvme", lambda said: said == "nvme0")
    assert "LATE" not in await guest.vm.xml() and "LATE" not in await guest.vm.xml(inactive=True)


async def test_where_they_are(guest: Guest) -> None:
    """A SCSI disk by target and LUN; a SATA disk by its model and its sectors; I/O threads by QEMU's word."""
    await guest.until("ls -d /sys/class/scsi_device/*:0:3:5", lambda said: said.endswith(":0:3:5"))
    models = "cd /sys/block; for d in sd*; do echo $(cat $d/device/model $d/queue/physical_block_size); done"
    await guest.until(models, lambda said: "SPINNING RUST 4096" in said.splitlines())
    assert await guest.property("scsi0", "iothread") == "/objects/iothread1"
    assert await guest.property("virtio-disk1", "iothread") == "/objects/iothread2"


async def test_a_format_is_not_guessed(guest: Guest) -> None:
    """A raw disk into which a guest wrote the header of another format is still what the guest wrote."""
    name = await guest.named("MADE")
    assert await guest.sh(f"cat /sys/block/{name}/size; dd if=/dev/{name} bs=3 count=1 2>/dev/null") == "4096\nQFI"
    assert "type='raw'" in (await guest.vm.xml()).split("made.img")[0].rsplit("<disk ", 1)[1]


async def test_tables_of_a_large_image(guest: Guest) -> None:
    """64 MiB of tables for 512 GiB, as QEMU was told; the guest has all of it."""
    words = Path(f"/proc/{guest.pid}/cmdline").read_bytes().split(b"\0")  # noqa: ASYNC240
    nodes = [json.loads(word) for word in words if word.startswith(b'{"driver":"qcow2"')]
    assert [node["l2-cache-size"] for node in nodes if "l2-cache-size" in node] == [64 * MIB]
    assert str(512 << 21) in (await guest.sh("cat /sys/block/vd*/size")).split()


async def test_what_is_thrown_away(guest: Guest) -> None:
    """A transient disk past the host's cache: written, shared with another machine, and its file as it was."""
    name, path = await guest.named("THROWN"), guest.directory / "kept.img"
    await guest.sh(f"echo LOST | dd of=/dev/{name} bs=512 conv=sync oflag=direct")
    assert await guest.sh(f"dd if=/dev/{name} bs=4 count=1 iflag=fullblock 2>/dev/null") == "LOST"
    opened = (fd for fd in Path(f"/proc/{guest.pid}/fd").iterdir() if "(deleted)" in str(fd.readlink()))  # noqa: ASYNC240
    written = next(fd for fd in opened if _is_qcow2(fd))
    made = json.loads(_run("qemu-img", "info", "-U", "--output=json", str(written)))
    features = made["format-specific"]["data"]
    assert (made["cluster-size"], features["lazy-refcounts"], features["extended-l2"]) == (128 << 10, True, True)
    again = disk(f"file='{path}'/>", "vda", "virtio", "type='raw'", "<transient shareBacking='yes'/>")
    other = await guest.host.create(
        "<domain type='qemu'><name>other</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>"
        f"<devices>{again}</devices></domain>"
    )
    await other.destroy()
    assert path.read_bytes()[:4] == b"KEPT"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


def _is_qcow2(fd: Path) -> bool:
    with contextlib.suppress(OSError), fd.open("rb") as file:
        return file.read(4) == QCOW2_MAGIC
    return False


async def test_groups(guest: Guest) -> None:
    """Two disks of a group have its limit together, be it an iotune group or a throttle group before the disks."""
    script = ""
    for first, second in (("VDH", "VDI"), ("VDJ", "VDK")):
        pair = (await guest.named(first), await guest.named(second))
        reads = "".join(f"dd if=/dev/{name} of=/dev/null bs=64k count=32 iflag=direct 2>/dev/null & " for name in pair)
        script += f"(a=$(cut -d' ' -f1 /proc/uptime); {reads} wait; echo $a $(cut -d' ' -f1 /proc/uptime)) & "
    lines = (await guest.sh(f"{script} wait")).splitlines()
    assert len(lines) == 2
    for begin, end in (map(float, line.split()) for line in lines):
        assert end - begin > 1.5, "4 MiB at 2 MiB/s, less the first burst; either alone would take a second"


async def test_errors_are_reported(guest: Guest) -> None:
    """The guest gets the error, or does not where it is to be ignored, and runs on; the event names the disk."""
    async with guest.vm.events(IOError) as events, asyncio.timeout(60):
        for serial, read, status, alias, action in (
            ("REPORT", True, "1", "virtio-disk4", "report"),
            ("REPORT", False, "1", "virtio-disk4", "report"),
            ("IGNORE", False, "0", "virtio-disk5", "none"),
        ):
            assert await guest.sh(_access(await guest.named(serial), read=read)) == status
            event = await anext(events)
            assert isinstance(event, IOError) and (event.alias, event.action) == (alias, action)
    assert (await guest.vm.info()).state == "running"


async def test_errors_stop_the_machine(guest: Guest) -> None:
    """It pauses at an error of reading, and of writing; gone on with, the request is made again: nothing is lost."""
    name = await guest.named("STOP")
    for read in (True, False):
        script = f"rm -f /tmp/done; ({_access(name, read=read)}) >/tmp/done.new; mv /tmp/done.new /tmp/done"
        async with guest.vm.events(IOError) as events, asyncio.timeout(60):
            # The agent may be paused with its guest before it has answered: it answers when they go on.
            started = asyncio.create_task(guest.vm.agent("guest-exec", {"path": "/bin/sh", "arg": ["-c", script]}))
            event = await anext(events)
        assert isinstance(event, IOError) and event.action == "pause"
        assert (await guest.vm.wait_for("paused")).reason == "ioerror"
        await guest.vm.resume()
        await started
        assert (await guest.until("cat /tmp/done 2>/dev/null", lambda said: said != "")).split("\n")[-1] == "0"
    await guest.sh("sync")
    assert (guest.directory / "stop.img").read_bytes()[WRITE_FAULT : WRITE_FAULT + 4] == bytes(4)


def _access(name: str, *, read: bool) -> str:
    """Read or write 4 KiB where the fault is; prints the exit status."""
    place = READ_FAULT if read else WRITE_FAULT
    ends = (
        f"if=/dev/{name} of=/dev/null iflag=direct skip" if read else f"if=/dev/zero of=/dev/{name} oflag=direct seek"
    )
    return f"dd {ends}={place // 4096} bs=4096 count=1 >/dev/null 2>&1; echo $?"


async def test_what_buses_lack(guest: Guest) -> None:
    """Nothing is dropped silently: what a bus does not have is refused with the machine unchanged."""
    before = await guest.vm.xml(inactive=True)
    for more, text in (
        ("<serial>OTHER</serial>", "have one serial number, 'NVME0001'"),
        ("<wwn>5000c50015ea71ad</wwn>", "Only ide and scsi disk support wwn"),
        ("<address type='drive' unit='3'/>", "with the namespace as bus"),
    ):
        extra = disk(f"file='{guest.directory}/n1.img'/>", "nvme0n3", "nvme", more=more)
        with pytest.raises(CorralError, match=text):
            await guest.vm.attach(extra, live=False)
    assert await guest.vm.xml(inactive=True) == before
