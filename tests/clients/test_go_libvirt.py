"""What go-libvirt puts on the wire (Terraform's provider and two exporters use it), byte for byte.

It is not libvirt's C library: it authenticates, opens and goes on, asks about no features, marks an optional as present
with the bytes `01 00 00 00`, and numbers its calls from 1 on every connection.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from corral.constants import DomainEventID
from corral.protocol.codec import codec
from corral.protocol.procedures import procedure
from labs import corrald

pytestmark = [pytest.mark.clients]

PROGRAM, VERSION = 0x20008086, 1
HEADER = struct.Struct(">IIIiiIi")
PRESENT = b"\x01\x00\x00\x00"
REPLY, MESSAGE, OK, ERROR = 1, 2, 0, 1


class Go:
    """A connection that sends what go-libvirt sends."""

    def __init__(self, daemon: corrald.Daemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(daemon.socket))
        self.serial = 0

    def send(self, number: int, body: bytes = b"") -> int:
        self.serial += 1
        self.socket.sendall(HEADER.pack(28 + len(body), PROGRAM, VERSION, number, 0, self.serial, OK) + body)
        return self.serial

    def read(self) -> tuple[tuple[int, ...], bytes]:
        head = self._exactly(28)
        fields = HEADER.unpack(head)
        return fields, self._exactly(fields[0] - 28)

    def call(self, number: int, body: bytes = b"") -> bytes:
        """The body of the answer to one call, which must be no error."""
        serial = self.send(number, body)
        fields, answer = self.read()
        assert fields[1:] == (PROGRAM, VERSION, number, REPLY, serial, OK), codec("remote_error").decode(answer)
        return answer

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the daemon closed the connection"
            data += more
        return data


@pytest.fixture
def go(daemon: corrald.Daemon) -> Iterator[Go]:
    go = Go(daemon)
    with go.socket:
        assert go.call(66) == struct.pack(">ii", 1, 0)  # one way to authenticate: none
        uri = b"qemu:///system"
        go.call(1, PRESENT + struct.pack(">I", len(uri)) + uri + bytes(-len(uri) % 4) + struct.pack(">I", 0))
        yield go


def test_open_and_ask(go: Go) -> None:
    assert codec("remote_connect_get_lib_version_ret").decode(go.call(157)).lib_ver == 11003000
    assert codec("remote_connect_get_type_ret").decode(go.call(3)).type == "QEMU"
    listed = codec("remote_connect_list_all_domains_ret").decode(go.call(273, struct.pack(">iI", 1, 1)))
    assert (listed.domains, listed.ret) == ([], 0)


def test_a_domain_by_its_hand(go: Go) -> None:
    """Define, look up, see the events of a start registered for without a feature asked, and undefine."""
    document = b"<domain type='qemu'><name>go</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
    defined = go.call(11, struct.pack(">I", len(document)) + document + bytes(-len(document) % 4))
    domain = codec("remote_domain_define_xml_ret").decode(defined).dom
    reference = codec("remote_nonnull_domain").encode(domain)
    registered = go.call(316, struct.pack(">i", DomainEventID.LIFECYCLE) + bytes(4))
    callback = codec("remote_connect_domain_event_callback_register_any_ret").decode(registered).callbackID

    serial = go.send(9, reference)  # DOMAIN_CREATE; its answer and the events come in any order
    events, answered = [], False
    while not answered or len(events) < 2:
        (_, program, _, number, kind, answers, status), body = go.read()
        if kind == MESSAGE:
            assert (program, number) == (PROGRAM, procedure("domain_event_callback_lifecycle").number)
            event = codec("remote_domain_event_callback_lifecycle_msg").decode(body)
            assert (event.callbackID, event.msg.dom.name) == (callback, "go")
            events.append((event.msg.event, event.msg.detail))
        else:
            assert (kind, answers, status) == (REPLY, serial, OK)
            answered = True
    assert events == [(4, 0), (2, 0)]  # resumed, started

    go.call(317, struct.pack(">i", callback))
    go.call(12, reference)
    go.call(35, reference)
    go.send(23, struct.pack(">I", 2) + b"go\0\0")
    fields, body = go.read()
    error = codec("remote_error").decode(body)
    assert (fields[6], error.code, error.message) == (ERROR, 42, "Domain not found: no domain with matching name 'go'")


def test_leaving(go: Go) -> None:
    """Disconnect sends CONNECT_CLOSE and waits for its answer before it closes the socket."""
    assert go.call(2) == b""
    assert go.socket.recv(1) == b""
