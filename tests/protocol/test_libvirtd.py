"""Our client's side against Debian's real libvirtd, and our server's refusals beside libvirtd's own."""

from __future__ import annotations

import array
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.errors import CorralError, NoDomain, NoSupport
from corral.protocol import (
    Connection,
    Error,
    Event,
    Message,
    Reply,
    StreamAbort,
    StreamData,
    StreamEnd,
    StreamEOF,
    StreamHole,
    codec,
    procedure,
)
from labs import libvirtd

pytestmark = pytest.mark.clients

DEADLINE = 20.0
REMOTE = 0x20008086

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices><console type='pty'/><graphics type='vnc' socket='{socket}'/></devices>
</domain>
"""


class Wire:
    """A blocking adapter: one socket and the client's side of the protocol."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(str(path))
        self.connection = Connection("client")
        self.events: list[Event] = []

    def flush(self) -> None:
        while True:
            self.socket.sendall(self.connection.data_to_send())
            fds = self.connection.fds_to_send()
            if not fds:
                return
            for fd in fds:
                socket.send_fds(self.socket, [b"\0"], [fd])
                os.close(fd)

    def wait(self, *kinds: type[Event]) -> Any:
        """The next event of these kinds; what else may come between (libvirtd's streams overtake replies) is kept."""
        until = time.monotonic() + DEADLINE
        while True:
            for number, event in enumerate(self.events):
                if isinstance(event, kinds):
                    return self.events.pop(number)
                assert isinstance(event, Message | StreamData | StreamHole | StreamEOF), event
            assert time.monotonic() < until
            data, control, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(32 * 4))
            for _level, _kind, raw in control:
                fds = array.array("i")
                fds.frombytes(raw)
                self.connection.receive_fds(fds.tolist())
            self.events += self.connection.receive_data(data, time.monotonic())

    def call(self, procedure_name: str, /, fds: tuple[int, ...] = (), **args: Any) -> Any:
        """Call and wait; the result's record, or the error raised."""
        row = procedure(procedure_name)
        serial = self.connection.call(row, args if row.args else None, fds)
        self.flush()
        answer = self.wait(Reply, Error)
        assert answer.serial == serial
        if isinstance(answer, Error):
            raise answer.error
        return answer.ret()

    def open_stream(self, procedure_name: str, /, **args: Any) -> tuple[int, Any]:
        """Call a procedure that opens a stream; the serial and the procedure that its packets carry."""
        self.call(procedure_name, **args)
        return self.connection._serial, procedure(procedure_name)


@pytest.fixture(scope="module")
def daemon() -> Iterator[libvirtd.Libvirtd]:
    directory = Path(f"/tmp/corral-wire-{os.getpid()}")
    directory.mkdir(mode=0o700)
    try:
        with libvirtd.running(directory) as running:
            yield running
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def connect(daemon: libvirtd.Libvirtd) -> Wire:
    wire = Wire(daemon.socket)
    assert wire.call("auth_list").types == [0]
    wire.call("connect_open", name=daemon.driver, flags=0)
    return wire


@pytest.fixture
def wire(daemon: libvirtd.Libvirtd) -> Iterator[Wire]:
    wire = connect(daemon)
    yield wire
    wire.call("connect_close")
    wire.socket.close()


@pytest.fixture(scope="module")
def domain(daemon: libvirtd.Libvirtd) -> Iterator[Any]:
    """A paused domain with a console and a screen."""
    wire = connect(daemon)
    xml = DOMAIN.format(name="paused", socket=daemon.log.with_name("vnc"))
    domain = wire.call("domain_create_xml", xml_desc=xml, flags=1).dom
    yield domain
    wire.call("domain_destroy", dom=domain)
    wire.socket.close()


def test_queries(wire: Wire, daemon: libvirtd.Libvirtd) -> None:
    assert wire.call("connect_get_type").type == "QEMU"
    assert wire.call("connect_get_uri").uri == daemon.driver
    assert wire.call("connect_get_capabilities").capabilities.startswith("<capabilities>")
    assert wire.call("connect_supports_feature", feature=10).supported == 1
    node = wire.call("node_get_info")
    assert node.model == os.uname().machine and node.cpus >= 1
    assert wire.call("connect_list_all_domains", need_results=1, flags=1).ret <= 1
    assert len(wire.call("node_get_memory_stats", nparams=4, cellNum=-1, flags=0).params) == 4


