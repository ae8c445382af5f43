"""A guest's agent by the library's methods: what the guest itself shows, before and after, is the assertion."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from tests.guests.inside import Inside, running

from corral.client import cards
from corral.client.domain import Domain
from corral.client.host import Host
from corral.errors import AgentCommandFailed, InvalidArgument

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

DISK = """<disk type='file' device='disk'><driver name='qemu' type='raw' discard='unmap'/><source file='{}'/>
  <target dev='sdb' bus='scsi'/></disk><controller type='scsi' model='virtio-scsi'/>"""
IMAGE = "disk.img"
PM = "<pm><suspend-to-mem enabled='yes'/></pm>"
SCREEN = "<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1' passwd='first'/>"


class Guest(Inside):
    """The tiny guest and the image of its disk."""

    def __init__(self, host: Host, vm: Domain, image: Path) -> None:
        super().__init__(host, vm)
        self.image = image

    async def writes(self, seconds: float = 60) -> bool:
        """Whether the image changes within so many seconds."""
        before, end = self.image.stat().st_mtime_ns, time.monotonic() + seconds
        while self.image.stat().st_mtime_ns == before:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
        return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    async with running("told", _devices, more=PM) as (host, vm, directory):
        yield Guest(host, vm, directory / IMAGE)


def _devices(directory: Path) -> str:
    with (directory / IMAGE).open("wb") as file:
        file.truncate(64 << 20)
    return SCREEN + DISK.format(directory / IMAGE)


async def test_the_clock(guest: Guest) -> None:
    vm = guest.vm
    await vm.agent_set_time(1_700_000_000.5)
    assert 1_700_000_000 <= await vm.agent_time() < 1_700_000_060
    assert int(await guest.sh("date +%s")) in range(1_700_000_000, 1_700_000_060)
    await vm.agent_set_time(time.time())
    await guest.sh("date -s @1000000000")
    assert await vm.agent_time() < 1_000_000_060
    await vm.agent_set_time()  # from its own clock chip, which has gone on
    assert abs(await vm.agent_time() - time.time()) < 60


async def test_frozen_and_thawed(guest: Guest) -> None:
    """While its file system is frozen a guest writes nothing, and runs nothing for us."""
    vm = guest.vm
    await guest.sh("mke2fs /dev/sda && mkdir -p /mnt/d && mount -t ext2 /dev/sda /mnt/d")
    assert "/mnt/d ext2" in await guest.sh("cat /proc/mounts")
    await guest.sh(
        "(while [ ! -e /run/enough ]; do date >/mnt/d/now; sync; usleep 20000; done; rm /run/enough) >/dev/null 2>&1 &"
    )
    assert await guest.writes()
    for mountpoints in ((), ("/mnt/d",)):
        assert await vm.agent_freeze(*mountpoints) == 1
        try:
            assert not await guest.writes(0.5)
            with pytest.raises(AgentCommandFailed, match="guest-exec"):
                await vm.exec(["true"])
        finally:
            assert await vm.agent_thaw() == 1
        assert await guest.writes()
    assert await vm.agent_thaw() == 0
    assert await vm.agent_freeze("/nowhere") == 0
    assert await vm.agent_thaw() == 0
    await guest.sh("touch /run/enough")
    await guest.until("ls /run", lambda said: "enough" not in said.split())


async def test_space_is_given_back(guest: Guest) -> None:
    """A file that is gone from the guest's file system is gone from the image, too, once it was trimmed."""
    mounted = "grep -q ' /mnt/d ' /proc/mounts"
    await guest.sh(f"{mounted} || {{ mke2fs /dev/sda; mkdir -p /mnt/d; mount -t ext2 /dev/sda /mnt/d; }}")
    await guest.sh("dd if=/dev/urandom of=/mnt/d/big bs=1M count=16 && sync")
    assert guest.image.stat().st_blocks * 512 > 16 << 20
    await guest.sh("rm /mnt/d/big; sync")
    assert guest.image.stat().st_blocks * 512 > 16 << 20
    await guest.vm.agent_trim()
    assert guest.image.stat().st_blocks * 512 < 8 << 20
    found = await guest.vm.guest_info()
    assert found["fs.0.mountpoint"] == "/mnt/d" and found["fs.0.disk.0.alias"] == "sdb"
    await guest.sh("umount /mnt/d")


async def test_passwords_and_keys(guest: Guest) -> None:
    vm = guest.vm

    async def shadow() -> str:
        return (await guest.sh("grep ^root: /etc/shadow")).split(":")[1]

    await vm.agent_set_password("root", "open sesame")
    first = await shadow()
    assert first.startswith("$") and "sesame" not in first
    await vm.agent_set_password("root", "$6$salt$crypted", encrypted=True)
    assert await shadow() == "$6$salt$crypted"
    with pytest.raises(AgentCommandFailed, match="password"):
        await vm.agent_set_password("nobody1", "x")

    one, two = "ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"
    await vm.agent_set_ssh_keys("root", one)
    await vm.agent_set_ssh_keys("root", two, append=True)
    assert await guest.sh("cat /root/.ssh/authorized_keys") == f"{one}\n{two}"
    assert sorted(await vm.agent_ssh_keys("root")) == [one, two]
    await vm.agent_set_ssh_keys("root", one, remove=True)
    assert await guest.sh("cat /root/.ssh/authorized_keys") == two
    await vm.agent_set_ssh_keys("root", one)
    assert await vm.agent_ssh_keys("root") == [one]
    with pytest.raises(AgentCommandFailed, match="user"):
        await vm.agent_ssh_keys("nobody1")
    with pytest.raises(InvalidArgument):
        await vm.agent_set_ssh_keys("root", one, append=True, remove=True)


