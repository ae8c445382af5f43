"""One connection of libvirt's remote protocol without I/O: bytes in, events out, bytes to send; `now` is passed in.

The rules are the tables in `state.py`. The adapter that owns the socket does, whenever bytes arrive, time passes or
its own code sent something:

    events = connection.receive_data(data, now)     # b"" means end of file; before it: receive_fds(…) if any came along
    …                                               # act on events, which may call send_…
    while True:
        write(connection.data_to_send())            # all of it, before the descriptors
        fds = connection.fds_to_send()
        if not fds:
            break
        for fd in fds: sendmsg([b"\\0"], [fd])       # one byte with one descriptor each; then close it
    arm the timer for connection.next_deadline(now) # when it fires: connection.tick(now)

`data_to_send` is not called while the peer does not read (the transport is full): what it would give stays here, is
bounded, and over the bound the connection is lost. A lost connection takes and gives nothing more.
"""

from __future__ import annotations

import struct

from corral.errors import CorralError, OperationAborted, RPCError
from corral.protocol import events, procedures
from corral.protocol.codec import codec
from corral.protocol.events import (
    Call,
    Error,
    Message,
    Reply,
    StreamAbort,
    StreamData,
    StreamEnd,
    StreamEOF,
    StreamHole,
)
from corral.protocol.fault import decode_error, encode_error
from corral.protocol.interface import FDS_MAX, HEADER_SIZE, KEEPALIVE, LENGTH_SIZE, MESSAGE_MAX, STREAM_CHUNK
from corral.protocol.procedures import Procedure
from corral.protocol.state import (
    CALL,
    CALL_WITH_FDS,
    CONTINUE,
    ERROR,
    INCOMING,
    MESSAGE,
    OK,
    PING,
    PONG,
    REPLY,
    REPLY_WITH_FDS,
    STREAM,
    STREAM_HOLE,
)
from corral.protocol.streams import Streams, decode_hole, encode_hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from corral.protocol.events import Event

PACKET_SIZE = LENGTH_SIZE + HEADER_SIZE
PACKET_MAX = LENGTH_SIZE + MESSAGE_MAX
PAYLOAD_MAX = MESSAGE_MAX - HEADER_SIZE

_PACKET = struct.Struct(">I12sIII")
"""Length; program, version and procedure together (`Procedure.wire`); type, serial, status."""
_PACK = _PACKET.pack
_UNPACK = _PACKET.unpack_from
_LENGTH = struct.Struct(">I")
_WIRE = struct.Struct(">IIi")
_PING_WIRE = _WIRE.pack(*KEEPALIVE, PING)
_PING = _PACK(PACKET_SIZE, _PING_WIRE, MESSAGE, 0, OK)
_PONG = _PACK(PACKET_SIZE, _WIRE.pack(*KEEPALIVE, PONG), MESSAGE, 0, OK)
_KEEPALIVE_PROGRAM = _LENGTH.pack(KEEPALIVE[0])


