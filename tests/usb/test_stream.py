"""A device served over a socket: what the adapter adds."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from tests.usb.test_storage import Memory

from corral import usb
from corral.errors import OperationFailed
from corral.usb import packets as p


class Slow(Memory):
    def read_now(self, offset: int, length: int) -> bytes | None:
        return None


async def exchange(sock: socket.socket, guest: usb.Connection, wanted: type[p.Packet]) -> p.Packet:
    """Send what waits, and read until a packet of a type has come."""
    return (await collect(sock, guest, wanted, 1))[0]


async def collect(sock: socket.socket, guest: usb.Connection, wanted: type[p.Packet], count: int) -> list[p.Packet]:
    """Send what waits, and read until as many packets of a type have come, however many come at a time."""
    loop = asyncio.get_running_loop()
    found: list[p.Packet] = []
    async with asyncio.timeout(30):
        await loop.sock_sendall(sock, guest.data_to_send())
        while len(found) < count:
            packets = guest.receive_data(await loop.sock_recv(sock, 65536))
            assert not any(isinstance(packet, usb.Lost) for packet in packets), packets
            found += [packet for packet in packets if type(packet) is wanted]
    return found


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return ours, theirs


async def test_serves_reads_from_a_thread_and_unplugs() -> None:
    medium = Slow()
    ours, theirs = pair()
    guest = usb.Connection("guest")
    with theirs:
        service = await usb.serve(usb.MassStorage(medium), ours)
        await exchange(theirs, guest, p.DeviceConnect)
        command = struct.pack("<4sIIBBB16s", b"USBC", 1, 4096, 0x80, 0, 10, struct.pack(">BxIxHx", 0x28, 3, 8))
        guest.send(p.BulkPacket(2, 0, 31, 0, 1, command))
        await exchange(theirs, guest, p.BulkPacket)
        guest.send(p.BulkPacket(0x81, 0, 4096, 0, 2))
        answer = await exchange(theirs, guest, p.BulkPacket)
        assert isinstance(answer, p.BulkPacket) and answer.data == medium.data[3 * 512 : 11 * 512]
        service.unplug()
        await exchange(theirs, guest, p.DeviceDisconnect)
        async with asyncio.timeout(30):
            assert await service.ended() == "unplugged"


async def test_malformed_packets_end_it_with_an_error_and_the_stream_closes() -> None:
    ours, theirs = pair()
    with theirs:
        service = await usb.serve(usb.Keyboard(), ours)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(theirs, b"\xff" * 64)
        async with asyncio.timeout(30):
            with pytest.raises(OperationFailed, match="unknown packet type"):
                await service.ended()
            with suppress(ConnectionError):
                while await loop.sock_recv(theirs, 65536):
                    pass


async def test_end_of_the_stream_is_no_error() -> None:
    ours, theirs = pair()
    service = await usb.serve(usb.Keyboard(), ours)
    guest = usb.Connection("guest")
    await exchange(theirs, guest, p.DeviceConnect)
    theirs.close()
    async with asyncio.timeout(30):
        assert "closed" in await service.ended()


async def test_device_that_leaves_ends_it() -> None:
    ours, theirs = pair()
    with theirs:
        keyboard = usb.Keyboard()
        service = await usb.serve(keyboard, ours)
        await exchange(theirs, usb.Connection("guest"), p.DeviceConnect)
        keyboard.unplug("pulled out")
        async with asyncio.timeout(30):
            assert await service.ended() == "pulled out"


async def test_keys_typed_go_out_by_themselves() -> None:
    ours, theirs = pair()
    guest = usb.Connection("guest")
    with theirs:
        keyboard = usb.Keyboard()
        service = await usb.serve(keyboard, ours)
        await exchange(theirs, guest, p.DeviceConnect)
        guest.send(p.StartInterruptReceiving(0x81, 1))
        await exchange(theirs, guest, p.InterruptReceivingStatus)
        keyboard.type("ab")
        got = await collect(theirs, guest, p.InterruptPacket, 4)
        assert [packet.data[2] for packet in got if isinstance(packet, p.InterruptPacket)] == [4, 0, 5, 0]
        service.unplug()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_over_streams(cancelled: bool) -> None:
    ours, theirs = pair()
    reader, writer = await asyncio.open_connection(sock=ours)
    keyboard = usb.Keyboard()
    task = asyncio.create_task(usb.serve_streams(keyboard, reader, writer))
    guest = usb.Connection("guest")
    with theirs:
        await exchange(theirs, guest, p.DeviceConnect)
        if cancelled:
            task.cancel()
        else:
            keyboard.unplug()
        await exchange(theirs, guest, p.DeviceDisconnect)
        async with asyncio.timeout(30):
            with suppress(asyncio.CancelledError):
                assert await task == "unplugged"
        assert task.cancelled() is cancelled


async def test_guest_that_does_not_read_is_not_listened_to() -> None:
    """Requests for more than a socket holds: memory stays bounded, as reading pauses."""
    medium = Memory()
    ours, theirs = pair()
    guest = usb.Connection("guest")
    loop = asyncio.get_running_loop()
    with theirs:
        service = await usb.serve(usb.MassStorage(medium), ours)
        await exchange(theirs, guest, p.DeviceConnect)
        sent = 0
        for id in range(1, 2000):
            guest.send(p.ControlPacket(0x80, 6, 0x80, 0, 0x0200, 0, 255, id))
            guest.send(p.CancelDataPacket(id))
        data = guest.data_to_send() * 1
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await loop.sock_sendall(theirs, data)
                sent = len(data)
        assert service.redirection.ended is None and sent
        service.unplug()


async def test_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        ours, theirs = pair()
        stick = usb.MassStorage(path)
        service = await usb.serve(stick, ours)
        await exchange(theirs, usb.Connection("guest"), p.DeviceConnect)
        service.unplug()
        theirs.close()
        async with asyncio.timeout(30):
            await service.ended()
        stick.close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_on_the_daemons_loop() -> None:
    """uvloop's transports are not asyncio's."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_serves_reads_from_a_thread_and_unplugs())
        runner.run(test_end_of_the_stream_is_no_error())
        runner.run(test_keys_typed_go_out_by_themselves())
