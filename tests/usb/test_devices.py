"""Keyboard, tablet, serial port, pseudo-terminal: what a guest gets of them, and how a device leaves."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.usb.desk import Desk, Host
from tests.usb.sampler import Sampler
from tests.usb.test_storage import Memory

from corral import usb
from corral.errors import InvalidArgument, OperationInvalid
from corral.usb import Speed, Status
from corral.usb import packets as p
from corral.usb.descriptors import unpack_configuration
from corral.usb.state import Phase


def reports(packets: Any) -> list[bytes]:
    return [packet.data for packet in packets if isinstance(packet, p.InterruptPacket)]


def test_keyboard_types_no_faster_than_its_interval() -> None:
    keyboard = usb.Keyboard()
    desk = Desk(keyboard)
    assert desk.ask(p.StartInterruptReceiving(0x81)).status == Status.SUCCESS
    keyboard.type("aB\n")
    first = reports(desk.move())
    assert first == [bytes((0, 0, 4)).ljust(8, b"\0")]
    assert reports(desk.pass_time(0.005)) == []
    rest = [report for _ in range(8) for report in reports(desk.pass_time(0.010))]
    assert [(report[0], report[2]) for report in rest] == [(0, 0), (2, 5), (0, 0), (0, 40), (0, 0)]
    assert keyboard.waiting == 0


def test_keyboard_lamps_and_its_limits() -> None:
    keyboard = usb.Keyboard()
    desk = Desk(keyboard)
    assert desk.control(0x21, 9, 0x0200, 0, b"\2").status == Status.SUCCESS
    assert keyboard.lamps == 2
    with pytest.raises(InvalidArgument, match="no key for 'é'"):
        keyboard.type("é")
    with pytest.raises(InvalidArgument):
        keyboard.press(0, 1, 2, 3, 4, 5, 6, 7)
    with pytest.raises(OperationInvalid, match="not fetched"):
        keyboard.type("a" * 40000)


@given(st.text("abcXYZ019 !@#$%^&*()-_=+[]{}\\|;:'\"`~,<.>/?\n\t", max_size=20))
def test_every_character_has_its_own_stroke(text: str) -> None:
    from corral.usb.keys import strokes

    pressed = strokes(text)
    assert len(set(pressed)) == len(set(text))
    assert all(0x04 <= usage <= 0x38 for _, usage in pressed)


def test_tablet_reports_where_it_points() -> None:
    tablet = usb.Tablet()
    desk = Desk(tablet)
    desk.ask(p.StartInterruptReceiving(0x81))
    tablet.move(1, 0x7FFF, buttons=1, wheel=-1)
    assert reports(desk.move()) == [b"\x01\x01\x00\xff\x7f\xff"]
    with pytest.raises(InvalidArgument):
        tablet.move(0x8000, 0)


@pytest.mark.parametrize("device", [usb.Keyboard, usb.Tablet, usb.Serial])
@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH])
def test_descriptors_are_what_the_guest_was_told(device: Any, speed: Speed) -> None:
    desk = Desk(device(speed=speed))
    data = desk.control(0x80, 6, 0x0200, 0, 0x1000).data
    configuration = unpack_configuration(data)
    assert configuration.pack() == data
    (told,) = [packet for packet in desk.news if isinstance(packet, p.InterfaceInfo)]
    assert told.interfaces == tuple(
        (i.number, i.device_class, i.subclass, i.protocol) for i in configuration.interfaces
    )
    (endpoints,) = [packet for packet in desk.news if isinstance(packet, p.EpInfo)]
    for interface in configuration.interfaces:
        for endpoint in interface.endpoints:
            at = p.index(endpoint.address)
            assert (endpoints.type[at], endpoints.max_packet_size[at]) == (endpoint.type, endpoint.max_packet)
    (connect,) = [packet for packet in desk.news if isinstance(packet, p.DeviceConnect)]
    assert (connect.speed, connect.vendor_id) == (speed, 0x1D6B)


def test_report_descriptors_are_given() -> None:
    for device in (usb.Keyboard(), usb.Tablet()):
        data = Desk(device).control(0x81, 6, 0x2200, 0, 1000).data
        assert data == device.reports and data.count(0xC0) >= 1


def test_serial_port_both_ways() -> None:
    port = usb.Serial()
    desk = Desk(port)
    taken: list[bytes] = []
    port.on_data = lambda data: taken.append(data) is None
    assert desk.control(0x21, 0x20, 0, 0, bytes.fromhex("00c201000000 08".replace(" ", ""))).status == Status.SUCCESS
    assert port.line == (115200, 0, 0, 8)
    assert desk.control(0xA1, 0x21, 0, 0, 7).data == bytes.fromhex("00c20100000008")
    desk.control(0x21, 0x22, 3)
    assert port.open
    assert desk.write(3, b"to us").length == 5 and taken == [b"to us"]
    assert desk.read(0x82, 64) is None
    assert port.send(b"to the guest") == 12
    (answer,) = desk.move()
    assert isinstance(answer, p.BulkPacket) and answer.data == b"to the guest"


def test_serial_port_holds_a_guest_that_is_too_fast_and_does_not_grow() -> None:
    port = usb.Serial()
    desk = Desk(port)
    port.on_data = lambda data: False
    assert desk.write(3, b"wait") is None
    port.on_data = lambda data: True
    port.resume()
    assert [packet.length for packet in desk.move()] == [4]  # type: ignore[attr-defined]
    assert port.send(bytes(1 << 20)) == 65536 and port.room == 0


def test_bulk_receiving_keeps_transfers_in_flight() -> None:
    port = usb.Serial()
    desk = Desk(port)
    status = desk.ask(p.StartBulkReceiving(0, 512, 0x82, 4))
    assert (status.status, status.endpoint) == (Status.SUCCESS, 0x82)
    assert desk.ask(p.StartBulkReceiving(0, 100, 0x82, 4)).status == Status.INVAL
    for number in range(10):
        port.send(b"%d" % number)
        desk.move()
        desk.pass_time(0)
    got = [packet for packet in desk.news if isinstance(packet, p.BufferedBulkPacket)]
    assert b"".join(packet.data for packet in got) == b"0123456789"
    assert [packet.id for packet in got] == list(range(len(got)))
    assert desk.ask(p.StopBulkReceiving(0, 0x82)).status == Status.SUCCESS
    port.send(b"late")
    assert desk.move() == []


def test_halted_endpoint_ends_polling_with_a_stall() -> None:
    keyboard = usb.Keyboard()
    desk = Desk(keyboard)
    desk.ask(p.StartInterruptReceiving(0x81))
    assert desk.control(0x02, 3, 0, 0x81).status == Status.SUCCESS
    (ended,) = [each for each in desk.news if isinstance(each, p.InterruptReceivingStatus) and each.status]
    assert ended.status == Status.STALL
    assert desk.control(0x82, 0, 0, 0x81, 2).data == b"\1\0"


def test_configuration_and_interfaces() -> None:
    desk = Desk(usb.Serial())
    assert desk.ask(p.GetConfiguration()).configuration == 1
    assert desk.ask(p.SetConfiguration(2)).status == Status.STALL
    assert desk.ask(p.SetConfiguration(0)).configuration == 0
    assert desk.read(0x82, 64).status == Status.INVAL
    before = len(desk.news)
    assert desk.ask(p.SetConfiguration(1)).status == Status.SUCCESS
    assert [type(packet) for packet in desk.news[before:]] == [p.EpInfo, p.InterfaceInfo, p.ConfigurationStatus]
    assert desk.ask(p.SetAltSetting(1, 0)).status == Status.SUCCESS
    assert desk.ask(p.SetAltSetting(1, 1)).status == Status.STALL
    assert desk.ask(p.GetAltSetting(1)).alt == 0
    assert desk.ask(p.GetAltSetting(9)).status == Status.INVAL


def test_unplugged_device_leaves_and_answers_what_waits() -> None:
    host = Host(usb.MassStorage(Memory()))
    assert host.read(0x81, 512) is None
    host.device.unplug()  # type: ignore[attr-defined]
    host.redirection.tick(1)
    received = host.move()
    assert [type(packet) for packet in received] == [p.BulkPacket, p.DeviceDisconnect]
    assert received[0].status == Status.CANCELLED  # type: ignore[attr-defined]
    assert host.redirection.ended == "unplugged" and not host.redirection.failed
    assert host.guest.phase is Phase.IDLE


def test_filters_of_both_sides() -> None:
    no_storage = usb.Filter.parse("0x08,-1,-1,-1,0|-1,-1,-1,-1,1")
    ours = usb.Redirection(usb.MassStorage(Memory()), filter=no_storage)
    ours.receive_data(usb.Connection("guest").data_to_send(), 0)
    assert ours.failed and ours.ended is not None and "our filter" in ours.ended
    for text, ended in ((str(no_storage), "guest's filter keeps"), ("nonsense", "cannot be read"), ("", "keeps")):
        desk = Desk(usb.MassStorage(Memory()))
        desk.guest.send(p.FilterFilter(text))
        desk.move()
        assert desk.redirection.failed and ended in (desk.redirection.ended or "")
        assert isinstance(desk.news[-1], p.DeviceDisconnect)
    desk = Desk(usb.MassStorage(Memory()))
    desk.guest.send(p.FilterReject())
    desk.move()
    assert desk.redirection.failed


async def test_pty_joins_a_program_and_the_guest() -> None:
    port = usb.Serial()
    desk = Desk(port)
    with usb.Pty(port) as pty:
        terminal = os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
        os.set_blocking(terminal, False)
        os.write(terminal, b"\x00\x03\r\nraw")
        assert desk.read(0x82, 64) is None or True
        async with asyncio.timeout(30):
            while not any(getattr(packet, "data", b"") == b"\x00\x03\r\nraw" for packet in desk.news):
                await asyncio.sleep(0.01)
                desk.move()
        total = 1 << 20
        sent = 0
        waiting = False
        while sent < total and not waiting:
            waiting = desk.write(3, bytes(4096)) is None
            sent += 4096
        assert waiting and sent < 1 << 19  # nobody reads the terminal: the guest is held
        got = 0
        async with asyncio.timeout(30):
            while got < sent:
                await asyncio.sleep(0)
                try:
                    got += len(os.read(terminal, 65536))
                except BlockingIOError:
                    await asyncio.sleep(0.01)
                desk.move()
        assert got == sent
        os.close(terminal)
    pty.close()


def test_isochronous_stream_keeps_the_pace_of_the_bus() -> None:
    """Packets come in time with the bus, what is too late is lost, and packets of the guest arrive."""
    sampler = Sampler()
    desk = Desk(sampler)
    assert desk.ask(p.StartIsoStream(0x81, 8, 3)).status == Status.INVAL  # the endpoint has no bandwidth yet
    assert desk.ask(p.SetAltSetting(0, 1)).status == Status.SUCCESS
    assert desk.ask(p.StartIsoStream(0x81, 8, 3)).status == Status.SUCCESS
    assert desk.ask(p.StartIsoStream(0x81, 8, 3)).status == Status.INVAL
    assert desk.pass_time(0.0079) == []
    packets = desk.pass_time(0.0002)
    assert [(each.id, each.length, each.data[:4]) for each in packets] == [  # type: ignore[attr-defined]
        (number, 192, number.to_bytes(4, "little")) for number in range(8)
    ]
    assert len(desk.pass_time(0.016)) == 16
    assert len(desk.pass_time(1.0)) == 24  # three requests in flight are all that a bus could have filled
    assert desk.ask(p.StartIsoStream(0x02, 8, 3)).status == Status.SUCCESS
    desk.guest.send(p.IsoPacket(0x02, 0, 3, 0, b"abc"))
    desk.move()
    assert sampler.given == [b"abc"]
    assert desk.ask(p.StopIsoStream(0x02)).status == Status.SUCCESS
    desk.guest.send(p.IsoPacket(0x02, 0, 3, 1, b"def"))
    assert desk.ask(p.StopIsoStream(0x81)).status == Status.SUCCESS
    assert desk.pass_time(1.0) == [] and sampler.given == [b"abc"]
    assert desk.ask(p.StartIsoStream(0x81, 0, 3)).status == Status.INVAL


def test_super_speed_is_told_and_its_requests_are_taken() -> None:
    """USB 3.0, 9.6: version 3.00, a binary object store, a companion to each endpoint; others stall at all of it."""
    desk = Desk(usb.MassStorage(Memory(8), speed=Speed.SUPER))
    connect = next(each for each in desk.news if isinstance(each, p.DeviceConnect))
    endpoints = next(each for each in desk.news if isinstance(each, p.EpInfo))
    assert connect.speed == Speed.SUPER
    assert [endpoints.max_packet_size[p.index(each)] for each in (0, 0x80, 0x81, 2)] == [512, 512, 1024, 1024]
    assert desk.control(0x80, 6, 0x0100, 0, 18).data[:8] == bytes((18, 1, 0x00, 0x03, 0, 0, 0, 9))
    store = desk.control(0x80, 6, 0x0F00, 0, 255).data
    assert store[:5] == bytes((5, 15, 22, 0, 2)) and len(store) == 22
    configuration = unpack_configuration(desk.control(0x80, 6, 0x0200, 0, 255).data)
    assert [each.extra for each in configuration.interfaces[0].endpoints] == [bytes((6, 48, 15, 0, 0, 0))] * 2
    asked = ((0x00, 48, 0, bytes(6)), (0x00, 49, 40, b""), (0x00, 3, 48, b""), (0x00, 1, 49, b""))
    slower = Desk(usb.MassStorage(Memory(8)))
    for kind, request, value, data in asked:
        assert desk.control(kind, request, value, 0, data).status == Status.SUCCESS
        assert slower.control(kind, request, value, 0, data).status == Status.STALL
    assert slower.control(0x80, 6, 0x0F00, 0, 255).status == Status.STALL
