"""The bytes of usbredir's packets, as a table: how each record of `packets` looks under a set of capabilities.

All integers are little-endian, nothing is padded; the document is named there.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from corral.usb.packets import (
    ALL_CAPABILITIES,
    ENDPOINTS,
    INTERFACES,
    AllocBulkStreams,
    AltSettingStatus,
    BufferedBulkPacket,
    BulkPacket,
    BulkReceivingStatus,
    BulkStreamsStatus,
    CancelDataPacket,
    Capability,
    ConfigurationStatus,
    ControlPacket,
    DeviceConnect,
    DeviceDisconnect,
    DeviceDisconnectAck,
    EpInfo,
    FilterFilter,
    FilterReject,
    FreeBulkStreams,
    GetAltSetting,
    GetConfiguration,
    Hello,
    InterfaceInfo,
    InterruptPacket,
    InterruptReceivingStatus,
    IsoPacket,
    IsoStreamStatus,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
    StartBulkReceiving,
    StartInterruptReceiving,
    StartIsoStream,
    StopBulkReceiving,
    StopInterruptReceiving,
    StopIsoStream,
)

if TYPE_CHECKING:
    from typing import Any

_MAX_CAPABILITY_WORDS = 16

_FORMATS: dict[type[Packet], str] = {
    DeviceDisconnect: "",
    Reset: "",
    SetConfiguration: "B",
    GetConfiguration: "",
    ConfigurationStatus: "BB",
    SetAltSetting: "BB",
    GetAltSetting: "B",
    AltSettingStatus: "BBB",
    StartIsoStream: "BBB",
    StopIsoStream: "B",
    IsoStreamStatus: "BB",
    StartInterruptReceiving: "B",
    StopInterruptReceiving: "B",
    InterruptReceivingStatus: "BB",
    AllocBulkStreams: "II",
    FreeBulkStreams: "I",
    BulkStreamsStatus: "IIB",
    CancelDataPacket: "",
    FilterReject: "",
    DeviceDisconnectAck: "",
    StartBulkReceiving: "IIBB",
    StopBulkReceiving: "IB",
    BulkReceivingStatus: "IBB",
    ControlPacket: "BBBBHHH",
    IsoPacket: "BBH",
    InterruptPacket: "BBH",
    BufferedBulkPacket: "IIBB",
}
"""Headers whose fields are the record's, in its order."""

_WITH_DATA = (ControlPacket, IsoPacket, InterruptPacket, BufferedBulkPacket)


class Layout:
    """How one kind of packet looks after its usb_redir_header under a set of capabilities.

    `size`: bytes of its own header; `data`: whether more may follow.
    """

    __slots__ = ("cls", "data", "size", "struct")

    def __init__(self, cls: type[Packet], form: str, data: bool = False) -> None:
        self.cls = cls
        self.struct = struct.Struct("<" + form)
        self.size = self.struct.size
        self.data = data

    def decode(self, body: memoryview, id: int) -> Packet:
        """The packet of a body whose length was checked, copied; ValueError says what is wrong with it."""
        fields = self.struct.unpack_from(body)
        if self.data:
            return self.cls(*fields, id, bytes(body[self.size :]))  # type: ignore[call-arg]
        return self.cls(*fields, id)  # type: ignore[call-arg]

    def encode(self, packet: Any) -> bytes:
        """The body without its data; struct.error or ValueError for fields out of range."""
        names = packet.__slots__
        count = len(names) - (2 if self.data else 1)
        return self.struct.pack(*[getattr(packet, name) for name in names[:count]])


class _HelloLayout(Layout):
    def decode(self, body: memoryview, id: int) -> Packet:
        words = body[64:]
        if len(words) % 4 or len(words) > 4 * _MAX_CAPABILITY_WORDS:
            raise ValueError(f"{len(words)} bytes of capabilities")
        # Capabilities we do not know are the peer's to keep; only the first word has any so far.
        known = int.from_bytes(words[:4], "little") & ALL_CAPABILITIES
        return Hello(bytes(body[:64]).split(b"\0", 1)[0].decode("utf-8", "replace"), Capability(known), id)

    def encode(self, packet: Any) -> bytes:
        version: bytes = packet.version.encode()[:63]
        return version.ljust(64, b"\0") + int(packet.capabilities).to_bytes(4, "little")


