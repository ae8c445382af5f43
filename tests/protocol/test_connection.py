"""The connection without I/O: both roles against each other and against bytes written by hand."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from corral.errors import CorralError, InternalError, NoDomain, OperationAborted, RPCError
from corral.protocol import (
    Call,
    Connection,
    ConnectionLost,
    Error,
    Event,
    KeepaliveTimeout,
    Message,
    Reply,
    codec,
    procedure,
)
from corral.protocol.fault import decode_error

LOOKUP = procedure("domain_lookup_by_name")
GET_TYPE = procedure("connect_get_type")
LIFECYCLE = procedure("domain_event_callback_lifecycle")
AUTH_LIST = procedure("auth_list")
REMOTE = 0x20008086
KEEPALIVE = 0x6B656570
DOMAIN = {"name": "web", "uuid": bytes(range(16)), "id": 4}


def packet(
    program: int, version: int, number: int, kind: int, serial: int, status: int, body: bytes = b"", *, length: int = -1
) -> bytes:
    size = 28 + len(body) if length < 0 else length
    return struct.pack(">IIIiIII", size, program, version, number, kind, serial, status) + body


def header(data: bytes) -> tuple[int, ...]:
    """Program, version, procedure, type, serial, status of the only packet in `data`."""
    assert struct.unpack_from(">I", data)[0] == len(data)
    return struct.unpack_from(">IIiIII", data, 4)


def pump(source: Connection, target: Connection, now: float = 0.0) -> list[Event]:
    """Carry what `source` has to say to `target`."""
    data = source.data_to_send()
    return target.receive_data(data, now) if data else []


@pytest.fixture
def server() -> Connection:
    return Connection("server")


@pytest.fixture
def client() -> Connection:
    return Connection("client")


# Calls and replies.


def test_call_and_reply(server: Connection, client: Connection) -> None:
    serial = client.call(LOOKUP, {"name": "web"})
    (call,) = pump(client, server)
    assert call == Call(serial, LOOKUP, b"\0\0\0\3web\0")
    assert isinstance(call, Call) and call.args().name == "web"
    server.send_reply(call.serial, call.procedure, {"dom": DOMAIN})
    (reply,) = pump(server, client)
    assert isinstance(reply, Reply) and reply.serial == serial
    assert reply.ret().dom.id == 4
    assert client.outstanding == 0


def test_authentication_list_is_ordinary_data(server: Connection, client: Connection) -> None:
    serial = client.call(AUTH_LIST)
    (call,) = pump(client, server)
    assert isinstance(call, Call) and call.args() is None
    server.send_reply(serial, AUTH_LIST, {"types": [0]})
    (reply,) = pump(server, client)
    assert isinstance(reply, Reply) and reply.ret().types == [0]


def test_pipelined_calls_are_answered_in_any_order(server: Connection, client: Connection) -> None:
    serials = [client.call(LOOKUP, {"name": f"d{i}"}) for i in range(100)]
    calls = pump(client, server)
    assert [call.serial for call in calls] == serials  # type: ignore[attr-defined]
    for call in reversed(calls):
        assert isinstance(call, Call)
        if call.serial % 2:
            server.send_error(call.serial, call.procedure, NoDomain("gone"))
        else:
            server.send_reply(call.serial, call.procedure, {"dom": DOMAIN})
    answers = pump(server, client)
    assert [answer.serial for answer in answers] == serials[::-1]  # type: ignore[attr-defined]
    assert {type(answer) for answer in answers} == {Reply, Error}


@pytest.mark.parametrize("size", [1, 3, 27, 28, 29, 1000])
def test_any_fragmentation_gives_the_same_events(server: Connection, client: Connection, size: int) -> None:
    for i in range(20):
        client.call(LOOKUP, {"name": "n" * i * 7})
    data = client.data_to_send()
    events: list[Event] = []
    for start in range(0, len(data), size):
        events += server.receive_data(data[start : start + size], 0.0)
    assert events == Connection("server").receive_data(data, 0.0)
    assert len(events) == 20


def test_errors_travel_whole(server: Connection, client: Connection) -> None:
    serial = client.call(LOOKUP, {"name": "x"})
    pump(client, server)
    server.send_error(serial, LOOKUP, NoDomain("no domain with matching name 'x'"))
    (answer,) = pump(server, client)
    assert isinstance(answer, Error) and type(answer.error) is NoDomain
    assert str(answer.error) == "Domain not found: no domain with matching name 'x'"
    assert (answer.error.code, answer.error.domain) == (42, 10)


def test_unencodable_answer_is_an_error_and_sends_nothing(server: Connection) -> None:
    with pytest.raises(RPCError, match="Unable to encode message payload"):
        server.send_reply(1, LOOKUP, {"dom": None})
    assert server.data_to_send() == b""


def test_messages(server: Connection, client: Connection) -> None:
    server.send_event(LIFECYCLE, {"callbackID": 1, "msg": {"dom": DOMAIN, "event": 2, "detail": 0}})
    data = server.data_to_send()
    assert header(data) == (REMOTE, 1, 318, 2, 0, 0)
    (message,) = client.receive_data(data, 0.0)
    assert isinstance(message, Message) and message.procedure is LIFECYCLE
    assert message.msg().msg.dom.name == "web"


def test_serials_skip_what_is_outstanding(client: Connection) -> None:
    client._serial = 0xFFFFFFFE
    assert [client.call(GET_TYPE) for _ in range(3)] == [0xFFFFFFFF, 1, 2]
    client._serial = 0
    assert client.call(GET_TYPE) == 3


def test_own_program(server: Connection, client: Connection) -> None:
    serial = client.call(procedure("corral.host_report"))
    (call,) = pump(client, server)
    server.send_reply(serial, procedure("corral.host_report"), {"json": "{}"})
    (reply,) = pump(server, client)
    assert isinstance(call, Call) and isinstance(reply, Reply) and reply.ret().json == "{}"


# What is not ours is answered as libvirtd 11.3 answers it, and the connection lives on.


@pytest.mark.parametrize(
    ("sent", "answer", "text"),
    [
        (packet(0x1234, 1, 1, 0, 7, 0), (0x1234, 1, 1, 1, 7, 1), "Cannot find program 4660 version 1"),
        (packet(REMOTE, 2, 1, 0, 7, 0), (REMOTE, 2, 1, 1, 7, 1), "Cannot find program 536903814 version 2"),
        (packet(REMOTE, 1, 9999, 0, 7, 0), (REMOTE, 1, 9999, 1, 7, 1), "unknown procedure: 9999"),
        (packet(REMOTE, 1, -5, 0, 7, 0), (REMOTE, 1, -5, 1, 7, 1), "unknown procedure: -5"),
        (packet(REMOTE, 1, 107, 0, 7, 0), (REMOTE, 1, 107, 1, 7, 1), "unknown procedure: 107"),
        (packet(REMOTE, 1, 3, 0, 7, 1), (REMOTE, 1, 3, 1, 7, 1), "Unexpected message status 1"),
        (packet(KEEPALIVE, 1, 1, 0, 0, 0), (KEEPALIVE, 1, 1, 1, 0, 1), "Cannot find program 1801807216 version 1"),
    ],
)
def test_unknown_calls_get_libvirts_error(server: Connection, sent: bytes, answer: tuple[int, ...], text: str) -> None:
    assert server.receive_data(sent, 0.0) == []
    data = server.data_to_send()
    assert header(data) == answer
    error = decode_error(data[28:])
    assert (str(error), error.code, error.domain) == (text, 39, 7)
    assert server.receive_data(packet(REMOTE, 1, 3, 0, 8, 0), 0.0) == [Call(8, GET_TYPE, b"")]


@pytest.mark.parametrize(
    "sent",
    [
        packet(REMOTE, 1, 3, 1, 7, 0),
        packet(REMOTE, 1, 3, 2, 7, 0),
        packet(REMOTE, 1, 3, 77, 7, 0),
        packet(0x1234, 1, 3, 3, 7, 2),
        packet(REMOTE, 1, 201, 3, 7, 2, b"data of no stream"),
        packet(REMOTE, 1, 201, 3, 7, 7),
        packet(KEEPALIVE, 1, 9, 2, 0, 0),
        packet(KEEPALIVE, 2, 1, 2, 0, 0),
        packet(KEEPALIVE, 1, 2, 2, 0, 0),
    ],
)
def test_other_packets_that_do_not_belong_are_dropped(server: Connection, sent: bytes) -> None:
    assert server.receive_data(sent, 0.0) == []
    assert server.data_to_send() == b""
    assert server.lost is None


def test_undecodable_arguments_are_the_handlers_to_answer(server: Connection) -> None:
    (call,) = server.receive_data(packet(REMOTE, 1, 23, 0, 7, 0, b"\0\0"), 0.0)
    assert isinstance(call, Call)
    with pytest.raises(RPCError) as caught:
        call.args()
    server.send_error(call.serial, call.procedure, caught.value)
    assert str(decode_error(server.data_to_send()[28:])).startswith("Unable to decode message payload")


@pytest.mark.parametrize("length", [0, 3, 4, 27, 33554437, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_bad_length_ends_the_connection(server: Connection, length: int) -> None:
    """At once: four bytes are enough to know."""
    good = packet(REMOTE, 1, 3, 0, 1, 0)
    events = server.receive_data(good + struct.pack(">I", length), 0.0)
    assert events[0] == Call(1, GET_TYPE, b"")
    assert isinstance(events[1], ConnectionLost) and str(length) in events[1].reason
    assert server.receive_data(good, 0.0) == []
    server.send_reply(1, GET_TYPE, {"type": "QEMU"})
    assert server.data_to_send() == b""


def test_end_of_file(server: Connection) -> None:
    assert server.receive_data(b"", 0.0) == [ConnectionLost("end of file")]
    assert server.receive_data(b"", 0.0) == []


@pytest.mark.parametrize(
    "sent",
    [packet(REMOTE, 1, 3, 1, 9, 0), packet(REMOTE, 1, 3, 1, 9, 1), packet(REMOTE, 1, 9999, 1, 9, 0)],
)
def test_an_answer_to_no_call_ends_a_clients_connection(client: Connection, sent: bytes) -> None:
    (event,) = client.receive_data(sent, 0.0)
    assert isinstance(event, ConnectionLost)


def test_an_answer_to_another_procedure_ends_a_clients_connection(client: Connection) -> None:
    serial = client.call(GET_TYPE)
    (event,) = client.receive_data(packet(REMOTE, 1, 23, 1, serial, 0), 0.0)
    assert isinstance(event, ConnectionLost)


def test_an_unknown_event_is_dropped(client: Connection) -> None:
    assert client.receive_data(packet(REMOTE, 1, 9999, 2, 0, 0), 0.0) == []
    assert client.lost is None


def test_an_unreadable_error_is_still_an_error(client: Connection) -> None:
    serial = client.call(GET_TYPE)
    (event,) = client.receive_data(packet(REMOTE, 1, 3, 1, serial, 1, b"junk"), 0.0)
    assert isinstance(event, Error) and isinstance(event.error, RPCError)


def test_error_text_is_bounded_and_clean(server: Connection) -> None:
    server.send_error(1, GET_TYPE, InternalError("a\0b" + "x" * 10_000_000))
    data = server.data_to_send()
    assert len(data) < 200_000
    assert str(decode_error(data[28:])).startswith("internal error: a\\0b")


# Peers that are slow, silent or dead.


def test_half_a_header_has_a_deadline(server: Connection) -> None:
    assert server.next_deadline(0.0) is None
    server.receive_data(packet(REMOTE, 1, 3, 0, 1, 0)[:20], 100.0)
    deadline = server.next_deadline(100.0)
    assert deadline == 110.0
    server.receive_data(b"\0", 109.0)
    assert server.next_deadline(109.0) == deadline, "a byte now and then buys no time"
    assert server.tick(109.9) == []
    assert server.tick(110.0) == [ConnectionLost("a message was begun and not finished in time")]
    assert server.next_deadline(111.0) is None


def test_a_body_must_keep_coming(server: Connection) -> None:
    data = packet(REMOTE, 1, 23, 0, 1, 0, bytes(1000))
    server.receive_data(data[:100], 0.0)
    assert server.next_deadline(0.0) == 30.0
    server.receive_data(data[100:200], 20.0)
    assert server.next_deadline(20.0) == 50.0
    assert len(server.receive_data(data[200:], 49.0)) == 1
    assert server.next_deadline(49.0) is None


def test_time_does_not_count_while_we_do_not_read(server: Connection) -> None:
    server.start_keepalive(0.0)
    server.receive_data(b"\0\0", 0.0)
    server.reading = False
    for now in range(0, 1000, 5):
        assert server.tick(float(now)) == []
    server.reading = True
    assert isinstance(server.tick(2000.0)[0], ConnectionLost)


def test_a_peer_that_does_not_read_is_dropped(client: Connection) -> None:
    server = Connection("server", max_outgoing=100_000)
    body = codec("remote_connect_get_type_ret").encode({"type": "x" * 1000})
    for serial in range(200):
        server.send_reply_bytes(serial, GET_TYPE, body)
    assert server.lost is not None and "does not read" in server.lost
    assert server.outgoing == 0 and server.data_to_send() == b""
    assert server.next_deadline(5.0) == 5.0
    (event,) = server.tick(5.0)
    assert isinstance(event, ConnectionLost)


def test_one_big_answer_is_no_slow_reader() -> None:
    server = Connection("server", max_outgoing=100_000)
    server.send_reply(1, procedure("domain_get_xml_desc"), {"xml": "x" * 4_000_000})
    assert server.lost is None and len(server.data_to_send()) > 4_000_000


def test_refusals_count_against_the_bound() -> None:
    server = Connection("server", max_outgoing=100_000)
    (event,) = server.receive_data(packet(0x1234, 1, 1, 0, 7, 0) * 10_000, 0.0)
    assert isinstance(event, ConnectionLost)


def test_pings_are_answered_among_a_hundred_calls(server: Connection, client: Connection) -> None:
    for _ in range(100):
        client.call(GET_TYPE)
    ping = packet(KEEPALIVE, 1, 1, 2, 0, 0)
    events = server.receive_data(client.data_to_send() + ping, 0.0)
    assert len(events) == 100
    assert server.data_to_send() == packet(KEEPALIVE, 1, 2, 2, 0, 0)


def test_keepalive_asks_and_gives_up(server: Connection) -> None:
    server = Connection("server", keepalive_interval=5.0, keepalive_count=2)
    assert server.tick(100.0) == [] and server.data_to_send() == b"", "not before the client allowed it"
    server.start_keepalive(100.0)
    ping = packet(KEEPALIVE, 1, 1, 2, 0, 0)
    assert server.next_deadline(100.0) == 105.0
    assert server.tick(105.0) == [] and server.data_to_send() == ping
    assert server.tick(106.0) == [] and server.data_to_send() == b""
    assert server.tick(110.0) == [] and server.data_to_send() == ping
    (event,) = server.tick(115.0)
    assert isinstance(event, KeepaliveTimeout)


def test_any_packet_is_a_sign_of_life(client: Connection) -> None:
    server = Connection("server", keepalive_interval=5.0, keepalive_count=1)
    server.start_keepalive(0.0)
    client.start_keepalive(0.0)
    for now in range(5, 500, 5):
        assert server.tick(float(now)) == []
        assert pump(server, client, float(now)) == []
        assert pump(client, server, float(now)) == []
    assert server.lost is None


# Descriptors.

WITH_FILES = procedure("domain_fd_associate")
FILES = {"dom": DOMAIN, "name": "disk", "flags": 0}


def carry(source: Connection, target: Connection) -> list[Event]:
    """Carry bytes and descriptors the way a UNIX socket does: each descriptor on a byte of its own."""
    events: list[Event] = []
    while True:
        data = source.data_to_send()
        if data:
            events += target.receive_data(data, 0.0)
        fds = source.fds_to_send()
        if not fds:
            return events
        for fd in fds:
            target.receive_fds([fd])
            events += target.receive_data(b"\0", 0.0)


def test_descriptors_with_calls_and_replies(server: Connection, client: Connection) -> None:
    client.call(GET_TYPE)
    serial = client.call(WITH_FILES, FILES, fds=[10, 11, 12])
    client.call(GET_TYPE)
    first, call, last = carry(client, server)
    assert isinstance(call, Call) and call.fds == (10, 11, 12)
    assert call.args().name == "disk"
    assert isinstance(first, Call) and isinstance(last, Call) and first.fds == last.fds == ()
    server.send_reply(serial, WITH_FILES, None, fds=[20])
    server.send_reply(last.serial, GET_TYPE, {"type": "QEMU"})
    reply, other = carry(server, client)
    assert isinstance(reply, Reply) and reply.fds == (20,) and reply.serial == serial
    assert isinstance(other, Reply) and other.ret().type == "QEMU"


def test_descriptors_glued_to_the_message(server: Connection, client: Connection) -> None:
    """recvmsg may give the end of a message and the first descriptor's byte at once."""
    client.call(WITH_FILES, FILES, fds=[10, 11])
    data = client.data_to_send()
    assert client.fds_to_send() == (10, 11)
    server.receive_fds([10])
    assert server.receive_data(data + b"\0", 0.0) == []
    server.receive_fds([11])
    (call,) = server.receive_data(b"\0" + packet(REMOTE, 1, 3, 0, 1, 0)[:7], 0.0)
    assert isinstance(call, Call) and call.fds == (10, 11)


