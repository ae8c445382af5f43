"""Devices plugged into and taken out of a Linux guest that runs: what the guest itself sees is the assertion."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.guests.inside import Inside, running

from corral.client.domain import Domain
from corral.client.host import Host
from corral.errors import CorralError, OperationFailed, OperationTimeout
from corral.guests import tiny

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PORTS = "<controller type='pci' model='pcie-root-port'/>" * 12
DEVICES = (
    f"{PORTS}<controller type='scsi' model='virtio-scsi'/>"
    "<disk type='file' device='cdrom'><source file='{cd}'/><target dev='sda' bus='scsi'/></disk>"
)
CARD = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>"
RNG = "<rng model='virtio'><backend model='builtin'/></rng>"


class Guest(Inside):
    """The tiny guest, its client, and a directory of images that QEMU may open."""

    def __init__(self, host: Host, vm: Domain, directory: Path) -> None:
        super().__init__(host, vm)
        self.directory = directory

    def image(self, name: str, content: bytes = b"", size: int = 1 << 20) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        with path.open("r+b") as file:
            file.truncate(size)
        return path

    async def monitor(self, message: str) -> str:
        answer = await self.host.call("qemu.domain_monitor_command", dom=self.vm.reference, cmd=message, flags=0)
        return json.dumps(json.loads(answer.result)["return"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    async with running("plugged", _devices) as (host, vm, directory):
        yield Guest(host, vm, directory)


def _devices(directory: Path) -> str:
    for name, content in (("one.iso", b"CD-ONE"), ("two.iso", b"CD-TWO")):
        (directory / name).write_bytes(content.ljust(4096, b"\0"))
    return DEVICES.format(cd=directory / "one.iso")


def disk(path: Path, target: str, bus: str, more: str = "") -> str:
    return f"<disk type='file' device='disk'><source file='{path}'/><target dev='{target}' bus='{bus}'/>{more}</disk>"


@pytest.mark.parametrize(("target", "bus", "seen"), [("vda", "virtio", "vda"), ("sdb", "scsi", "sda")])
async def test_a_disk(guest: Guest, target: str, bus: str, seen: str) -> None:
    """Read and written; taken out while the guest writes to it, as often as one likes."""
    path = guest.image(f"{target}.img", b"HELLO")
    for _ in range(2):
        await guest.vm.attach(disk(path, target, bus))
        await guest.until("ls /sys/block", lambda said: seen in said.split())
        assert await guest.sh(f"dd if=/dev/{seen} bs=5 count=1 2>/dev/null") == "HELLO"
        writing = f"while [ -b /dev/{seen} ] && dd if=/dev/zero of=/dev/{seen} bs=64k seek=1 count=8; do :; done"
        await guest.sh(f"rm -f /tmp/idle; ({writing}; touch /tmp/idle) >/dev/null 2>&1 &")
        await guest.vm.detach(f"<disk><target dev='{target}'/></disk>")
        await guest.until("ls /sys/block", lambda said: seen not in said.split())
        # A dd that comes when the device has just gone makes a plain file of its name.
        await guest.until("ls /tmp/idle", lambda said: said == "/tmp/idle")
        await guest.sh(f"[ -b /dev/{seen} ] || rm -f /dev/{seen}")
    assert target not in await guest.vm.xml() + await guest.vm.xml(inactive=True)


async def test_a_card_and_its_cable(guest: Guest) -> None:
    """A network card with its cable in, out, in again; the pulled cable is still out after a restart of the guest."""
    await guest.vm.attach(CARD)
    await guest.until("ls /sys/class/net", lambda said: "eth1" in said)
    await guest.sh("ip link set eth1 up")
    carrier = "cat /sys/class/net/eth1/carrier"
    await guest.until(carrier, lambda said: said == "1")
    down = CARD.replace("</interface>", "<link state='down'/></interface>")
    await guest.vm.update(down)
    await guest.until(carrier, lambda said: said == "0")
    assert "LOWER_UP" not in await guest.sh("ip link show eth1")
    await guest.vm.update(CARD)
    await guest.until(carrier, lambda said: said == "1")
    await guest.vm.update(down)
    await guest.vm.destroy()
    await guest.vm.start()
    await guest.vm.wait_for_agent(timeout=90)
    await guest.sh("ip link set eth1 up")
    assert await guest.sh("grep -l 52:54:00:00:00:01 /sys/class/net/*/address") == "/sys/class/net/eth1/address"
    await guest.until(carrier, lambda said: said == "0")
    await guest.vm.update(CARD)
    await guest.until(carrier, lambda said: said == "1")
    await guest.vm.detach(CARD)
    await guest.until("ls /sys/class/net", lambda said: "eth1" not in said)


async def test_a_cd(guest: Guest) -> None:
    """Changed, taken out, put in; held by the guest, and taken from it by force."""
    first = "dd if=/dev/sr0 bs=6 count=1 2>/dev/null"
    one, two = guest.directory / "one.iso", guest.directory / "two.iso"

    def drive(path: Path | None) -> str:
        source = f"<source file='{path}'/>" if path else ""
        return f"<disk type='file' device='cdrom'>{source}<target dev='sda' bus='scsi'/></disk>"

    assert await guest.sh(first) == "CD-ONE"
    await guest.vm.update(drive(two))
    await guest.until(first, lambda said: said == "CD-TWO")
    await guest.vm.update(drive(None))
    assert "tray=" not in await guest.vm.xml()
    assert await guest.sh(first) == ""
    await guest.vm.update(drive(one))
    await guest.until(first, lambda said: said == "CD-ONE")
    held = "(exec 3</dev/sr0; touch /run/held; sleep 60) >/dev/null 2>&1 &"
    await guest.sh(f"rm -f /run/held; echo 1 >/proc/sys/dev/cdrom/lock; {held}")
    await guest.until("ls /run", lambda said: "held" in said.split())
    with pytest.raises(OperationFailed, match=r"timed out waiting to open tray of 'sda'.* use force"):
        await guest.vm.update(drive(two))
    assert str(one) in await guest.vm.xml()
    await guest.vm.update(drive(two), force=True)
    assert str(two) in await guest.vm.xml() and str(two) in await guest.vm.xml(inactive=True)


async def test_a_cd_on_usb(guest: Guest) -> None:
    """A CD drive for the guest too, plugged empty or not: changed, taken out; there from the start; unplugged."""
    read = "dd if=/dev/sr1 bs=6 count=1 2>/dev/null"

    def drive(name: str | None) -> str:
        source = f"<source file='{guest.directory / name}'/>" if name else ""
        return f"<disk type='file' device='cdrom'>{source}<target dev='sdu' bus='usb'/></disk>"

    await guest.vm.attach(drive(None))
    await guest.until("ls /sys/block", lambda said: "sr1" in said)
    assert await guest.sh(read) == ""
    await guest.vm.update(drive("two.iso"))
    await guest.until(read, lambda said: said == "CD-TWO")
    await guest.vm.destroy()
    await guest.vm.start()
    await guest.vm.wait_for_agent(timeout=90)
    await guest.until(read, lambda said: said == "CD-TWO")
    await guest.vm.detach(drive("two.iso"))
    await guest.until("ls /sys/block", lambda said: "sr1" not in said)
    await guest.vm.attach(drive("two.iso"))
    await guest.until(read, lambda said: said == "CD-TWO")
    await guest.vm.detach(drive("two.iso"))
    await guest.until("ls /sys/block", lambda said: "sr1" not in said)


async def test_others(guest: Guest) -> None:
    """A generator of random numbers and a channel, by what the guest lists."""
    pci = "cat /proc/bus/pci/devices | wc -l"
    before = int(await guest.sh(pci))
    await guest.vm.attach(RNG)
    await guest.until(pci, lambda said: int(said) == before + 1)
    await guest.vm.detach(RNG)
    await guest.until(pci, lambda said: int(said) == before)
    channel = "<channel type='unix'><target type='virtio' name='org.example.0'/></channel>"
    names = "cat /sys/class/virtio-ports/*/name"
    await guest.vm.attach(channel)
    await guest.until(names, lambda said: "org.example.0" in said)
    await guest.vm.detach(channel)
    await guest.until(names, lambda said: "org.example.0" not in said)


async def test_a_guest_that_does_not_answer(guest: Guest) -> None:
    """Paused, it cannot let go: said so, kept, tried again; what it does later is written down and told."""
    await guest.vm.attach(CARD)
    await guest.until("ls /sys/class/net", lambda said: "eth1" in said)
    await guest.vm.suspend()
    for _ in range(2):
        with pytest.raises(OperationTimeout, match="has not let go of device 'net1'"):
            await guest.vm.detach(CARD, config=False)
        assert "52:54:00:00:00:01" in await guest.vm.xml()
    async with asyncio.timeout(60), guest.vm.events("device-removed") as events:
        await guest.vm.resume()
        await anext(events)
    assert "52:54:00:00:00:01" not in await guest.vm.xml()
    assert "eth1" not in await guest.sh("ls /sys/class/net")
    await guest.vm.detach(CARD, live=False)


@pytest.mark.slow
async def test_a_guest_that_ignores_an_unplug(guest: Guest) -> None:
    """It runs, and hears no request: refused each time and kept; out when it boots anew, which is told."""
    xml = tiny.document("deaf", tiny=await tiny.build()).to_xml().replace("<devices>", f"<devices>{CARD}")
    vm = await guest.host.define(xml.replace("hostname=", "acpiphp.disable=1 hostname="))
    await vm.start()
    try:
        await vm.wait_for_agent(timeout=90)
        deaf, cards = Inside(guest.host, vm), "cat /sys/class/net/*/address"
        for _ in range(2):
            with pytest.raises(OperationTimeout, match="has not let go of device"):
                await vm.detach(CARD, config=False)
            assert "52:54:00:00:00:01" in await vm.xml()
            assert "52:54:00:00:00:01" in await deaf.sh(cards)
        async with asyncio.timeout(90), vm.events("device-removed") as events:
            await vm.agent_shutdown("reboot")
            await anext(events)
        await vm.wait_for_agent(timeout=90)
        assert "52:54:00:00:00:01" not in await vm.xml() + await deaf.sh(cards)
    finally:
        await vm.destroy()
        await vm.undefine()


async def test_a_refusal_half_way(guest: Guest) -> None:
    """QEMU takes a controller and refuses the disk on it: the guest has let go of the controller when it is told."""
    spare = guest.image("spare.img")
    device = "'driver':'scsi-hd','id':'scsi1-0-0-0','bus':'scsi0.0','scsi-id':9,'drive':'spare'".replace("'", '"')
    await guest.monitor('{"execute":"blockdev-add","arguments":{"driver":"null-co","node-name":"spare"}}')
    await guest.monitor(f'{{"execute":"device_add","arguments":{{{device}}}}}')
    listing = '{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}'
    before, xml, pci = await guest.monitor(listing), await guest.vm.xml(), await guest.sh("ls /sys/bus/pci/devices")
    with pytest.raises(CorralError, match="Duplicate device ID 'scsi1-0-0-0'"):
        await guest.vm.attach(disk(spare, "sdh", "scsi"))
    async with asyncio.timeout(60):  # a guest with much to do lets go after the daemon has given up waiting
        while await guest.monitor(listing) != before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await guest.vm.xml() == xml
    await guest.until("ls /sys/bus/pci/devices", lambda said: said == pci)
    await guest.monitor('{"execute":"device_del","arguments":{"id":"scsi1-0-0-0"}}')
    async with asyncio.timeout(60):
        while "scsi1-0-0-0" in str(await guest.monitor(listing)):  # noqa: ASYNC110 - its name is taken until then
            await asyncio.sleep(0.05)
    await guest.vm.attach(disk(spare, "sdh", "scsi"))  # on a further controller, made for it
    await guest.until("ls /sys/class/scsi_host | wc -l", lambda said: int(said) >= 2)
    await guest.vm.detach(disk(spare, "sdh", "scsi"))
    await guest.vm.detach("<controller type='scsi' index='1'/>")


async def test_256_disks(guest: Guest) -> None:
    """As many SCSI disks as one controller has targets; where names ask for too many controllers, one comes."""
    count = 255  # the CD-ROM drive has a target, too
    paths = [guest.image(f"lun{number}.img") for number in range(count + 1)]
    names = [_name(number) for number in range(1, count + 2)]

    def xml(number: int) -> str:
        address = f"<address type='drive' controller='0' bus='0' target='{number + 1}' unit='0'/>"
        place = address if number < count - 5 else ""  # the last have no place of their own: the daemon finds one
        return disk(paths[number], names[number], "scsi", f"<serial>lun{number}</serial>{place}")

    for first in range(0, count, 15):
        batch = range(first, min(first + 15, count))
        await asyncio.gather(*(guest.vm.attach(xml(number), config=False) for number in batch))
    await guest.until("ls /sys/class/scsi_disk | wc -l", lambda said: int(said) == count, 150)
    await guest.vm.attach(xml(count), config=False)  # all targets are taken: a further controller comes with it
    assert "<controller type='scsi' index='1' model='virtio-scsi'>" in await guest.vm.xml()
    await guest.until("ls /sys/class/scsi_disk | wc -l", lambda said: int(said) == count + 1, 150)
    assert int(await guest.sh("ls /sys/block | grep -c '^sd'")) == 256
    for first in range(0, count + 1, 16):
        batch = range(first, min(first + 16, count + 1))
        detached = (guest.vm.detach(f"<disk><target dev='{names[number]}'/></disk>", config=False) for number in batch)
        await asyncio.gather(*detached)
    await guest.until("ls /sys/class/scsi_disk | wc -l", lambda said: int(said) == 0)


def _name(number: int) -> str:
    """The target name of a number: sda 0, sdz 25, sdaa 26."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"sd{letters}"
