"""Physical devices through the real libusb, in a guest whose USB is QEMU's: taken, used and given back.

The guest runs our own adapter on this computer's Python and gives its disk and its tablet away to the test.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.usb import pythonlab
from tests.usb.guestlab import XHCI, Guest, booted
from tests.usb.sampler import Sampler
from tests.usb.test_usbredirect import QEMU_DISK, Peer, check_disk

from corral import usb
from corral.guests import tiny
from corral.usb import packets as p

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PROGRAM = """
import asyncio, sys
from corral.errors import CorralError
from corral.usb.computer import Computer
from corral.usb.filter import Filter
from corral.usb.stream import serve

def sampled():
    # Hear 40 packets of the sampler, and give it as many, by the kernel's isochronous transfers. QEMU gives empty
    # ones until it has 60 ms of them.
    import struct, usb1
    heard, told, rounds = [], [], []
    with usb1.USBContext() as context:
        handle = context.openByVendorIDAndProductID(0x1d6b, 0x0104)
        handle.claimInterface(0)
        handle.setInterfaceAltSetting(0, 1)
        def came(transfer):
            heard.extend(bytes(data[:4]) for _, data in transfer.iterISO() if len(data))
            rounds.append(transfer)
            if len(heard) < 40 and len(rounds) < 400:
                transfer.submit()
        def went(transfer):
            told.append(transfer.getStatus())
        transfers = []
        for round in range(5):
            into = handle.getTransfer(8)
            into.setIsochronous(0x81, 8 * 192, came, timeout=5000)
            out = handle.getTransfer(8)
            data = b"".join(struct.pack("<I", round * 8 + each) * 48 for each in range(8))
            out.setIsochronous(0x02, bytearray(data), went, timeout=5000)
            transfers += [into, out]
        for transfer in transfers:
            transfer.submit()
        while any(transfer.isSubmitted() for transfer in transfers):
            context.handleEvents()
    numbers = [struct.unpack("<I", each)[0] for each in heard]
    print("heard", *numbers, "told", *told, flush=True)

async def main(what, port, filter=None):
    async with Computer() as computer:
        print(*computer.devices(), sep="; ")
        device = await computer.take(computer.find(what))
        service = await serve(device, ("10.0.2.2", int(port)), filter=Filter.parse(filter) if filter else None)
        try:
            print("ended:", await service.ended(), flush=True)
        finally:
            await computer.hand_back(device)
    print("handed back", flush=True)

try:
    sampled() if sys.argv[1] == "sampled" else asyncio.run(main(*sys.argv[1:]))
except CorralError as error:
    print("error:", error, flush=True)
