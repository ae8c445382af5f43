"""The check of a redirection that somebody else carries: what two good sides say passes, anything else does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.usb.desk import Host

from corral import usb
from corral.usb import packets as p
from corral.usb.connection import Connection
from corral.usb.inspection import Inspection, Refused
from corral.usb.medium import Medium
from corral.usb.packets import Capability, Packet
from corral.usb.scsi import BLOCK


class Memory:
    """A medium in memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read_only = False
        self.data = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def read_now(self, offset: int, length: int) -> bytes:
        return self.read(offset, length)

    def write(self, offset: int, chunks: list[bytes]) -> None:
        data = b"".join(chunks)
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None: ...

    def close(self) -> None: ...


def medium(blocks: int) -> Medium:
    return Memory(blocks * BLOCK)  # type: ignore[return-value]


class Watched(Host):
    """A stick and its guest, every byte between them inspected, in pieces of any size."""

    def __post_init__(self) -> None:
        self.inspection = Inspection()
        self.pieces = random.Random(7)
        super().__post_init__()

    def inspect(self, side: str, data: bytes) -> None:
        while data:
            size = self.pieces.choice((1, 5, 12, 40, 5000))
            self.inspection.pass_on(side, data[:size])  # type: ignore[arg-type]
            data = data[size:]

    def move(self) -> list[Packet]:
        received: list[Packet] = []
        while True:
            outwards, inwards = self.guest.data_to_send(), self.redirection.data_to_send()
            self.inspect("guest", outwards)
            self.inspect("host", inwards)
            jobs = self.redirection.take_jobs()
            if not (outwards or inwards or jobs):
                return received
            if outwards:
                self.redirection.receive_data(outwards, self.now)
            if inwards:
                received += self.guest.receive_data(inwards)
            for job in jobs:
                self.redirection.settle(job, job.attempt(), self.now)


def test_a_sticks_whole_life_passes() -> None:
    desk = Watched(usb.MassStorage(medium(256)))
    data = bytes(range(256)) * 32
    write = bytes((0x2A, 0, 0, 0, 0, 8, 0, 0, 16, 0))
    read = bytes((0x28, 0, 0, 0, 0, 8, 0, 0, 16, 0))
    assert desk.scsi(write, data)[0] == 0
    assert desk.scsi(read, len(data)) == (0, data, 0)
    desk.guest.send(p.BulkPacket(0x81, 0, 13, 0, 900))
    desk.guest.send(p.CancelDataPacket(900))
    assert any(isinstance(each, p.BulkPacket) for each in desk.move())
    desk.redirection.unplug()
    desk.move()
    assert desk.redirection.ended == "unplugged"


def greeted(capabilities: Capability = p.ALL_CAPABILITIES) -> tuple[Inspection, Connection, Connection]:
    """Two sides that have said hello."""
    inspection = Inspection()
    host, guest = Connection("host"), Connection("guest", capabilities=capabilities)
    for side, one, other in (("host", host, guest), ("guest", guest, host)):
        data = one.data_to_send()
        inspection.pass_on(side, data)  # type: ignore[arg-type]
        other.receive_data(data)
    return inspection, host, guest


@pytest.mark.parametrize("capabilities", [p.ALL_CAPABILITIES, p.NO_CAPABILITIES, Capability.IDS_64BITS])
def test_what_the_two_agreed_on_is_what_is_followed(capabilities: Capability) -> None:
    inspection, host, guest = greeted(capabilities)
    host.send(p.EpInfo(*[(0,) * 32 for _ in range(5)]))
    host.send(p.InterfaceInfo(((0, 8, 6, 0x50),)))
    host.send(p.DeviceConnect(2, 0, 0, 0, 1, 2, 3))
    inspection.pass_on("host", data := host.data_to_send())
    guest.receive_data(data)
    guest.send(p.GetConfiguration(5))
    inspection.pass_on("guest", guest.data_to_send())
    with pytest.raises(Refused, match="nobody asked for"):
        inspection.pass_on("host", header(p.ConfigurationStatus.kind, 2, 6, guest) + b"\0\1")


def test_a_guest_with_a_filter_says_it_with_its_hello() -> None:
    """It has heard the host's hello, and its own and the filter come in one piece."""
    inspection = Inspection()
    host, guest = Connection("host"), Connection("guest")
    hello = host.data_to_send()
    inspection.pass_on("host", hello)
    guest.receive_data(hello)
    guest.send(p.FilterFilter("-1,-1,-1,-1,0"))
    both = guest.data_to_send()
    inspection.pass_on("guest", both)
    received = host.receive_data(both)
    assert [type(each) for each in received] == [p.Hello, p.FilterFilter]
    with pytest.raises(Refused, match="more than a hello"):
        Inspection().pass_on("guest", both)


def header(kind: int, length: int, id: int, connection: Connection) -> bytes:
    wide = connection.negotiated & Capability.IDS_64BITS
    return kind.to_bytes(4, "little") + length.to_bytes(4, "little") + id.to_bytes(8 if wide else 4, "little")


@pytest.mark.parametrize(
    ("side", "data", "says"),
    [
        ("host", b"\1\0\0\0" + bytes(8), "before the hello"),
        ("guest", b"\0\0\0\0\1\0\0\0" + bytes(4), "before the hello"),
        ("guest", b"\0\0\0\0\x44\0\0\0" + bytes(4 + 68) + b"x", "more than a hello"),
        ("host", b"\0\0\0\0\x41\0\0\0" + bytes(4 + 65), "malformed Hello"),
    ],
)
def test_hellos_come_first_and_alone(side: str, data: bytes, says: str) -> None:
    inspection = Inspection()
    with pytest.raises(Refused, match=says):
        inspection.pass_on(side, data)  # type: ignore[arg-type]
        inspection.pass_on("guest", Connection("guest").data_to_send())


@pytest.mark.parametrize(
    ("side", "kind", "length", "says"),
    [
        ("host", 99, 0, "unknown packet type"),
        ("host", 1, 9, "bytes of DeviceConnect"),
        ("host", 3, 0, "the guest's to send"),
        ("guest", 1, 10, "the host's to send"),
        ("guest", 101, 1 << 31, "bytes of BulkPacket"),
        ("guest", 0, 68, "second Hello"),
        ("host", 2, 0, "DeviceDisconnect without a device"),
        ("guest", 24, 0, "ACK|DeviceDisconnectAck"),
    ],
)
def test_everything_else_in_its_order(side: str, kind: int, length: int, says: str) -> None:
    inspection, _, guest = greeted()
    data = header(kind, length, 1, guest) + bytes(min(length, 4096))
    with pytest.raises(Refused, match=says):
        inspection.pass_on(side, data)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["host", "guest"]), st.binary(max_size=200)), max_size=20), st.booleans())
def test_any_bytes_pass_or_are_refused(pieces: list[tuple[str, bytes]], hello: bool) -> None:
    inspection = greeted()[0] if hello else Inspection()
    for side, data in pieces:
        try:
            inspection.pass_on(side, data)  # type: ignore[arg-type]
        except Refused:
            return