def test_errors(wire: Wire) -> None:
    with pytest.raises(NoDomain, match="no domain with matching name 'nobody'"):
        wire.call("domain_lookup_by_name", name="nobody")
    with pytest.raises(CorralError, match="Cannot find program"):
        wire.call("corral.host_report")
    assert wire.call("connect_get_type").type == "QEMU"


def test_pipelined(wire: Wire) -> None:
    serials = {wire.connection.call(procedure("connect_get_type")) for _ in range(100)}
    wire.flush()
    assert {wire.wait(Reply).serial for _ in range(100)} == serials


def test_keepalive_both_ways(wire: Wire) -> None:
    """We ping and it answers: any answer counts as life."""
    assert wire.call("connect_supports_feature", feature=10).supported == 1
    now = time.monotonic()
    wire.connection.start_keepalive(now - 5.0)
    assert wire.connection.tick(now) == []
    wire.flush()
    data = wire.socket.recv(1000)
    assert struct.unpack(">IIIiIII", data) == (28, 0x6B656570, 1, 2, 2, 0, 0)
    wire.connection.receive_data(data, now)


def test_define_events_and_descriptors(wire: Wire) -> None:
    callback = wire.call("connect_domain_event_callback_register_any", eventID=0, dom=None).callbackID
    domain = wire.call("domain_define_xml", xml=DOMAIN.format(name="wire", socket="/unused")).dom
    try:
        assert domain.name == "wire" and domain.id == -1
        lifecycle = wire.wait(Message)
        assert lifecycle.procedure is procedure("domain_event_callback_lifecycle")
        message = lifecycle.msg()
        assert message.callbackID == callback and message.msg.dom == domain
        assert wire.call("domain_get_info", dom=domain).maxMem == 65536
        listed = wire.call("connect_list_all_domains", need_results=1, flags=2)
        assert listed.domains == [domain]
        read, write = os.pipe()
        os.close(read)
        wire.call("domain_fd_associate", fds=(write,), dom=domain, name="group", flags=0)
        wire.call("domain_set_metadata", dom=domain, type=1, metadata="t\u00eftle", key=None, uri=None, flags=2)
        assert "t\u00eftle" in wire.call("domain_get_xml_desc", dom=domain, flags=0).xml
    finally:
        wire.call("domain_undefine_flags", dom=domain, flags=0)


@pytest.fixture
def volume(wire: Wire, tmp_path: Path) -> Iterator[Any]:
    tmp_path.chmod(0o777)
    xml = f"<pool type='dir'><name>wire</name><target><path>{tmp_path}</path></target></pool>"
    try:
        pool = wire.call("storage_pool_create_xml", xml=xml, flags=0).pool
    except NoSupport:
        pytest.skip("libvirtd has no storage driver (apt-get install libvirt-daemon-driver-storage)")
    text = "<volume><name>v</name><capacity>1048576</capacity><allocation>0</allocation></volume>"
    yield wire.call("storage_vol_create_xml", pool=pool, xml=text, flags=0).vol
    wire.call("storage_pool_destroy", pool=pool)


def test_upload_and_download(wire: Wire, volume: Any) -> None:
    content = os.urandom(600_000)
    stream = wire.open_stream("storage_vol_upload", vol=volume, offset=0, length=0, flags=0)
    wire.connection.send_stream_data(*stream, content)
    wire.connection.send_stream_end(*stream)
    wire.flush()
    assert wire.wait(StreamEnd, StreamAbort) == StreamEnd(*stream)

    stream = wire.open_stream("storage_vol_download", vol=volume, offset=0, length=0, flags=0)
    received = b""
    while isinstance(event := wire.wait(StreamData, StreamEOF), StreamData):
        received += event.data
    assert received == content + bytes(1048576 - len(content))
    assert wire.connection.send_stream_end(*stream)
    wire.flush()
    assert wire.wait(StreamEnd, StreamAbort) == StreamEnd(*stream)
    assert not wire.connection._streams


