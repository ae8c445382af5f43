"""Our usb-guest side against Debian's usbredirect, which runs in a guest and gives away a disk of QEMU's there.

The program and its libraries come to the guest on a stick of ours, made of a folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.usb.guestlab import XHCI, booted

from corral import usb
from corral.errors import OperationFailed
from corral.guests import libraries, packages
from corral.usb import fat
from corral.usb import packets as p

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

QEMU_DISK = "46f4:0001"


async def program(folder: Path) -> None:
    """usbredirect, its loader and its libraries in a folder."""
    if not packages.available():
        pytest.skip("usbredirect is Debian's, and there is no apt-get here")
    root = folder.parent / "root"
    try:
        names = [*await packages.with_libraries("usbredirect"), "zlib1g"]
        for file in await packages.download(names, folder.parent):
            await packages.unpack(file, root)
    except OperationFailed as error:
        pytest.skip(f"usbredirect cannot be had: {error}")
    folders = tuple(root / name for name in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"))
    binary = root / "usr/bin/usbredirect"
    interpreter, needed = libraries.closure(binary, folders)
    shutil.copy(binary, folder / "usbredirect")
    for name, file in needed.items():
        shutil.copy(file, folder / name)
    if interpreter is not None:
        loader = Path(interpreter).name
        source = next(each / loader for each in folders if (each / loader).exists())
        shutil.copy(source, folder / "loader")


class Peer:
    """The usb-guest's side of a connection that usbredirect makes."""

    def __init__(self) -> None:
        self.connection = usb.Connection("guest")
        self.packets: list[p.Packet] = []
        self.came = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.send()
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                self.packets += self.connection.receive_data(data)
                self.send()
                self.came.set()

    def send(self, *packets: p.Packet) -> None:
        for packet in packets:
            self.connection.send(packet)
        if self.writer is not None:
            self.writer.write(self.connection.data_to_send())

    async def wait(self, fits: Callable[[Any], bool], seconds: float = 60) -> Any:
        """The next packet that fits; those before it are passed over."""
        async with asyncio.timeout(seconds):
            while True:
                while self.packets:
                    packet = self.packets.pop(0)
                    assert not isinstance(packet, usb.Lost), packet
                    if fits(packet):
                        return packet
                self.came.clear()
                await self.came.wait()

    async def ask(self, packet: Any) -> Any:
        self.send(packet)
        return await self.wait(lambda each: each.id == packet.id and each.kind >= 6)


async def test_disk_given_away_by_usbredirect(tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    await program(folder)
    image = tmp_path / "disk"
    image.write_bytes(os.urandom(1 << 20))
    peer = Peer()
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    disk = ("-blockdev", f"driver=file,node-name=disk,filename={image}")
    async with server, booted(*disk, "-device", "usb-storage,id=victim,drive=disk,bus=ehci.0") as guest:
        stick = usb.MassStorage(fat.image(folder))
        async with guest.plugged(stick, XHCI):
            name = await guest.disk("USB stick")
            await guest.sh(f"mkdir -p /mnt/p; mount -t vfat -o ro /dev/{name} /mnt/p")
            await guest.until("ip -4 addr show eth0", "10.0.2.15")
            await guest.until("cat /sys/bus/usb/devices/*/manufacturer", "QEMU")
            start = f"/mnt/p/loader --library-path /mnt/p /mnt/p/usbredirect --device {QEMU_DISK} --to 10.0.2.2:{port}"
            await guest.sh(f"{start} >/run/log 2>&1 </dev/null &")
            try:
                hello = await peer.wait(lambda each: isinstance(each, p.Hello), 60)
            except TimeoutError:
                pytest.fail(await guest.sh("cat /run/log; ls /mnt/p; dmesg | tail -n 5"))
            assert "usbredir" in hello.version.lower(), hello
            await check_disk(peer, image.read_bytes())
            await guest.machine.monitor.execute("device_del", {"id": "victim"})
            # Without udev in the guest usbredirect learns of it at the next transfer.
            await guest.until("grep -l QEMU /sys/bus/usb/devices/*/manufacturer || echo gone", "gone")
            peer.send(p.BulkPacket(0x81, 0, 13, 0, 10))
            await peer.wait(lambda each: isinstance(each, p.DeviceDisconnect))
            await guest.until("killall loader; umount /mnt/p; grep -q /mnt/p /proc/mounts || echo free", "free")


async def check_disk(peer: Peer, content: bytes) -> None:
    """What a guest does with a disk: connect, configure, read a block, cancel, reset, and it still answers."""
    connect = await peer.wait(lambda each: isinstance(each, p.DeviceConnect))
    assert (connect.speed, connect.vendor_id, connect.product_id) == (usb.Speed.HIGH, 0x46F4, 1)
    descriptor = await peer.ask(p.ControlPacket(0x80, 6, 0x80, 0, 0x0100, 0, 18, 1))
    assert descriptor.data[:2] == b"\x12\x01"
    configured = await peer.ask(p.SetConfiguration(1, 2))
    assert (configured.status, configured.configuration) == (0, 1)
    assert (await peer.ask(p.GetAltSetting(0, 3))).alt == 0
    read = struct.pack("<4sIIBBB16s", b"USBC", 1, 8192, 0x80, 0, 10, struct.pack(">BxIxHx", 0x28, 5, 16))
    assert (await peer.ask(p.BulkPacket(2, 0, 31, 0, 4, read))).status == 0
    data = await peer.ask(p.BulkPacket(0x81, 0, 8192, 0, 5))
    assert data.data == content[5 * 512 : 21 * 512]
    status = await peer.ask(p.BulkPacket(0x81, 0, 13, 0, 6))
    assert status.data == struct.pack("<4sIIB", b"USBS", 1, 0, 0)
    peer.send(p.BulkPacket(0x81, 0, 13, 0, 7))
    cancelled = await peer.ask(p.CancelDataPacket(7))
    # A disk without a command stalls, if it is asked before the cancel comes; there is an answer either way.
    assert cancelled.status in (usb.Status.CANCELLED, usb.Status.STALL)
    peer.send(p.Reset(8))
    assert (await peer.ask(p.GetConfiguration(9))).configuration == 1
