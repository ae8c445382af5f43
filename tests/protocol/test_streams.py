"""Streams both ways: the handshakes of libvirt's protocol, races, holes, and tables without gaps."""

from __future__ import annotations

import struct

import pytest

from corral.errors import OperationFailed, RPCError
from corral.protocol import (
    Connection,
    Error,
    Event,
    StreamAbort,
    StreamData,
    StreamEnd,
    StreamEOF,
    StreamHole,
    procedure,
)
from corral.protocol.interface import STREAM_CHUNK
from corral.protocol.state import GONE, RECEIVED, SENT

DOWNLOAD = procedure("storage_vol_download")
UPLOAD = procedure("storage_vol_upload")
VOLUME = {"vol": {"pool": "p", "name": "v", "key": "k"}, "offset": 0, "length": 0, "flags": 0}


class Pair:
    """A client and a server with one stream opened between them."""

    def __init__(self, *, answered: bool = True) -> None:
        self.client = Connection("client")
        self.server = Connection("server")
        self.serial = self.client.call(UPLOAD, VOLUME)
        self.to_server()
        if answered:
            self.server.send_reply(self.serial, UPLOAD)
            self.to_client()

    def to_server(self) -> list[Event]:
        data = self.client.data_to_send()
        return self.server.receive_data(data, 0.0) if data else []

    def to_client(self) -> list[Event]:
        data = self.server.data_to_send()
        return self.client.receive_data(data, 0.0) if data else []

    def quiet(self) -> bool:
        """Nothing is left: no bytes to send, no stream remembered."""
        sides = (self.client, self.server)
        return not any(side.outgoing or len(side._streams) for side in sides)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_upload(pair: Pair) -> None:
    serial = pair.serial
    assert pair.client.send_stream_data(serial, UPLOAD, b"abc")
    assert pair.client.send_stream_hole(serial, UPLOAD, 1 << 40)
    assert pair.client.send_stream_end(serial, UPLOAD)
    assert pair.to_server() == [
        StreamData(serial, UPLOAD, b"abc"),
        StreamHole(serial, UPLOAD, 1 << 40),
        StreamEnd(serial, UPLOAD),
    ]
    assert pair.to_client() == [], "no confirmation before the data is safe"
    assert pair.server.send_stream_end(serial, UPLOAD)
    assert pair.to_client() == [StreamEnd(serial, UPLOAD)]
    assert pair.quiet()


def test_download(pair: Pair) -> None:
    serial = pair.serial
    pair.server.send_stream_data(serial, UPLOAD, b"abc")
    pair.server.send_stream_hole(serial, UPLOAD, 4096)
    assert pair.server.send_stream_end(serial, UPLOAD)
    assert pair.to_client() == [
        StreamData(serial, UPLOAD, b"abc"),
        StreamHole(serial, UPLOAD, 4096),
        StreamEOF(serial, UPLOAD),
    ]
    assert not pair.server.send_stream_data(serial, UPLOAD, b"late")
    assert pair.client.send_stream_end(serial, UPLOAD)
    assert pair.to_server() == [StreamEnd(serial, UPLOAD)]
    assert pair.to_client() == [StreamEnd(serial, UPLOAD)], "confirmed without the handler"
    assert pair.quiet()


def test_big_data_goes_in_packets_every_libvirt_takes(pair: Pair) -> None:
    data = bytes(range(256)) * 4096
    pair.client.send_stream_data(pair.serial, UPLOAD, data)
    pieces = [event.data for event in pair.to_server() if isinstance(event, StreamData)]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) == STREAM_CHUNK == 262120


def test_a_refused_upload(pair: Pair) -> None:
    """The client finishes, and the daemon says that the data is not safe."""
    pair.client.send_stream_end(pair.serial, UPLOAD)
    pair.to_server()
    pair.server.send_stream_abort(pair.serial, UPLOAD, OperationFailed("disk full"))
    (event,) = pair.to_client()
    assert isinstance(event, StreamAbort) and "disk full" in str(event.error)
    assert pair.quiet()


def test_client_aborts(pair: Pair) -> None:
    pair.client.send_stream_abort(pair.serial, UPLOAD)
    pair.server.send_stream_data(pair.serial, UPLOAD, b"crossing")
    (event,) = pair.to_server()
    assert isinstance(event, StreamAbort)
    assert pair.to_client() == [StreamEnd(pair.serial, UPLOAD)], "crossing data is dropped, the abort confirmed"
    assert not pair.server.send_stream_data(pair.serial, UPLOAD, b"late")
    assert pair.quiet()


def test_daemon_aborts(pair: Pair) -> None:
    pair.client.send_stream_data(pair.serial, UPLOAD, b"crossing")
    pair.server.send_stream_abort(pair.serial, UPLOAD, OperationFailed("gone"))
    assert pair.to_server() == []
    (event,) = pair.to_client()
    assert isinstance(event, StreamAbort) and isinstance(event.error, OperationFailed)
    assert not pair.client.send_stream_data(pair.serial, UPLOAD, b"late")
    assert not pair.client.send_stream_end(pair.serial, UPLOAD)
    assert pair.quiet()