def test_descriptors_have_a_deadline(server: Connection, client: Connection) -> None:
    client.call(WITH_FILES, FILES, fds=[10])
    assert server.receive_data(client.data_to_send(), 0.0) == []
    assert server.next_deadline(0.0) == 30.0
    assert isinstance(server.tick(30.0)[0], ConnectionLost)


def test_missing_descriptors_end_the_connection(server: Connection, client: Connection) -> None:
    client.call(WITH_FILES, FILES, fds=[10, 11])
    server.receive_fds([10])
    (event,) = server.receive_data(client.data_to_send() + b"\0\0", 0.0)
    assert isinstance(event, ConnectionLost)
    assert server.take_fds() == [10]


def test_uninvited_descriptors_end_the_connection(server: Connection) -> None:
    server.receive_fds([10])
    events = server.receive_data(packet(REMOTE, 1, 3, 0, 1, 0), 0.0)
    assert isinstance(events[-1], ConnectionLost)
    assert server.take_fds() == [10]


def test_too_many_descriptors(server: Connection, client: Connection) -> None:
    with pytest.raises(RPCError, match="at most 32"):
        client.call(WITH_FILES, FILES, fds=list(range(33)))
    (event,) = server.receive_data(packet(REMOTE, 1, 3, 4, 1, 0, struct.pack(">I", 33)), 0.0)
    assert isinstance(event, ConnectionLost)


def test_descriptors_of_a_refused_call_are_given_back(server: Connection) -> None:
    server.receive_fds([10])
    assert server.receive_data(packet(REMOTE, 1, 9999, 4, 1, 0, struct.pack(">I", 1)) + b"\0", 0.0) == []
    assert server.take_fds() == [10]
    assert server.lost is None and b"unknown procedure" in server.data_to_send()


def test_descriptors_not_sent_are_given_back(client: Connection) -> None:
    client.call(WITH_FILES, FILES, fds=[10])
    client.close()
    assert client.take_fds() == [10]


# Round trip of what a handler may raise.


@pytest.mark.parametrize(
    "error",
    [NoDomain("x"), OperationAborted(), InternalError("why", hint="do that"), RPCError("text"), CorralError("t")],
)
def test_every_error_keeps_its_text(server: Connection, client: Connection, error: Any) -> None:
    serial = client.call(GET_TYPE)
    pump(client, server)
    server.send_error(serial, GET_TYPE, error)
    (answer,) = pump(server, client)
    assert isinstance(answer, Error)
    assert (str(answer.error), answer.error.code) == (str(error), error.code)
