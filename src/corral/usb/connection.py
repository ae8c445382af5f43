"""One usbredir connection without I/O: bytes in, packets out, bytes to send.

The rules are the tables in `state.py`. The adapter that owns the stream does, whenever bytes arrive or its own code
sent something:

    for packet in connection.receive_data(data):      # b"" means end of file
        …                                             # may call send(…); the last one may be a Lost
    write(connection.data_to_send())

A lost connection takes and gives nothing more; `lost` says why.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral import __version__
from corral.errors import InvalidArgument
from corral.usb.layouts import Layout, layouts
from corral.usb.packets import (
    ALL_CAPABILITIES,
    DATA_IN,
    BufferedBulkPacket,
    BulkPacket,
    BulkReceivingStatus,
    CancelDataPacket,
    Capability,
    ControlPacket,
    DeviceConnect,
    DeviceDisconnect,
    DeviceDisconnectAck,
    EpInfo,
    FilterFilter,
    Hello,
    InterfaceInfo,
    InterruptPacket,
    InterruptReceivingStatus,
    IsoPacket,
    Packet,
    StartBulkReceiving,
    StartInterruptReceiving,
    StopBulkReceiving,
    StopInterruptReceiving,
)
from corral.usb.state import ANSWER, ANSWERS, CANCELLED, SENDABLE, Phase

if TYPE_CHECKING:
    from typing import Final

    from corral.usb.packets import Side

MAX_TRANSFER: Final = 32 << 20
"""Bytes of data in one packet; guests use up to a few megabytes."""
MAX_IN_FLIGHT: Final = 4096
"""Requests that wait for their answer."""
MAX_WAITING: Final = 64 << 20
"""Bytes of data in requests that wait for their answer."""
_MAX_FILTER = 64 << 10

_HEADER_32 = struct.Struct("<III")
_HEADER_64 = struct.Struct("<IIQ")

_INPUT_ONLY = (
    StartInterruptReceiving,
    StopInterruptReceiving,
    InterruptReceivingStatus,
    StartBulkReceiving,
    StopBulkReceiving,
    BulkReceivingStatus,
)
_DATA = (ControlPacket, BulkPacket, IsoPacket, InterruptPacket, BufferedBulkPacket)


@dataclass(slots=True)
class Lost(Packet):
    """The last thing a connection says: it is over, and why; `clean` when the peer ended it between two packets."""

    reason: str = ""
    clean: bool = False


class Connection:
    """The protocol state of one side of a redirection; its hello is ready to be sent at once.

    `side` is what we are: "host" has the device, "guest" uses it. `version` is free text for the peer's log.
    """

    def __init__(
        self,
        side: Side,
        *,
        version: str = f"Corral {__version__}",
        capabilities: Capability = ALL_CAPABILITIES,
        max_transfer: int = MAX_TRANSFER,
    ) -> None:
        if capabilities & Capability.BULK_STREAMS and not capabilities & Capability.EP_INFO_MAX_PACKET_SIZE:
            raise InvalidArgument("bulk streams need the endpoints' packet sizes ('usb_redir_ep_info')")
        self.side: Side = side
        self.phase = Phase.HELLO
        self.peer: Hello | None = None
        self.lost: str | None = None
        self.negotiated = Capability(0)
        """What both sides can do; nothing before the peer's hello."""
        self.in_flight: dict[tuple[type[Packet], int], Packet] = {}
        """The guest's requests that wait for an answer, by the type and id of the answer."""
        self._cancelled: dict[tuple[type[Packet], int], deque[Packet]] = {}  # their ids may be in use again
        self._asked = 0  # requests of both kinds
        self._waiting = 0  # bytes of data in them
        self._capabilities = capabilities
        self._max_transfer = max_transfer
        self._layouts = layouts(Capability(0))
        self._header = _HEADER_32
        self._buffer = bytearray()
        self._need = self._header.size
        self._announced: set[type[Packet]] = set()
        self._out: list[bytes | memoryview] = []
        self._put(Hello(version, capabilities))

    # -- in ---------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> list[Packet]:
        """The packets that `data` completes; a `Lost` is the last one ever. End of file is b""."""
        if self.lost is not None:
            return []
        received: list[Packet] = []
        if not data:
            clean = not self._buffer and self.peer is not None
            return [self._lose("the peer closed the connection" + ("" if clean else " within a packet"), clean)]
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._need:
            return received
        at = 0
        try:
            while len(buffer) - at >= self._header.size:
                kind, length, id = self._header.unpack_from(buffer, at)
                layout = self._check_header(kind, length)
                start = at + self._header.size
                if len(buffer) - start < length:
                    self._need = self._header.size + length
                    break
                self._need = 0
                at = start + length
                try:
                    with memoryview(buffer) as view, view[start:at] as body:
                        packet = layout.decode(body, id)
                except (ValueError, struct.error) as error:
                    raise _Refused(f"malformed {layout.cls.__name__}: {error}") from error
                if self._accept(packet):
                    received.append(packet)
            else:
                self._need = self._header.size
        except _Refused as refusal:
            received.append(self._lose(str(refusal)))
            return received
        del buffer[:at]
        return received

    def _check_header(self, kind: int, length: int) -> Layout:
        """The layout of a packet that may come now and can be that long: before any of it is stored."""
        layout = self._layouts.get(kind)
        if layout is None:
            raise _Refused(f"unknown packet type {kind}")
        cls = layout.cls
        if (cls is Hello) != (self.phase is Phase.HELLO):
            raise _Refused(f"{cls.__name__} before the hello" if self.phase is Phase.HELLO else "a second Hello")
        if cls.sender == self.side:
            raise _Refused(f"{cls.__name__} is the {self.side}'s to send")
        most = layout.size
        if layout.data:
            most += {Hello: 64, FilterFilter: _MAX_FILTER}.get(cls, self._max_transfer)
        if not layout.size <= length <= most:
            raise _Refused(f"{length} bytes of {cls.__name__}, which has {layout.size} to {most}")
        return layout

    def _accept(self, packet: Packet) -> bool:
        """Check a packet against the order of things and follow what it changes; False when it is to be dropped."""
        cls = type(packet)
        if isinstance(packet, Hello):
            self._greet(packet)
            return True
        if cls not in SENDABLE[_other(self.side)][self.phase]:
            raise _Refused(f"{cls.__name__} {self.phase.value}")
        if missing := cls.needs & ~self.negotiated:
            raise _Refused(f"{cls.__name__} without the capability {missing.name}")
        problem = _problem(packet, _other(self.side))
        if problem is not None:
            raise _Refused(problem)
        if self.side == "host":
            return self._accept_request(packet)
        self._accept_answer(packet)
        return True

    def _greet(self, hello: Hello) -> None:
        theirs = hello.capabilities
        if theirs & Capability.BULK_STREAMS and not theirs & Capability.EP_INFO_MAX_PACKET_SIZE:
            raise _Refused("a Hello with bulk streams and without the endpoints' packet sizes")
        self.peer = hello
        self.negotiated = theirs & self._capabilities
        self._layouts = layouts(self.negotiated)
        if self.negotiated & Capability.IDS_64BITS:
            self._header = _HEADER_64
        self.phase = Phase.IDLE

    def _accept_request(self, packet: Packet) -> bool:
        """Host: what the guest asks; what it asks of a device that has left is dropped."""
        if isinstance(packet, DeviceDisconnectAck):
            self.phase = Phase.IDLE
            return True
        if self.phase is Phase.LEAVING:
            return isinstance(packet, FilterFilter)
        answer = ANSWER.get(type(packet))
        if answer is not None:
            self._remember(answer, packet)
        elif isinstance(packet, CancelDataPacket):
            self._free(packet.id)
        return True

    def _accept_answer(self, packet: Packet) -> None:
        """Guest: what the host tells and answers."""
        cls = type(packet)
        if isinstance(packet, DeviceConnect):
            if self._announced != {EpInfo, InterfaceInfo}:
                raise _Refused("DeviceConnect before EpInfo and InterfaceInfo")
            self.phase = Phase.CONNECTED
        elif isinstance(packet, DeviceDisconnect):
            self._forget_device()
            self.phase = Phase.IDLE
            if self.negotiated & Capability.DEVICE_DISCONNECT_ACK:
                self._put(DeviceDisconnectAck())
        elif isinstance(packet, EpInfo | InterfaceInfo):
            self._announced.add(cls)
        elif cls in ANSWERS and not _unasked(packet):
            self._settle(packet, _Refused)

    def _remember(self, answer: type[Packet], packet: Packet) -> None:
        """A request that is to be answered; bounded in number and bytes."""
        key = answer, packet.id  # type: ignore[attr-defined]
        if key in self.in_flight:
            raise _Refused(f"{type(packet).__name__} with the id {key[1]}, which is in use")
        self._asked += 1
        self._waiting += _size(packet)
        if self._asked > MAX_IN_FLIGHT or self._waiting > max(MAX_WAITING, self._max_transfer):
            raise _Refused(f"too many requests at once: {self._asked} of {self._waiting} bytes")
        self.in_flight[key] = packet

    def _free(self, id: int) -> None:
        """A request is cancelled: its answer still comes, but its id may be used at once."""
        for answer in CANCELLED:
            if (request := self.in_flight.pop((answer, id), None)) is not None:
                self._cancelled.setdefault((answer, id), deque()).append(request)

    def _answered(self, answer: type[Packet], id: int) -> Packet | None:
        """The request that an answer is for: a cancelled one was there before the one that has its id now."""
        key = answer, id
        if (cancelled := self._cancelled.get(key)) is None:
            return self.in_flight.pop(key, None)
        request = cancelled.popleft()
        if not cancelled:
            del self._cancelled[key]
        return request

    def _settle(self, packet: Packet, error: type[Exception]) -> None:
        """An answer: the request that it belongs to is done."""
        request = self._answered(type(packet), packet.id)  # type: ignore[attr-defined]
        if request is None:
            raise error(f"{type(packet).__name__} with the id {packet.id}, which nobody asked for")  # type: ignore[attr-defined]
        self._asked -= 1
        self._waiting -= _size(request)
        if isinstance(packet, BulkPacket | ControlPacket | InterruptPacket):
            asked: BulkPacket | ControlPacket | InterruptPacket = request  # type: ignore[assignment]
            if packet.endpoint != asked.endpoint or packet.length > asked.length:
                what = f"{type(packet).__name__} {packet.id} of {packet.length} bytes, endpoint {packet.endpoint:#04x}"
                raise error(f"{what}; asked for {asked.length} of {asked.endpoint:#04x}")

    def _forget_device(self) -> None:
        self.in_flight.clear()
        self._cancelled.clear()
        self._asked = self._waiting = 0
        self._announced.clear()

    # -- out --------------------------------------------------------------------------------------------------------

    def send(self, packet: Packet) -> None:
        """Queue a packet. InvalidArgument for one that does not belong here; nothing happens on a lost connection."""
        if self.lost is not None:
            return
        cls = type(packet)
        if cls.sender == _other(self.side) or cls not in SENDABLE[self.side][self.phase]:
            raise InvalidArgument(f"a {self.side} does not send {cls.__name__} {self.phase.value}")
        if missing := cls.needs & ~self.negotiated:
            raise InvalidArgument(f"{cls.__name__} needs {missing.name}, which the peer lacks")
        if (problem := _problem(packet, self.side)) is not None:
            raise InvalidArgument(problem)
        if self.side == "guest":
            if (answer := ANSWER.get(cls)) is not None:
                self._send_request(answer, packet)
                return
            if isinstance(packet, CancelDataPacket):
                self._free(packet.id)
        elif cls in ANSWERS and not _unasked(packet):
            self._settle(packet, InvalidArgument)
        elif isinstance(packet, DeviceConnect):
            if self._announced != {EpInfo, InterfaceInfo}:
                raise InvalidArgument("DeviceConnect before EpInfo and InterfaceInfo")
            if self.phase is Phase.LEAVING and self.negotiated & Capability.DEVICE_DISCONNECT_ACK:
                raise InvalidArgument("DeviceConnect before the guest has acknowledged the last DeviceDisconnect")
            self.phase = Phase.CONNECTED
        elif isinstance(packet, EpInfo | InterfaceInfo):
            self._announced.add(cls)
        elif isinstance(packet, DeviceDisconnect):
            self._forget_device()
            self.phase = Phase.LEAVING
        self._put(packet)

    def _send_request(self, answer: type[Packet], packet: Packet) -> None:
        try:
            self._remember(answer, packet)
        except _Refused as error:
            raise InvalidArgument(str(error)) from error
        self._put(packet)

    def _put(self, packet: Packet) -> None:
        try:
            body = self._layouts[packet.kind].encode(packet)
            data = packet.data if isinstance(packet, _DATA) else b""
            header = self._header.pack(packet.kind, len(body) + len(data), packet.id)  # type: ignore[attr-defined]
        except (struct.error, ValueError) as error:
            raise InvalidArgument(f"{packet!r}: {error}") from error
        # Data is copied once, when all goes out.
        self._out += (header, body, data)

    def data_to_send(self) -> bytes:
        """All bytes that wait to go out; the caller now owns them."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget everything: the owner closes the stream."""
        if self.lost is None:
            self._lose("closed")

    def _lose(self, reason: str, clean: bool = False) -> Lost:
        self.lost = reason
        self._buffer = bytearray()
        self._out.clear()
        self._forget_device()
        return Lost(reason, clean)