"""


@dataclass
class Lab:
    guest: Guest
    image: Path

    async def give(self, what: str, port: int, filter: str = "") -> None:
        await self.guest.sh(f"{pythonlab.RUN} /py/program {what} {port} {filter} >/run/log 2>&1 </dev/null &")

    async def log(self) -> str:
        return await self.guest.sh("cat /run/log")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    pythonlab.require()
    directory = tmp_path_factory.mktemp("physical")
    image = directory / "disk"
    image.write_bytes(os.urandom(1 << 20))
    built = await tiny.build()
    imports = ("usb1", "corral.usb.computer", "corral.usb.stream", "corral.usb.filter", "corral.errors")
    initrd = pythonlab.initrd(built, directory, PROGRAM, imports, ("libusb-1.0.so.0",))
    disk = ("-blockdev", f"driver=file,node-name=disk,filename={image}")
    more = (
        *disk,
        "-device",
        "usb-storage,id=victim,drive=disk,bus=ehci.0",
        "-device",
        "usb-tablet,id=tablet,bus=ehci.0",
    )
    async with booted(*more, "-initrd", str(initrd)) as guest:
        await guest.until("ip -4 addr show eth0", "10.0.2.15")
        await guest.disk("QEMU HARDDISK")
        yield Lab(guest, image)


@pytest_asyncio.fixture(loop_scope="module")
async def peer() -> AsyncIterator[tuple[Peer, int]]:
    peer = Peer()
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0)
    async with server:
        yield peer, server.sockets[0].getsockname()[1]
        if peer.writer is not None:
            peer.writer.close()  # a server of Python 3.12 or newer ends when its connections have ended


async def hello(lab: Lab, peer: Peer) -> None:
    try:
        said = await peer.wait(lambda each: isinstance(each, p.Hello), 60)
    except TimeoutError:
        pytest.fail(await lab.log())
    assert said.version.startswith("Corral")


async def test_disk_is_taken_used_and_handed_back(lab: Lab, peer: tuple[Peer, int]) -> None:
    to, port = peer
    await lab.give(QEMU_DISK, port)
    await hello(lab, to)
    await lab.guest.until("ls /sys/block | grep -c sd", "0")
    await check_disk(to, lab.image.read_bytes())
    assert to.writer is not None
    to.writer.close()
    await lab.guest.until("cat /run/log", "handed back")
    assert "ended: the peer closed the connection" in await lab.log()
    disk = await lab.guest.disk("QEMU HARDDISK")
    assert await lab.guest.sh(f"md5sum </dev/{disk} | cut -c 1-32") == await lab.guest.sh(
        f"echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/{disk} | cut -c 1-32"
    )


async def test_tablet_is_polled(lab: Lab, peer: tuple[Peer, int]) -> None:
    """An interrupt endpoint, control requests that answer and that stall, and unplugging while it is polled."""
    to, port = peer
    await lab.give("0627:0001", port)
    await hello(lab, to)
    connect = await to.wait(lambda each: isinstance(each, p.DeviceConnect))
    assert (connect.vendor_id, connect.product_id) == (0x0627, 1)
    report = await to.ask(p.ControlPacket(0x80, 6, 0x81, 0, 0x2200, 0, 200, 1))
    assert report.status == 0 and report.data[:2] == b"\x05\x01"
    stalled = await to.ask(p.ControlPacket(0x80, 0x33, 0xC0, 0, 0, 0, 64, 2))
    assert stalled.status == usb.Status.STALL
    assert (await to.ask(p.SetAltSetting(0, 7, 3))).status == usb.Status.STALL
    to.send(p.StartInterruptReceiving(0x81, 4))
    started = await to.wait(lambda each: isinstance(each, p.InterruptReceivingStatus))
    assert started.status == 0
    move = [{"type": "abs", "data": {"axis": axis, "value": value}} for axis, value in (("x", 12345), ("y", 23456))]
    await lab.guest.machine.monitor.execute("input-send-event", {"events": move})
    moved = await to.wait(lambda each: isinstance(each, p.InterruptPacket) and each.length >= 5)
    assert struct.unpack_from("<HH", moved.data, 1) == (12345, 23456)
    await lab.guest.machine.monitor.execute("device_del", {"id": "tablet"})
    await to.wait(lambda each: isinstance(each, p.DeviceDisconnect | p.InterruptReceivingStatus))
    await lab.guest.until("cat /run/log", "handed back")


async def test_what_cannot_be_taken(lab: Lab, peer: tuple[Peer, int]) -> None:
    _, port = peer
    await lab.give("dead:beef", port)
    said: Any = await lab.guest.until("cat /run/log", "error:")
    assert "no USB device of this computer is 'dead:beef'; there are 46f4:0001 QEMU QEMU USB HARDDRIVE" in said
    await lab.give(QEMU_DISK, port, "'0x08,-1,-1,-1,0|-1,-1,-1,-1,1'")
    assert "our filter keeps this device out" in await lab.guest.until("cat /run/log", "error:")
    await lab.guest.disk("QEMU HARDDISK")


async def test_isochronous_packets_of_a_python_device(lab: Lab) -> None:
    """QEMU takes the stream for the guest's: each side has what the other gave, in its order."""
    sampler = Sampler()
    async with lab.guest.plugged(sampler, XHCI):
        await lab.guest.until("cat /sys/bus/usb/devices/*/product", "Python sampler")
        await lab.give("sampled", 0)
        words = (await lab.guest.until("cat /run/log", "told")).split()
    heard, told = words[1 : words.index("told")], words[words.index("told") + 1 :]
    numbers = [int(word) for word in heard]
    # What is too much for its buffer, QEMU drops.
    assert len(numbers) >= 40 and numbers == sorted(set(numbers)), words
    assert told == ["0"] * 5
    given = [struct.unpack("<I", each[:4])[0] for each in sampler.given if each]
    assert len(given) >= 32 and given == sorted(set(given)) and max(given) < 40