async def test_files_and_output_as_it_comes(guest: Guest) -> None:
    """What a program writes is here before it ends; what is written to a file is what the guest reads."""
    vm = guest.vm
    content = os.urandom(3 << 20)
    assert await vm.write_file("/run/file", content) == len(content)
    assert b"".join([piece async for piece in vm.read_file("/run/file")]) == content
    with pytest.raises(AgentCommandFailed, match="No such file"):
        await anext(vm.read_file("/run/none"))
    script = "echo first; while [ ! -e /run/go ]; do usleep 20000; done; echo last >&2; exit 3"
    seen = []
    async with asyncio.timeout(60), vm.execution(["sh", "-c", script]) as running:
        async for stream, data in running:
            if not seen:
                assert running.status is None, "it waits for us"
                await vm.write_file("/run/go", b"")
            seen.append((stream, data))
    assert (seen, running.status) == ([(1, b"first\n"), (2, b"last\n")], 3)


async def test_what_it_says_of_itself(guest: Guest) -> None:
    vm = guest.vm
    facts = await vm.guest_info()
    assert facts["hostname"] == await guest.sh("hostname") == "told"
    assert facts["os.kernel-release"] == await guest.sh("uname -r")
    assert {facts[f"if.{number}.name"] for number in range(facts["if.count"])} >= {"lo", "eth0"}
    assert await vm.guest_vcpus() == {"vcpus": "0-1", "online": "0-1", "offlinable": "1"}
    assert float((await guest.sh("cat /proc/loadavg")).split()[0]) == pytest.approx((await vm.load()).one, abs=0.5)
    await guest.until("ip addr show eth0", lambda said: "10.0.2.15/24" in said)
    assert ("0.0.0.0/0", "10.0.2.2") in {(each.destination, each.gateway) for each in (await vm.routes()).routes}
    known = await cards.addresses(vm)
    told = next(each for each in known.known if each.address == "10.0.2.15")
    assert (told.source, told.prefix, told.name, told.mac) == (
        "agent",
        24,
        "eth0",
        await guest.sh("cat /sys/class/net/eth0/address"),
    )
    assert known.silent == {"lease": "knows none", "arp": "knows none"}
    assert "10.0.2.15" in await vm.addresses()


async def test_a_display_has_another_password(guest: Guest) -> None:
    """By the library; the machine's own document says the same, and until when."""
    until = datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert await guest.vm.set_display_password("second", valid_to=until) == ["vnc"]
    (shown,) = await guest.vm.displays(secure=True)
    assert (shown.password, shown.valid_to) == ("second", until)
    assert "passwd='second'" in await guest.vm.xml(inactive=True, secure=True)
    assert await guest.vm.set_display_password("third", config=False) == ["vnc"]
    assert "passwd='second'" in await guest.vm.xml(inactive=True, secure=True)


async def test_asleep_and_awake(guest: Guest) -> None:
    vm = guest.vm
    with pytest.raises(InvalidArgument, match="not to death"):
        await vm.sleep("death")
    await vm.sleep()
    assert (await vm.state()).name == "pmsuspended"
    await vm.wake()
    assert (await vm.state()).name == "running"
    await vm.wait_for_agent(timeout=60)
    assert (await guest.sh("dmesg")).count("Waking up from system sleep state S3") == 1
    async with vm.events("pmwakeup") as events, asyncio.timeout(60):
        await vm.sleep(seconds=1)
        await anext(events)
    await vm.wait_for_agent(timeout=60)


@pytest.mark.slow
async def test_it_shuts_itself_down(guest: Guest) -> None:
    """Asked by its agent: it boots again; stands still with its power on; is off."""
    vm, boot = guest.vm, await guest.sh("cat /proc/sys/kernel/random/boot_id")
    async with vm.events("reboot") as events, asyncio.timeout(90):
        await vm.agent_shutdown("reboot")
        await anext(events)
    await vm.wait_for_agent(timeout=90)
    assert await guest.sh("cat /proc/sys/kernel/random/boot_id") != boot
    async with await vm.console(force=True) as console, asyncio.timeout(60):
        await vm.agent_shutdown("halt")
        said = b""
        while b"System halted" not in said:
            said += await console.read()
    assert (await vm.state()).name == "running"
    await vm.reset()
    await vm.wait_for_agent(timeout=90)
    await vm.agent_shutdown()
    assert str(await vm.wait_for("shutoff")) == "shutoff (shutdown)"
