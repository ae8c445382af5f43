"""The protocol itself: every packet both ways under any capabilities, the order of things, what is refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.errors import InvalidArgument
from corral.usb import packets as p
from corral.usb.connection import MAX_IN_FLIGHT, Connection, Lost
from corral.usb.packets import ALL_CAPABILITIES, Capability, Packet
from corral.usb.state import ANSWER

u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
ids = u32
ins, outs = st.integers(0x80, 0x8F), st.integers(0, 0x0F)
data = st.binary(max_size=300)
row = st.tuples(*[u8] * 32)


def pair(host: Capability = ALL_CAPABILITIES, guest: Capability = ALL_CAPABILITIES) -> tuple[Connection, Connection]:
    """A host and a guest that have said hello."""
    left, right = Connection("host", capabilities=host), Connection("guest", capabilities=guest)
    move(left, right)
    move(right, left)
    return left, right


def connected(**capabilities: Capability) -> tuple[Connection, Connection]:
    host, guest = pair(**capabilities)
    for packet in (p.EpInfo(), p.InterfaceInfo(), p.DeviceConnect(p.Speed.HIGH)):
        host.send(packet)
    move(host, guest)
    return host, guest


def move(source: Connection, target: Connection) -> list[Packet]:
    return target.receive_data(source.data_to_send())


def one(source: Connection, target: Connection, packet: Packet) -> Packet:
    source.send(packet)
    (received,) = move(source, target)
    return received


capabilities = (
    st.integers(0, 255)
    .map(Capability)
    .filter(lambda c: not c & Capability.BULK_STREAMS or bool(c & Capability.EP_INFO_MAX_PACKET_SIZE))
)

REQUESTS: dict[str, Any] = {
    "reset": st.builds(p.Reset, ids),
    "set_configuration": st.builds(p.SetConfiguration, u8, ids),
    "get_configuration": st.builds(p.GetConfiguration, ids),
    "set_alt_setting": st.builds(p.SetAltSetting, u8, u8, ids),
    "get_alt_setting": st.builds(p.GetAltSetting, u8, ids),
    "start_iso": st.builds(p.StartIsoStream, u8, u8, u8, ids),
    "stop_iso": st.builds(p.StopIsoStream, u8, ids),
    "start_interrupt": st.builds(p.StartInterruptReceiving, ins, ids),
    "stop_interrupt": st.builds(p.StopInterruptReceiving, ins, ids),
    "alloc_streams": st.builds(p.AllocBulkStreams, u32, u32, ids),
    "free_streams": st.builds(p.FreeBulkStreams, u32, ids),
    "cancel": st.builds(p.CancelDataPacket, ids),
    "start_bulk": st.builds(p.StartBulkReceiving, u32, st.integers(0, 1 << 20), ins, u8, ids),
    "stop_bulk": st.builds(p.StopBulkReceiving, u32, ins, ids),
    "control_out": st.builds(
        lambda e, r, t, v, i, id, d: p.ControlPacket(e, r, t, 0, v, i, len(d), id, d), outs, u8, u8, u16, u16, ids, data
    ),
    "control_in": st.builds(p.ControlPacket, ins, u8, u8, st.just(0), u16, u16, u16, ids),
    "bulk_out": st.builds(lambda e, s, id, d: p.BulkPacket(e, 0, len(d), s, id, d), outs, u32, ids, data),
    "bulk_in": st.builds(p.BulkPacket, ins, st.just(0), u16, u32, ids),
    "iso_out": st.builds(lambda e, id, d: p.IsoPacket(e, 0, len(d), id, d), outs, ids, data),
    "interrupt_out": st.builds(lambda e, id, d: p.InterruptPacket(e, 0, len(d), id, d), outs, ids, data),
    "filter": st.builds(p.FilterFilter, st.text("0123456789abcdefx,-|", max_size=200)),
    "reject": st.builds(p.FilterReject),
}
NEWS: dict[str, Any] = {
    "interfaces": st.builds(p.InterfaceInfo, st.lists(st.tuples(u8, u8, u8, u8), max_size=32).map(tuple)),
    "iso_status": st.builds(p.IsoStreamStatus, u8, u8, ids),
    "interrupt_status": st.builds(p.InterruptReceivingStatus, u8, ins, ids),
    "bulk_status": st.builds(p.BulkReceivingStatus, u32, ins, u8, ids),
    "iso_in": st.builds(lambda e, s, id, d: p.IsoPacket(e, s, len(d), id, d), ins, u8, ids, data),
    "interrupt_in": st.builds(lambda e, s, id, d: p.InterruptPacket(e, s, len(d), id, d), ins, u8, ids, data),
    "buffered": st.builds(lambda s, e, t, id, d: p.BufferedBulkPacket(s, len(d), e, t, id, d), u32, ins, u8, ids, data),
    "disconnect": st.builds(p.DeviceDisconnect),
}


@given(st.data(), st.sampled_from(sorted(REQUESTS)), capabilities, capabilities)
def test_every_request_arrives_as_it_was_sent(
    draw: st.DataObject, name: str, host_can: Capability, guest_can: Capability
) -> None:
    host, guest = connected(host=host_can, guest=guest_can)
    packet = draw.draw(REQUESTS[name])
    if type(packet).needs & ~(host_can & guest_can):
        with pytest.raises(InvalidArgument, match="needs"):
            guest.send(packet)
        return
    assert one(guest, host, packet) == packet


@given(st.data(), st.sampled_from(sorted(NEWS)), capabilities)
def test_everything_unasked_arrives_as_it_was_sent(draw: st.DataObject, name: str, can: Capability) -> None:
    host, guest = connected(host=can)
    packet = draw.draw(NEWS[name])
    if type(packet).needs & ~can:
        with pytest.raises(InvalidArgument, match="needs"):
            host.send(packet)
        return
    assert one(host, guest, packet) == packet


@given(row, row, row, st.tuples(*[u16] * 32), st.tuples(*[u32] * 32), capabilities)
def test_endpoints_arrive_as_far_as_both_can(
    type: Any, interval: Any, interface: Any, sizes: Any, streams: Any, can: Capability
) -> None:
    host, guest = pair(guest=can)
    received = one(host, guest, p.EpInfo(type, interval, interface, sizes, streams))
    nothing = (0,) * 32
    assert received == p.EpInfo(
        *(type, interval, interface),
        sizes if can & Capability.EP_INFO_MAX_PACKET_SIZE else nothing,
        streams if can & Capability.BULK_STREAMS else nothing,
    )


@given(st.data(), st.sampled_from(sorted(n for n in REQUESTS if "_in" in n or "_out" in n or "config" in n)))
def test_every_answer_belongs_to_its_request(draw: st.DataObject, name: str) -> None:
    host, guest = connected()
    request = one(guest, host, draw.draw(REQUESTS[name]))
    cls = ANSWER.get(type(request))
    if cls is None:
        return
    answer: Any = cls()
    answer.id = request.id  # type: ignore[attr-defined]
    if isinstance(request, p.BulkPacket | p.ControlPacket | p.InterruptPacket):
        answer.endpoint, answer.length = request.endpoint, request.length
        if request.endpoint & 0x80:
            answer.data = bytes(answer.length)
    assert one(host, guest, answer) == answer
    assert not host.in_flight and not guest.in_flight
    with pytest.raises(InvalidArgument, match="nobody asked"):
        host.send(answer)


@given(st.lists(st.integers(1, 40), min_size=1), st.booleans())
def test_packets_may_come_in_any_pieces(cuts: list[int], wide: bool) -> None:
    host, guest = connected(host=ALL_CAPABILITIES if wide else ALL_CAPABILITIES & ~Capability.IDS_64BITS)
    sent = [p.BulkPacket(2, 0, n, 0, n + 1, bytes([n]) * n) for n in range(0, 90, 7)]
    for packet in sent:
        guest.send(packet)
    stream, received, at = guest.data_to_send(), [], 0
    while at < len(stream):
        cut = cuts[at % len(cuts)]
        received += host.receive_data(stream[at : at + cut])
        at += cut
    assert received == sent


def test_hello_has_a_narrow_id_and_names_the_peer() -> None:
    hello = Connection("guest", version="x" * 80).data_to_send()
    assert len(hello) == 12 + 64 + 4
    assert struct.unpack_from("<III", hello) == (0, 68, 0)
    (received,) = Connection("host").receive_data(hello)
    assert received == p.Hello("x" * 63, ALL_CAPABILITIES)


def test_wide_ids_are_used_when_both_can() -> None:
    host, guest = connected()
    assert one(guest, host, p.GetConfiguration(2**63)) == p.GetConfiguration(2**63)
    narrow_host, narrow_guest = connected(guest=ALL_CAPABILITIES & ~Capability.IDS_64BITS)
    with pytest.raises(InvalidArgument):
        narrow_guest.send(p.GetConfiguration(2**32))
    assert one(narrow_guest, narrow_host, p.GetConfiguration(7)) == p.GetConfiguration(7)


def test_long_bulk_packets_need_the_capability() -> None:
    host, guest = connected()
    assert one(guest, host, p.BulkPacket(0x81, 0, 1 << 20, 0, 1)) == p.BulkPacket(0x81, 0, 1 << 20, 0, 1)
    _, guest = connected(host=ALL_CAPABILITIES & ~Capability.BULK_LENGTH_32BITS)
    with pytest.raises(InvalidArgument):
        guest.send(p.BulkPacket(0x81, 0, 1 << 16, 0, 1))


def test_device_is_announced_in_order() -> None:
    host, _ = pair()
    with pytest.raises(InvalidArgument, match="before EpInfo"):
        host.send(p.DeviceConnect())
    with pytest.raises(InvalidArgument, match="does not send"):
        host.send(p.DeviceDisconnect())


def test_device_leaves_and_another_comes() -> None:
    host, guest = connected()
    guest.send(p.BulkPacket(0x81, 0, 512, 0, 9))
    host.send(p.DeviceDisconnect())
    assert move(guest, host) == []  # was under way: dropped
    assert move(host, guest) == [p.DeviceDisconnect()]
    host.send(p.EpInfo())
    host.send(p.InterfaceInfo())
    with pytest.raises(InvalidArgument, match="acknowledged"):
        host.send(p.DeviceConnect())
    assert move(guest, host) == [p.DeviceDisconnectAck()]
    host.send(p.DeviceConnect())
    assert len(move(host, guest)) == 3


def raw(kind: int, body: bytes = b"", id: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<IIQ", kind, len(body) if length is None else length, id) + body


CONNECT = p.DeviceConnect.kind
REFUSED_BY_HOST = {
    "second hello": (raw(0, bytes(68)), "a second Hello"),
    "unknown": (raw(28), "unknown packet type 28"),
    "unknown data": (raw(105), "unknown packet type 105"),
    "the host's own": (raw(CONNECT, bytes(10)), "the host's to send"),
    "too short": (raw(6), "0 bytes of SetConfiguration"),
    "too long": (raw(6, b"\1\2"), "2 bytes of SetConfiguration"),
    "huge, before its data": (raw(101, length=0xFFFFFFF0), "bytes of BulkPacket"),
    "huge filter": (raw(23, length=1 << 20), "bytes of FilterFilter"),
    "filter without an end": (raw(23, b"0x08"), "has no end"),
    "filter not ascii": (raw(23, b"\xff\0"), "malformed FilterFilter"),
    "acknowledges nothing": (raw(24), "DeviceDisconnectAck with a device"),
    "data that is missing": (raw(101, struct.pack("<BBHIH", 2, 0, 5, 0, 0) + b"abc"), "3 bytes of data, 5 expected"),
    "data the wrong way": (raw(101, struct.pack("<BBHIH", 0x81, 0, 3, 0, 0) + b"abc"), "3 bytes of data, 0 expected"),
    "asks for too much": (raw(101, struct.pack("<BBHIH", 0x81, 0, 0, 0, 0xFFFF)), "at most"),
    "iso in from the guest": (raw(102, struct.pack("<BBH", 0x81, 0, 0)), "IsoPacket of the guest"),
    "interrupt in from the guest": (raw(103, struct.pack("<BBH", 0x81, 0, 0)), "InterruptPacket of the guest"),
    "polls an output": (raw(15, b"\x01"), "output endpoint"),
    "receives from an output": (raw(25, struct.pack("<IIBB", 0, 512, 1, 1)), "output endpoint"),
    "receives too much": (raw(25, struct.pack("<IIBB", 0, 1 << 31, 0x81, 1)), "for each transfer"),
}


@pytest.mark.parametrize("name", REFUSED_BY_HOST)
def test_host_refuses(name: str) -> None:
    host, _ = connected()
    stream, why = REFUSED_BY_HOST[name]
    (lost,) = host.receive_data(stream)
    assert isinstance(lost, Lost) and why in lost.reason and not lost.clean
    assert host.lost == lost.reason
    assert host.receive_data(raw(7)) == [] and host.data_to_send() == b""


REFUSED_BY_GUEST = {
    "connected already": (raw(CONNECT, bytes(10)), "DeviceConnect with a device"),
    "the guest's own": (raw(3), "the guest's to send"),
    "too many interfaces": (raw(4, struct.pack("<I128x", 33)), "33 interfaces"),
    "answers nobody": (raw(8, b"\0\1", id=4), "nobody asked"),
    "buffered data of an output": (raw(104, struct.pack("<IIBB", 0, 0, 1, 0)), "BufferedBulkPacket of the host"),
}


@pytest.mark.parametrize("name", REFUSED_BY_GUEST)
def test_guest_refuses(name: str) -> None:
    _, guest = connected()
    stream, why = REFUSED_BY_GUEST[name]
    (lost,) = guest.receive_data(stream)
    assert isinstance(lost, Lost) and why in lost.reason


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (struct.pack("<III", 7, 0, 0), "GetConfiguration before the hello"),
        (struct.pack("<III", 0, 10, 0), "10 bytes of Hello"),
        (struct.pack("<III", 0, 1 << 30, 0), "bytes of Hello"),
        (struct.pack("<III64xB", 0, 65, 0, 1), "bytes of capabilities"),
        (struct.pack("<III64xI", 0, 68, 0, 1), "without the endpoints' packet sizes"),
    ],
)
def test_first_packet_must_be_a_hello(stream: bytes, why: str) -> None:
    (lost,) = Connection("host").receive_data(stream)
    assert isinstance(lost, Lost) and why in lost.reason


def test_hello_without_capabilities_and_with_future_ones() -> None:
    (old,) = Connection("host").receive_data(struct.pack("<III64s", 0, 64, 0, b"old"))
    assert old == p.Hello("old")
    (new,) = Connection("host").receive_data(struct.pack("<III64sQ", 0, 72, 0, b"new", 2**64 - 1))
    assert new == p.Hello("new", ALL_CAPABILITIES)


def test_answer_must_fit_its_request() -> None:
    host, guest = connected()
    one(guest, host, p.BulkPacket(0x81, 0, 3, 0, 1))
    with pytest.raises(InvalidArgument, match="asked for 3"):
        host.send(p.BulkPacket(0x81, 0, 4, 0, 1, b"four"))
    guest.send(p.BulkPacket(0x81, 0, 3, 0, 2))
    (lost,) = guest.receive_data(raw(101, struct.pack("<BBHIH", 0x82, 0, 1, 0, 0) + b"x", id=2))
    assert isinstance(lost, Lost) and "asked for 3" in lost.reason


def test_requests_are_bounded_in_number_and_bytes() -> None:
    host, _ = connected()
    request = struct.pack("<BBHIH", 0x81, 0, 1, 0, 0)
    many = b"".join(raw(101, request, id=n) for n in range(MAX_IN_FLIGHT + 1))
    *good, lost = host.receive_data(many)
    assert len(good) == MAX_IN_FLIGHT and isinstance(lost, Lost) and "too many" in lost.reason
    host, _ = connected()
    large = struct.pack("<BBHIH", 0x81, 0, 0, 0, 0x200)
    *good, lost = host.receive_data(b"".join(raw(101, large, id=n) for n in range(3)))
    assert len(good) == 2 and isinstance(lost, Lost)


def test_id_in_use_is_refused() -> None:
    host, _ = connected()
    request = raw(101, struct.pack("<BBHIH", 0x81, 0, 1, 0, 0), id=5)
    first, lost = host.receive_data(request + request)
    assert isinstance(first, p.BulkPacket) and isinstance(lost, Lost) and "in use" in lost.reason


def test_end_between_packets_is_clean_and_within_one_is_not() -> None:
    host, _ = connected()
    assert host.receive_data(b"") == [Lost("the peer closed the connection", clean=True)]
    host, _ = connected()
    host.receive_data(b"\0")
    (lost,) = host.receive_data(b"")
    assert isinstance(lost, Lost) and not lost.clean and "within a packet" in lost.reason


def test_bulk_streams_need_packet_sizes() -> None:
    with pytest.raises(InvalidArgument):
        Connection("host", capabilities=Capability.BULK_STREAMS)


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_garbage_ends_the_connection_or_waits(garbage: bytes) -> None:
    for side in ("host", "guest"):
        connection = Connection(side)  # type: ignore[arg-type]
        for packet in connection.receive_data(garbage):
            assert isinstance(packet, Lost | p.Hello)


def test_id_of_a_cancelled_packet_is_free_at_once() -> None:
    """As QEMU's UHCI does it: the answers come in the order of the requests."""
    host, guest = Connection("host"), Connection("guest")
    for one, other in ((host, guest), (guest, host)):
        other.receive_data(one.data_to_send())
    for packet in (p.EpInfo(), p.InterfaceInfo(((0, 8, 6, 80),)), p.DeviceConnect(p.Speed.FULL)):
        host.send(packet)
    guest.receive_data(host.data_to_send())
    for length in (512, 64):
        guest.send(p.BulkPacket(2, 0, length, 0, 9, bytes(length)))
        if length == 512:
            guest.send(p.CancelDataPacket(9))
    assert [type(each) for each in host.receive_data(guest.data_to_send())] == [
        *(p.BulkPacket, p.CancelDataPacket, p.BulkPacket)
    ]
    host.send(p.BulkPacket(2, p.Status.CANCELLED, 512, 0, 9))
    host.send(p.BulkPacket(2, 0, 64, 0, 9))
    answers = guest.receive_data(host.data_to_send())
    assert [(each.status, each.length) for each in answers] == [(1, 512), (0, 64)]  # type: ignore[attr-defined]
    assert not host.in_flight and not guest.in_flight
    with pytest.raises(InvalidArgument, match="nobody asked for"):
        host.send(p.BulkPacket(2, 0, 64, 0, 9))