def test_a_failed_call_opens_no_stream() -> None:
    pair = Pair(answered=False)
    pair.server.send_error(pair.serial, UPLOAD, OperationFailed("no"))
    (event,) = pair.to_client()
    assert isinstance(event, Error)
    assert pair.quiet()


def test_client_changes_its_mind_before_the_answer() -> None:
    pair = Pair(answered=False)
    assert pair.client.send_stream_abort(pair.serial, UPLOAD)
    assert pair.client.data_to_send() == b""
    pair.server.send_reply(pair.serial, UPLOAD)
    pair.server.send_stream_data(pair.serial, UPLOAD, b"unwanted")
    events = pair.to_client()
    assert [type(event).__name__ for event in events] == ["Reply"]
    (event,) = pair.to_server()
    assert isinstance(event, StreamAbort)
    assert pair.to_client() == [StreamEnd(pair.serial, UPLOAD)]
    assert pair.quiet()


def test_no_data_before_the_answer() -> None:
    pair = Pair(answered=False)
    assert not pair.client.send_stream_data(pair.serial, UPLOAD, b"early")
    assert not pair.server.send_stream_data(pair.serial, UPLOAD, b"early")
    assert not pair.client.stream_open(pair.serial)


def test_data_may_overtake_the_answer() -> None:
    """libvirtd does so: its event loop and its workers write to one queue."""
    pair = Pair(answered=False)
    hand = Pair()
    hand.server.send_stream_data(hand.serial, UPLOAD, b"early")
    hand.server.send_stream_end(hand.serial, UPLOAD)
    early = hand.server.data_to_send()
    pair.server.send_reply(pair.serial, UPLOAD)
    events = pair.client.receive_data(early + pair.server.data_to_send(), 0.0)
    assert [type(event).__name__ for event in events] == ["StreamData", "StreamEOF", "Reply"]
    assert pair.client.send_stream_end(pair.serial, UPLOAD)
    assert pair.to_server() == [StreamEnd(pair.serial, UPLOAD)]


def test_empty_data_never_means_the_end_by_accident(pair: Pair) -> None:
    assert pair.server.send_stream_data(pair.serial, UPLOAD, b"")
    assert pair.to_client() == []


def test_a_bad_hole_breaks_the_stream_only(pair: Pair) -> None:
    body = b"abc"
    head = struct.pack(">IIIiIII", 28 + len(body), UPLOAD.program, 1, UPLOAD.number, 6, pair.serial, 2)
    assert pair.server.receive_data(head + body, 0.0) == []
    (event,) = pair.to_client()
    assert isinstance(event, StreamAbort) and isinstance(event.error, RPCError)
    assert pair.server.lost is None


def test_go_libvirt_never_confirms_a_download() -> None:
    """It takes the empty packet as the end and opens the next one; that must not add up."""
    server = Connection("server", max_streams=4)
    client = Connection("client")
    for _ in range(50):
        serial = client.call(DOWNLOAD, VOLUME)
        (call,) = server.receive_data(client.data_to_send(), 0.0)
        server.send_reply(call.serial, DOWNLOAD)  # type: ignore[attr-defined]
        server.send_stream_end(serial, DOWNLOAD)
        assert server.data_to_send()
        assert len(server._streams) <= 4


def test_streams_are_bounded() -> None:
    server = Connection("server", max_streams=2)
    client = Connection("client")
    for _ in range(3):
        client.call(DOWNLOAD, VOLUME)
    assert len(server.receive_data(client.data_to_send(), 0.0)) == 2
    (error,) = client.receive_data(server.data_to_send(), 0.0)
    assert isinstance(error, Error) and "too many streams" in str(error.error)


def test_a_serial_has_one_stream(pair: Pair) -> None:
    body = pair.client.call(UPLOAD, VOLUME)
    data = bytearray(pair.client.data_to_send())
    struct.pack_into(">I", data, 20, pair.serial)
    assert pair.server.receive_data(bytes(data), 0.0) == [] and body != pair.serial
    assert b"already has a stream" in pair.server.data_to_send()
    assert pair.server.stream_open(pair.serial)


def test_the_tables_have_no_gaps() -> None:
    """Every state that a step leads to has a row in both tables of its role, and every row can be reached."""
    for role in ("server", "client"):
        steps = [step for table in (RECEIVED, SENT) for row in table[role].values() for step in row.values()]
        reached = {step.state for step in steps} - {GONE} | {"OPENING"}
        assert reached == set(RECEIVED[role]) == set(SENT[role])


def test_every_stream_can_be_finished() -> None:
    """From every state some path of packets and calls leads to GONE."""
    for role in ("server", "client"):
        can_end = {GONE}
        while True:
            more = {
                state
                for table in (RECEIVED, SENT)
                for state, row in table[role].items()
                if any(step.state in can_end for step in row.values())
            }
            if more <= can_end:
                break
            can_end |= more
        assert can_end >= set(RECEIVED[role])