def test_holes_both_ways(wire: Wire, volume: Any) -> None:
    stream = wire.open_stream("storage_vol_upload", vol=volume, offset=0, length=0, flags=1)
    wire.connection.send_stream_hole(*stream, 524288)
    wire.connection.send_stream_data(*stream, b"x" * 4096)
    wire.connection.send_stream_hole(*stream, 520192)
    wire.connection.send_stream_end(*stream)
    wire.flush()
    assert wire.wait(StreamEnd, StreamAbort) == StreamEnd(*stream)

    stream = wire.open_stream("storage_vol_download", vol=volume, offset=0, length=0, flags=1)
    holes = size = 0
    while not isinstance(event := wire.wait(StreamData, StreamHole, StreamEOF), StreamEOF):
        match event:
            case StreamHole(length=length):
                holes += length
            case StreamData(data=data):
                size += len(data)
    assert (holes, size) == (1048576 - 4096, 4096)
    wire.connection.send_stream_end(*stream)
    wire.flush()
    assert wire.wait(StreamEnd, StreamAbort) == StreamEnd(*stream)


def test_abort_is_confirmed(wire: Wire, volume: Any) -> None:
    stream = wire.open_stream("storage_vol_upload", vol=volume, offset=0, length=0, flags=0)
    wire.connection.send_stream_data(*stream, b"abc")
    wire.connection.send_stream_abort(*stream)
    wire.flush()
    assert wire.wait(StreamEnd, StreamAbort) == StreamEnd(*stream)
    assert wire.call("connect_get_type").type == "QEMU"


def test_screenshot(wire: Wire, domain: Any) -> None:
    """The daemon's data, its end, our finish, its confirmation."""
    serial, row = wire.open_stream("domain_screenshot", dom=domain, screen=0, flags=0)
    image = b""
    while isinstance(event := wire.wait(StreamData, StreamEOF), StreamData):
        image += event.data
    assert image.startswith((b"P6", b"\x89PNG"))
    assert wire.connection.send_stream_end(serial, row)
    wire.flush()
    assert wire.wait(StreamEnd, StreamAbort) == StreamEnd(serial, row)
    assert not wire.connection._streams


@pytest.mark.parametrize("abort", [False, True])
def test_console(wire: Wire, domain: Any, abort: bool) -> None:
    """Our data, then our finish or abort: either is confirmed, and the connection lives on."""
    stream = wire.open_stream("domain_open_console", dom=domain, dev_name=None, flags=0)
    assert wire.connection.send_stream_data(*stream, b"hello")
    if abort:
        wire.connection.send_stream_abort(*stream)
    else:
        wire.connection.send_stream_end(*stream)
    wire.flush()
    assert wire.wait(StreamEnd, StreamAbort) == StreamEnd(*stream)
    assert wire.call("connect_get_type").type == "QEMU"


def test_descriptor_from_the_daemon(wire: Wire, domain: Any) -> None:
    """A reply with a descriptor: the other end of a new VNC connection greets us."""
    row = procedure("domain_open_graphics_fd")
    wire.connection.call(row, {"dom": domain, "idx": 0, "flags": 1})
    wire.flush()
    answer = wire.wait(Reply, Error)
    assert isinstance(answer, Reply), answer
    with socket.socket(fileno=answer.fds[0]) as screen:
        screen.settimeout(DEADLINE)
        assert screen.recv(12) == b"RFB 003.008\n"


def refusal(answer: bytes) -> tuple[bytes, Any]:
    """An error's header and its fields."""
    return answer[4:28], codec("remote_error").decode(answer[28:])


@pytest.mark.parametrize(
    ("program", "version", "number", "status"),
    [(0x1234, 1, 1, 0), (REMOTE, 2, 1, 0), (REMOTE, 1, 9999, 0), (REMOTE, 1, -5, 0), (REMOTE, 1, 107, 0),
     (REMOTE, 1, 3, 1), (0x6B656570, 1, 1, 0)],
)  # fmt: skip
def test_refusals_are_libvirtds(wire: Wire, program: int, version: int, number: int, status: int) -> None:
    """The same bytes get the same answer from our server as from libvirtd."""
    sent = struct.pack(">IIIiIII", 28, program, version, number, 0, 7, status)
    wire.socket.sendall(sent)
    server = Connection("server")
    server.receive_data(sent, 0.0)
    assert refusal(server.data_to_send()) == refusal(wire.socket.recv(10_000))
