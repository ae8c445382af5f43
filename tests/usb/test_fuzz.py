"""Malformed and disordered bytes from either side end that redirection with one error, and nothing else."""

from __future__ import annotations

import random
import resource
import struct

import pytest
from tests.usb.desk import Desk
from tests.usb.test_storage import Memory

from corral.usb import Keyboard, MassStorage, Serial
from corral.usb import packets as p
from corral.usb.connection import MAX_IN_FLIGHT, Connection, Lost
from corral.usb.packets import Packet
from corral.usb.transfer import Target

_KINDS = (*range(28), 100, 101, 102, 103, 104)


def session() -> tuple[list[bytes], list[bytes]]:
    """What a guest and a host say to each other, packet by packet, in a good session."""
    host, guest = Connection("host"), Connection("guest")
    said: tuple[list[bytes], list[bytes]] = [], []

    def step(sender: Connection, receiver: Connection, *packets: Packet) -> None:
        for packet in packets:
            sender.send(packet)
            data = sender.data_to_send()
            said[sender is host].append(data)
            receiver.receive_data(data)

    for sender, receiver in ((host, guest), (guest, host)):
        data = sender.data_to_send()
        said[sender is host].append(data)
        receiver.receive_data(data)
    step(guest, host, p.FilterFilter("-1,-1,-1,-1,1"))
    step(host, guest, p.EpInfo(), p.InterfaceInfo(((0, 8, 6, 80),)), p.DeviceConnect(2))
    step(guest, host, p.SetConfiguration(1, 1), p.ControlPacket(0x80, 6, 0x80, 0, 0x100, 0, 18, 2))
    step(guest, host, p.BulkPacket(2, 0, 31, 0, 3, b"USBC" + bytes(27)), p.BulkPacket(0x81, 0, 13, 0, 4))
    step(guest, host, p.StartInterruptReceiving(0x81, 5), p.CancelDataPacket(4), p.GetAltSetting(0, 6))
    step(host, guest, p.ConfigurationStatus(0, 1, 1), p.ControlPacket(0x80, 6, 0x80, 0, 0x100, 0, 4, 2, b"abcd"))
    step(host, guest, p.BulkPacket(2, 0, 31, 0, 3), p.BulkPacket(0x81, 1, 0, 0, 4), p.AltSettingStatus(0, 0, 0, 6))
    step(host, guest, p.InterruptReceivingStatus(0, 0x81, 5), p.InterruptPacket(0x81, 0, 2, 0, b"hi"))
    step(host, guest, p.DeviceDisconnect())
    return said


def damaged(chance: random.Random, said: list[bytes]) -> bytes:
    """A session with something wrong: bits, lengths, types, order, missing or repeated packets, or noise."""
    packets = [bytearray(packet) for packet in said]
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(packets))
        packet = packets[at]
        match chance.randrange(8):
            case 0 if packet:
                packet[chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
            case 1 if len(packet) >= 8:
                struct.pack_into("<I", packet, 4, chance.choice((0, 1, 63, 64, 0xFFFF, 1 << 20, 1 << 31, 0xFFFFFFFF)))
            case 2 if len(packet) >= 4:
                struct.pack_into("<I", packet, 0, chance.choice(_KINDS))
            case 3:
                packets.insert(chance.randrange(len(packets)), bytearray(packet))
            case 4 if len(packets) > 1:
                del packets[at]
            case 5:
                chance.shuffle(packets)
            case 6:
                packets[at] = packet[: chance.randrange(len(packet) + 1)]
            case _:
                packets.insert(at, bytearray(chance.randbytes(chance.randrange(64))))
    return b"".join(packets)


def made(chance: random.Random) -> bytes:
    """A well-formed header of any type with a body of any kind, after a good beginning."""
    body = chance.randbytes(chance.choice((0, 0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 40, 132, 288)))
    return struct.pack("<IIQ", chance.choice(_KINDS), len(body), chance.randrange(4)) + body


def check(connection: Connection, received: list[Packet]) -> None:
    """Nothing after the end, the end said once, and memory bounded."""
    ends = [packet for packet in received if isinstance(packet, Lost)]
    assert len(ends) == (connection.lost is not None)
    assert not ends or (received[-1] is ends[0] and ends[0].reason)
    assert len(connection.in_flight) <= MAX_IN_FLIGHT
    if connection.lost is not None:
        assert connection.receive_data(b"more") == [] and connection.data_to_send() == b""
        assert not connection.in_flight


def feed(chance: random.Random, connection: Connection, stream: bytes) -> None:
    received: list[Packet] = []
    while stream:
        cut = chance.choice((1, 7, 64, len(stream)))
        received += connection.receive_data(stream[:cut])
        stream = stream[cut:]
    check(connection, received)


def run(rounds: int, seed: int) -> int:
    """Damaged sessions and made-up packets into both sides; how many ended the connection."""
    chance = random.Random(seed)
    from_guest, from_host = session()
    ended = 0
    for number in range(rounds):
        side = "host" if number % 2 else "guest"
        said = from_guest if side == "host" else from_host
        connection = Connection(side)  # type: ignore[arg-type]
        if number % 3 == 0:
            stream = b"".join(said[: chance.randrange(1, len(said))]) + made(chance) + made(chance)
        else:
            stream = damaged(chance, said)
        feed(chance, connection, stream)
        ended += connection.lost is not None
    return ended


def test_fifty_thousand_damaged_sessions() -> None:
    ended = run(50_000, 1)
    assert 20_000 < ended < 50_000  # it finds what is wrong, and some damage is none


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_damaged_sessions() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = run(1_000_000, 2)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"1000000 damaged sessions: {ended} ended with an error, memory grew by {grown} KiB")
    assert 400_000 < ended < 1_000_000
    assert grown < 32 << 10