class Connection:
    """The protocol state of one connection.

    `keepalive_interval` (seconds) and `keepalive_count` say how we ask after the peer once `start_keepalive` is
    called; its own pings are always answered. `max_outgoing` bounds the bytes that wait for a peer that does not read:
    a packet may still be added below it, whatever its size. A peer that starts a packet must complete its header
    within `header_timeout` seconds and then never pause for `body_timeout`.

    After the end `lost` says why and `send_…` does nothing. `take_fds` gives the descriptors that nobody will get.
    """

    def __init__(
        self,
        role: Literal["server", "client"],
        *,
        keepalive_interval: float = 5.0,
        keepalive_count: int = 5,
        max_outgoing: int = 16 << 20,
        max_streams: int = 256,
        header_timeout: float = 10.0,
        body_timeout: float = 30.0,
    ) -> None:
        self.role = role
        self.lost: str | None = None
        self.reading = True
        """False while the owner does not read on purpose: the peer's silence then says nothing about it."""
        self.outgoing = 0
        """Bytes that wait to be taken by `data_to_send`; who produces stream data should pause when this grows."""
        self._keepalive_interval = keepalive_interval
        self._keepalive_count = keepalive_count
        self._max_outgoing = max_outgoing
        self._header_timeout = header_timeout
        self._body_timeout = body_timeout

        self._known = procedures.load()
        self._incoming = INCOMING[role]

        self._buffer = bytearray()  # the beginning of a packet whose rest has not come
        self._need = 0  # bytes of it that must be there before parsing makes sense
        self._stalled_at: float | None = None
        self._fds: list[int] = []
        self._orphans: list[int] = []  # descriptors nobody will get
        self._fds_wanted = 0
        self._fds_due = 0  # bytes, each with a descriptor, that follow the last packet
        self._held: Event | None = None  # the event that waits for them

        self._out: list[bytes] = []  # goes out before any descriptor
        self._tail = self._out  # where new bytes are appended
        self._later: list[tuple[tuple[int, ...], list[bytes]]] = []  # descriptors, and the bytes after them

        self._calls: dict[int, Procedure] = {}  # client: not yet answered
        self._serial = 0
        self._streams = Streams(role, max_streams)

        self._keepalive = False
        self._pings_left = keepalive_count
        self._ping_at = 0.0
        self._farewell: Event | None = None  # tells of the loss, at the next chance

    # -- in ---------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """What the bytes mean, in their order; `b""` is the end of file."""
        if self.lost is not None:
            return self._last_events()
        if not data:
            self._lose("end of file")
            return self._last_events()
        if self._keepalive:
            self._pings_left = self._keepalive_count
            self._ping_at = now + self._keepalive_interval
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                if self._need > PACKET_SIZE:
                    self._stalled_at = now + self._body_timeout
                return []
            data = bytes(self._buffer)
            self._buffer = bytearray()
        arrived: list[Event] = []
        try:
            self._parse(data, arrived, now)
        except _Broken as broken:
            self._lose(str(broken))
        if self.lost is not None:
            arrived += self._last_events()
        return arrived

    def _parse(self, data: bytes, arrived: list[Event], now: float) -> None:
        """Append an event for each complete packet and keep the rest."""
        offset = 0
        end = len(data)
        known = self._known
        calls = self._calls
        server = self.role == "server"
        plain = CALL if server else REPLY
        if self._fds_due:
            offset = self._take_descriptors(data, offset, arrived)
        while end - offset >= PACKET_SIZE:
            length, wire, kind, serial, status = _UNPACK(data, offset)
            stop = offset + length
            if stop > end or length < PACKET_SIZE:
                break
            body = data[offset + PACKET_SIZE : stop]
            offset = stop
            procedure = known.get(wire)
            if status == OK and kind == plain and procedure is not None and not procedure.special:
                if server:
                    arrived.append(Call(serial, procedure, body))
                    continue
                if calls.get(serial) is procedure:
                    del calls[serial]
                    arrived.append(Reply(serial, procedure, body))
                    continue
            if kind in (CALL_WITH_FDS, REPLY_WITH_FDS):
                body = self._expect_descriptors(body)
            event = self._packet(wire, procedure, kind, serial, status, body)
            if self._fds_due:
                self._held = event
                offset = self._take_descriptors(data, offset, arrived)
            elif event is not None:
                arrived.append(event)
            if self.lost is not None:
                return
        if self._fds and not self._fds_due:
            raise _Broken("descriptors came without a message to carry them")
        if offset < end or self._fds_due:
            self._keep_rest(data, offset, now)
        else:
            self._stalled_at = None

    def _keep_rest(self, data: bytes, offset: int, now: float) -> None:
        """Remember an incomplete packet, how much of it must come, and until when."""
        rest = len(data) - offset
        if not rest:
            self._stalled_at = now + self._body_timeout  # for the descriptors
            return
        self._need = PACKET_SIZE
        timeout = self._header_timeout
        if rest >= LENGTH_SIZE:
            (length,) = _LENGTH.unpack_from(data, offset)
            if not PACKET_SIZE <= length <= PACKET_MAX:
                raise _Broken(f"a packet of {length} bytes; it must be {PACKET_SIZE} to {PACKET_MAX}")
            if rest >= PACKET_SIZE:
                self._need = length
                timeout = self._body_timeout
        self._buffer += memoryview(data)[offset:]
        self._stalled_at = now + timeout

    def receive_fds(self, fds: Sequence[int]) -> None:
        """Descriptors that came with the bytes about to be given to `receive_data`."""
        if self.lost is not None:
            self._orphans += fds
            return
        self._fds += fds
        if len(self._fds) > FDS_MAX:
            self._lose(f"more than {FDS_MAX} descriptors at once")

    def _expect_descriptors(self, body: bytes) -> bytes:
        """Note how many descriptors follow a packet, which its payload starts with; returns the rest of the payload."""
        if len(body) < 4:
            raise _Broken("a message with descriptors does not say how many")
        (self._fds_wanted,) = _LENGTH.unpack_from(body)
        if self._fds_wanted > FDS_MAX:
            raise _Broken(f"a message with {self._fds_wanted} descriptors, at most {FDS_MAX} allowed")
        self._fds_due = self._fds_wanted
        return body[4:]

    def _take_descriptors(self, data: bytes, offset: int, arrived: list[Event]) -> int:
        """Skip the bytes that descriptors ride on; complete the event that waits for them. Returns the new offset."""
        step = min(self._fds_due, len(data) - offset)
        self._fds_due -= step
        if not self._fds_due:
            fds = tuple(self._fds[: self._fds_wanted])
            if len(fds) < self._fds_wanted:
                raise _Broken(f"{self._fds_wanted} descriptors announced, {len(fds)} came")
            del self._fds[: self._fds_wanted]
            held, self._held = self._held, None
            if isinstance(held, Call | Reply):
                held.fds = fds
            else:
                self._orphans += fds
            if held is not None:
                arrived.append(held)
        return offset + step

    # -- what a packet means ----------------------------------------------------------------------------------------

    def _packet(
        self, wire: bytes, procedure: Procedure | None, kind: int, serial: int, status: int, body: bytes
    ) -> Event | None:
        """Act on any packet by the table; what does not belong is refused or dropped."""
        if kind == MESSAGE and wire[:4] == _KEEPALIVE_PROGRAM:
            if wire == _PING_WIRE:
                self._append(_PONG)
            return None
        action = self._incoming.get((kind, status))
        if procedure is not None and action is not None and (procedure.msg is not None) == (action == "message"):
            match action:
                case "call":
                    return self._on_call(serial, procedure, body)
                case "reply":
                    self._answered(serial, procedure, action)
                    return Reply(serial, procedure, body)
                case "failure":
                    self._answered(serial, procedure, action)
                    return Error(serial, procedure, decode_error(body))
                case "message":
                    return Message(procedure, body)
            return self._on_stream(serial, procedure, action, body)
        if kind in (CALL, CALL_WITH_FDS) and self.role == "server":
            error = RPCError(_problem(wire, procedure, status))
            self._send(wire, REPLY, serial, ERROR, encode_error(error))
        elif kind in (REPLY, REPLY_WITH_FDS) and self.role == "client":
            raise _Broken(f"an answer with serial {serial} to something we never call")
        return None

    def _on_call(self, serial: int, procedure: Procedure, body: bytes) -> Event | None:
        if procedure.stream is not None:
            problem = self._streams.begin(serial, procedure)
            if problem is not None:
                self._send(procedure.wire, REPLY, serial, ERROR, encode_error(RPCError(problem)))
                return None
        return Call(serial, procedure, body)

    def _answered(self, serial: int, procedure: Procedure, outcome: str) -> None:
        """Client: one call less outstanding; a stream opens or not."""
        if self._calls.pop(serial, None) is not procedure:
            raise _Broken(f"an answer to {procedure.name} with serial {serial}, which was not called")
        if procedure.stream is not None:
            step = self._streams.sent(serial, outcome)
            if step is not None and step.packet is not None:
                self._send(procedure.wire, STREAM, serial, ERROR, b"")

    # -- streams ----------------------------------------------------------------------------------------------------

    def _on_stream(self, serial: int, procedure: Procedure, action: str, body: bytes) -> Event | None:
        if not self._streams.belongs(serial, procedure):
            return None
        length = 0
        if action == "data" and not body:
            if self.role == "server":
                return None
            action = "eof"
        elif action == "hole":
            hole = decode_hole(body)
            if hole is None:
                self.send_stream_abort(serial, procedure, RPCError("a hole in the stream that cannot be decoded"))
                return None
            length = hole
        step = self._streams.received(serial, action)
        if step is None:
            return None
        if step.packet is not None:
            self._send(procedure.wire, STREAM, serial, OK, b"")
        match step.event:
            case "data":
                return StreamData(serial, procedure, body)
            case "hole":
                return StreamHole(serial, procedure, length)
            case "eof":
                return StreamEOF(serial, procedure)
            case "end":
                return StreamEnd(serial, procedure)
            case "abort":
                client_said = OperationAborted("stream aborted at client request")
                return StreamAbort(serial, procedure, client_said if self.role == "server" else decode_error(body))
        return None

    def stream_open(self, serial: int) -> bool:
        """Whether data may still be sent on the stream that the call with this serial opened."""
        return self._streams.takes_data(serial)

    def send_stream_data(self, serial: int, procedure: Procedure, data: bytes) -> bool:
        """Send data in packets of a size every libvirt accepts; False when the stream takes no more."""
        step = self._streams.sent(serial, "data")
        if step is None or self.lost is not None:
            return False
        for start in range(0, len(data), STREAM_CHUNK):
            self._send(procedure.wire, STREAM, serial, CONTINUE, bytes(data[start : start + STREAM_CHUNK]))
        return True

    def send_stream_hole(self, serial: int, procedure: Procedure, length: int) -> bool:
        """Send a hole of `length` bytes; False when the stream takes no more."""
        step = self._streams.sent(serial, "hole")
        if step is None or self.lost is not None:
            return False
        self._send(procedure.wire, STREAM_HOLE, serial, CONTINUE, encode_hole(length))
        return True

    def send_stream_end(self, serial: int, procedure: Procedure) -> bool:
        """Say that all is sent, or (server, after StreamEnd) that all is received; False when it was said or gone."""
        step = self._streams.sent(serial, "end")
        if step is None or self.lost is not None:
            return False
        self._send(procedure.wire, STREAM, serial, CONTINUE if step.packet == "eof" else OK, b"")
        return True

    def send_stream_abort(self, serial: int, procedure: Procedure, error: CorralError | None = None) -> bool:
        """Break the stream off; False when there is nothing to break off.

        A client may do so before its call is answered; its reason does not travel.
        """
        step = self._streams.sent(serial, "abort")
        if step is None or self.lost is not None:
            return False
        if step.packet is not None:
            reason = error or OperationAborted("stream aborted")
            self._send(procedure.wire, STREAM, serial, ERROR, encode_error(reason) if self.role == "server" else b"")
        return True

    # -- server: answers and events ---------------------------------------------------------------------------------

    def send_reply(self, serial: int, procedure: Procedure, ret: Any = None, fds: Sequence[int] = ()) -> None:
        """Answer a call with a record (or dict) of `procedure.ret`; RPCError when it cannot be encoded."""
        body = codec(procedure.ret).encode(ret) if procedure.ret is not None else b""
        if len(body) > PAYLOAD_MAX - 4:
            raise RPCError(f"Unable to encode message payload: {len(body)} bytes are too many for one message")
        if fds:
            self._check_fds(fds)
            self._send(procedure.wire, REPLY_WITH_FDS, serial, OK, _LENGTH.pack(len(fds)) + body, fds)
        else:
            self.send_reply_bytes(serial, procedure, body)

    def send_reply_bytes(self, serial: int, procedure: Procedure, body: bytes) -> None:
        """Answer a call with an encoded result."""
        size = PACKET_SIZE + len(body)
        if self.lost is not None or self.outgoing > self._max_outgoing:
            self._overflow()
            return
        if procedure.stream is not None:
            self._streams.sent(serial, "reply")
        self.outgoing += size
        self._tail.append(_PACK(size, procedure.wire, REPLY, serial, OK))
        self._tail.append(body)

    def send_error(self, serial: int, procedure: Procedure, error: CorralError) -> None:
        """Answer a call with an error."""
        if procedure.stream is not None:
            self._streams.sent(serial, "failure")
        self._send(procedure.wire, REPLY, serial, ERROR, encode_error(error))

    def send_event(self, procedure: Procedure, msg: Any) -> None:
        """Report an event with a record (or dict) of `procedure.msg`."""
        assert procedure.msg is not None
        self.send_event_bytes(procedure, codec(procedure.msg).encode(msg))

    def send_event_bytes(self, procedure: Procedure, body: bytes) -> None:
        """Report an event that is encoded already."""
        self._send(procedure.wire, MESSAGE, 0, OK, body)

    # -- client: calls ----------------------------------------------------------------------------------------------

    def call(self, procedure: Procedure, args: Any = None, fds: Sequence[int] = ()) -> int:
        """Call a procedure with a record (or dict) of `procedure.args`; the serial names its answer."""
        body = codec(procedure.args).encode(args) if procedure.args is not None else b""
        if len(body) > PAYLOAD_MAX - 4:
            raise RPCError(f"Unable to encode message payload: {len(body)} bytes are too many for one message")
        self._check_fds(fds)
        serial = self._next_serial()
        if procedure.stream is not None:
            problem = self._streams.begin(serial, procedure)
            if problem is not None:
                raise RPCError(problem)
        self._calls[serial] = procedure
        if fds:
            self._send(procedure.wire, CALL_WITH_FDS, serial, OK, _LENGTH.pack(len(fds)) + body, fds)
        else:
            self._send(procedure.wire, CALL, serial, OK, body)
        return serial

    @property
    def outstanding(self) -> int:
        """Client: calls that have no answer yet."""
        return len(self._calls)

    def _next_serial(self) -> int:
        """The next number that no call and no stream of ours uses; never 0, which events carry."""
        while True:
            self._serial = self._serial % 0xFFFFFFFF + 1
            if self._serial not in self._calls and self._serial not in self._streams:
                return self._serial

    # -- out --------------------------------------------------------------------------------------------------------

    def _send(self, wire: bytes, kind: int, serial: int, status: int, body: bytes, fds: Sequence[int] = ()) -> None:
        """Queue one packet, and the descriptors that follow it."""
        self._append(_PACK(PACKET_SIZE + len(body), wire, kind, serial, status) + body)
        if fds:
            if self.lost is not None:
                self._orphans += fds
                return
            self._tail = []
            self._later.append((tuple(fds), self._tail))

    def _append(self, packet: bytes) -> None:
        if self.lost is not None or self.outgoing > self._max_outgoing:
            self._overflow()
            return
        self.outgoing += len(packet)
        self._tail.append(packet)

    def _overflow(self) -> None:
        if self.lost is None:
            self._lose(f"the peer does not read: {self.outgoing} bytes wait for it")

    @staticmethod
    def _check_fds(fds: Sequence[int]) -> None:
        if len(fds) > FDS_MAX:
            raise RPCError(f"{len(fds)} descriptors with one message, at most {FDS_MAX} allowed")

    def data_to_send(self) -> bytes:
        """All bytes that go out before the next descriptors; the caller now owns them."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.outgoing -= len(data)
        return data

    def fds_to_send(self) -> tuple[int, ...]:
        """Descriptors that go out next, one byte each; the caller now owns them and calls `data_to_send` again."""
        if not self._later or self._out:
            return ()
        fds, self._out = self._later.pop(0)
        return fds

    def take_fds(self) -> list[int]:
        """Descriptors that came with a refused call, or that the lost connection left over: to be closed."""
        fds, self._orphans = self._orphans, []
        return fds

    # -- time -------------------------------------------------------------------------------------------------------

    def start_keepalive(self, now: float) -> None:
        """Ask after the peer from now on: the client said (server) or the daemon answered (client) that it may."""
        self._keepalive = True
        self._pings_left = self._keepalive_count
        self._ping_at = now + self._keepalive_interval

    @property
    def timed(self) -> bool:
        """Whether anything waits for time to pass, as long as the connection is not lost."""
        return self._keepalive or self._stalled_at is not None

    def next_deadline(self, now: float) -> float | None:
        """When `tick` wants to be called, on the clock of `now`; None when never."""
        if self.lost is not None:
            return now if self._farewell is not None else None
        if not self._keepalive:
            return self._stalled_at
        return self._ping_at if self._stalled_at is None else min(self._ping_at, self._stalled_at)

    def tick(self, now: float) -> list[Event]:
        """Let time pass: send a ping that is due, give up on a peer that is dead or stalled."""
        if not self.reading:
            self._pings_left = self._keepalive_count
            if self._stalled_at is not None:
                self._stalled_at = max(self._stalled_at, now + self._body_timeout)
        if self.lost is None and self._stalled_at is not None and now >= self._stalled_at:
            self._lose("a message was begun and not finished in time")
        if self.lost is None and self._keepalive and now >= self._ping_at:
            if self._pings_left == 0:
                reason = f"no answer to {self._keepalive_count} pings in {self._keepalive_interval:g} s each"
                self._lose(reason, events.KeepaliveTimeout(reason))
            else:
                self._pings_left -= 1
                self._ping_at = now + self._keepalive_interval
                self._append(_PING)
        return self._last_events()

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget everything: the owner closes the socket and takes the orphaned descriptors."""
        if self.lost is None:
            self._lose("closed")
        self._farewell = None

    def _lose(self, reason: str, event: Event | None = None) -> None:
        """The connection is over; nothing more goes in or out."""
        if self.lost is not None:
            return
        self.lost = reason
        self._farewell = event or events.ConnectionLost(reason)
        self._orphans += self._fds
        self._fds = []
        for fds, _ in self._later:
            self._orphans += fds
        self._later = []
        self._out = self._tail = []
        self.outgoing = 0
        self._buffer = bytearray()
        self._stalled_at = None
        self._held = None
        self._fds_due = 0
        self._calls.clear()
        self._streams.clear()

    def _last_events(self) -> list[Event]:
        farewell, self._farewell = self._farewell, None
        return [] if farewell is None else [farewell]


class _Broken(Exception):
    """The peer sent what ends the connection."""


def _problem(wire: bytes, procedure: Procedure | None, status: int) -> str:
    """Why a call is not one of ours, in libvirt's words."""
    program, version, number = _WIRE.unpack(wire)
    if (program, version) not in procedures.PROGRAMS.values():
        return f"Cannot find program {program} version {version}"
    if status != OK:
        return f"Unexpected message status {status}"
    return f"unknown procedure: {number}"