class _Refused(Exception):
    """The peer sent what ends the connection."""


def _other(side: Side) -> Side:
    return "guest" if side == "host" else "host"


def _size(packet: Packet) -> int:
    """Bytes of memory that a request may come to hold: its data, or the data it asks for."""
    return packet.length if isinstance(packet, BulkPacket | ControlPacket | InterruptPacket) else 0


def _unasked(packet: Packet) -> bool:
    """Interrupt data from the device is nobody's answer."""
    return isinstance(packet, InterruptPacket) and bool(packet.endpoint & DATA_IN)


def _problem(packet: Packet, sender: Side) -> str | None:
    """What is wrong with the fields of a packet that `sender` sent, if anything is."""
    if isinstance(packet, _INPUT_ONLY):
        if not packet.endpoint & DATA_IN:
            return f"{type(packet).__name__} for the output endpoint {packet.endpoint:#04x}"
        if isinstance(packet, StartBulkReceiving) and packet.bytes_per_transfer > MAX_TRANSFER:
            return f"{packet.bytes_per_transfer} bytes for each transfer of StartBulkReceiving"
        return None
    if not isinstance(packet, _DATA):
        return None
    carries = bool(packet.endpoint & DATA_IN) == (sender == "host")
    if not carries and (isinstance(packet, IsoPacket | BufferedBulkPacket) or _polled(packet, sender)):
        return f"{type(packet).__name__} of the {sender} for endpoint {packet.endpoint:#04x}"
    expected = packet.length if carries else 0
    if len(packet.data) != expected:
        return f"{type(packet).__name__} with {len(packet.data)} bytes of data, {expected} expected"
    if packet.length > MAX_TRANSFER:
        return f"{type(packet).__name__} of {packet.length} bytes, at most {MAX_TRANSFER} allowed"
    return None


def _polled(packet: Packet, sender: Side) -> bool:
    """Interrupt endpoints from the device are polled by the host: the guest never asks."""
    return isinstance(packet, InterruptPacket) and sender == "guest"