@pytest.mark.parametrize("kind", ["stick", "keyboard", "serial"])
def test_devices_survive_what_a_guest_makes_up(kind: str) -> None:
    """Well-formed requests without sense, to the devices themselves."""
    chance = random.Random(kind)
    for _ in range(300):
        device: Target = {"stick": lambda: MassStorage(Memory(8)), "keyboard": Keyboard, "serial": Serial}[kind]()
        desk = Desk(device)
        if isinstance(device, Keyboard):
            device.type("hello\n")
        for id in range(chance.randrange(1, 30)):
            data = chance.randbytes(chance.choice((0, 1, 7, 8, 31, 64)))
            endpoint = chance.choice((1, 2, 3, 0x81, 0x82, 0x83))
            # Requests that devices know, and others.
            type = chance.choice((0x80, 0x81, 0x82, 0xA1, 0x00, 0x01, 0x02, 0x21, 0x40, 0xC0))
            request, value = chance.choice((0, 1, 3, 5, 6, 9, 10, 11, 0x20, 0x22, 254, 255)), chance.randrange(0x1000)
            inwards = type & 0x80
            control = p.ControlPacket(
                *(type & 0x80, request, type, 0, value, chance.choice((0, 1, 0x81, 2))),
                *((chance.randrange(300), id) if inwards else (len(data), id, data)),
            )
            bulk_data = b"" if endpoint & 0x80 else data
            length = chance.choice((0, 8, 13, 512, 1 << 20)) if endpoint & 0x80 else len(data)
            choices: list[Packet] = [
                *(control, control, p.BulkPacket(endpoint, 0, length, 0, id, bulk_data)),
                *(p.StartInterruptReceiving(endpoint | 0x80, id), p.StopInterruptReceiving(endpoint | 0x80, id)),
                *(p.StartBulkReceiving(0, 512, endpoint | 0x80, 3, id), p.StopBulkReceiving(0, endpoint | 0x80, id)),
                *(p.SetConfiguration(chance.randrange(3), id), p.SetAltSetting(chance.randrange(3), 0, id)),
                *(p.Reset(id), p.CancelDataPacket(chance.randrange(30)), p.StartIsoStream(endpoint, 8, 8, id)),
                *(p.AllocBulkStreams(6, 4, id), p.FreeBulkStreams(6, id), p.GetAltSetting(0, id)),
            ]
            desk.guest.send(chance.choice(choices))
            desk.move()
            desk.pass_time(0.05)
        assert desk.guest.lost is None, desk.guest.lost
        assert desk.redirection.ended is None, desk.redirection.ended
        desk.redirection.unplug()
        desk.move()
        device.close()