class _ConnectLayout(Layout):
    def decode(self, body: memoryview, id: int) -> Packet:
        fields = self.struct.unpack(body)
        packet = DeviceConnect(*fields)
        packet.id = id
        return packet

    def encode(self, packet: Any) -> bytes:
        fields = (
            *(packet.speed, packet.device_class, packet.device_subclass, packet.device_protocol),
            *(packet.vendor_id, packet.product_id, packet.device_version_bcd),
        )
        return self.struct.pack(*fields[: 7 if self.size == 10 else 6])


class _InterfacesLayout(Layout):
    def decode(self, body: memoryview, id: int) -> Packet:
        count, *columns = self.struct.unpack(body)
        if count > INTERFACES:
            raise ValueError(f"{count} interfaces, at most {INTERFACES} allowed")
        return InterfaceInfo(tuple(zip(*[column[:count] for column in columns], strict=True)), id)

    def encode(self, packet: Any) -> bytes:
        if len(packet.interfaces) > INTERFACES:
            raise ValueError(f"{len(packet.interfaces)} interfaces, at most {INTERFACES} allowed")
        columns = [bytes(column).ljust(INTERFACES, b"\0") for column in zip(*packet.interfaces, strict=True)]
        return self.struct.pack(len(packet.interfaces), *(columns or [b""] * 4))


class _EndpointsLayout(Layout):
    def decode(self, body: memoryview, id: int) -> Packet:
        numbers = self.struct.unpack(body)
        packet = EpInfo(id=id)
        for name, at in zip(EpInfo.__slots__, range(0, len(numbers), ENDPOINTS), strict=False):
            setattr(packet, name, numbers[at : at + ENDPOINTS])
        return packet

    def encode(self, packet: Any) -> bytes:
        columns = (packet.type, packet.interval, packet.interface, packet.max_packet_size, packet.max_streams)
        if any(len(column) != ENDPOINTS for column in columns):
            raise ValueError(f"endpoint information that is not of {ENDPOINTS} endpoints")
        numbers = [number for column in columns for number in column]
        return self.struct.pack(*numbers[: {96: 96, 160: 128, 288: 160}[self.size]])


class _FilterLayout(Layout):
    def decode(self, body: memoryview, id: int) -> Packet:
        if not len(body) or body[-1]:
            raise ValueError("the filter's text has no end")
        return FilterFilter(bytes(body[:-1]).decode("ascii"), id)

    def encode(self, packet: Any) -> bytes:
        text: bytes = packet.filter.encode("ascii")
        return text + b"\0"


class _BulkLayout(Layout):
    def decode(self, body: memoryview, id: int) -> Packet:
        endpoint, status, length, stream_id, *high = self.struct.unpack_from(body)
        if high:
            length |= high[0] << 16
        return BulkPacket(endpoint, status, length, stream_id, id, bytes(body[self.size :]))

    def encode(self, packet: Any) -> bytes:
        length: int = packet.length
        if self.size == 8:
            return self.struct.pack(packet.endpoint, packet.status, length, packet.stream_id)
        low, high = length & 0xFFFF, length >> 16
        return self.struct.pack(packet.endpoint, packet.status, low, packet.stream_id, high)


def layouts(capabilities: Capability) -> dict[int, Layout]:
    """The layout of every packet, by its type, when both sides have these capabilities."""
    has = capabilities.__and__
    table: list[Layout] = [Layout(cls, form, cls in _WITH_DATA) for cls, form in _FORMATS.items()]
    endpoints = "96B" + ("32H" if has(Capability.EP_INFO_MAX_PACKET_SIZE) else "")
    if has(Capability.BULK_STREAMS):
        endpoints += "32I"
    table += [
        _HelloLayout(Hello, "64s", data=True),
        _ConnectLayout(DeviceConnect, "BBBBHHH" if has(Capability.CONNECT_DEVICE_VERSION) else "BBBBHH"),
        _InterfacesLayout(InterfaceInfo, "I32s32s32s32s"),
        _EndpointsLayout(EpInfo, endpoints),
        _FilterLayout(FilterFilter, "", data=True),
        _BulkLayout(BulkPacket, "BBHIH" if has(Capability.BULK_LENGTH_32BITS) else "BBHI", data=True),
    ]
    return {layout.cls.kind: layout for layout in table}
