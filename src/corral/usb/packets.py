"""The packets of usbredir 0.7, as records; their bytes are in `layouts`.

"USB Network Redirection protocol description version 0.7 (19 May 2014)", docs/usb-redirection-protocol.md of the
usbredir project; the section of each packet has the packet's name. All integers are little-endian, nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from typing import Final, Literal

    Side = Literal["host", "guest"]

ENDPOINTS: Final = 32
"""Endpoints of a device in `EpInfo`: 0-15 out, then 0-15 in."""
INTERFACES: Final = 32
DATA_IN: Final = 0x80
"""The direction bit of an endpoint address: from the device (USB 2.0, 9.6.6)."""


class Capability(IntFlag):
    """What a side can do, from its hello; a thing is used when both can."""

    BULK_STREAMS = 1 << 0
    CONNECT_DEVICE_VERSION = 1 << 1
    FILTER = 1 << 2
    DEVICE_DISCONNECT_ACK = 1 << 3
    EP_INFO_MAX_PACKET_SIZE = 1 << 4
    IDS_64BITS = 1 << 5
    BULK_LENGTH_32BITS = 1 << 6
    BULK_RECEIVING = 1 << 7


NO_CAPABILITIES: Final = Capability(0)
ALL_CAPABILITIES: Final = Capability(0xFF)


class Status(IntEnum):
    """How a transfer or a request went; a value that is not here is an error, too."""

    SUCCESS = 0
    CANCELLED = 1
    INVAL = 2
    IOERROR = 3
    STALL = 4
    TIMEOUT = 5
    BABBLE = 6


class Speed(IntEnum):
    """The bus speed of a device."""

    LOW = 0
    FULL = 1
    HIGH = 2
    SUPER = 3
    UNKNOWN = 255


class TransferType(IntEnum):
    """The type of an endpoint, as in the two low bits of bmAttributes (USB 2.0, 9.6.6)."""

    CONTROL = 0
    ISO = 1
    BULK = 2
    INTERRUPT = 3
    INVALID = 255


Data = bytes | memoryview
"""What a packet carries: received, its own; to be sent, whatever the device has it in until it goes out."""


@dataclass(slots=True)
class Packet:
    """One packet: `kind` is its type on the wire, `id` joins a request of the guest with the host's answer."""

    kind: ClassVar[int] = -1
    sender: ClassVar[Side | None] = None
    """The only side that sends it; None when both do."""
    needs: ClassVar[Capability] = Capability(0)
    """Capabilities that both sides must have."""


@dataclass(slots=True)
class Hello(Packet):
    """The first packet of both sides: who they are (up to 63 bytes of text) and what they can do."""

    kind = 0
    version: str = ""
    capabilities: Capability = NO_CAPABILITIES
    id: int = 0


@dataclass(slots=True)
class DeviceConnect(Packet):
    """A device is there; after its EpInfo and InterfaceInfo."""

    kind = 1
    sender = "host"
    speed: int = Speed.UNKNOWN
    device_class: int = 0
    device_subclass: int = 0
    device_protocol: int = 0
    vendor_id: int = 0
    product_id: int = 0
    device_version_bcd: int = 0
    id: int = 0


@dataclass(slots=True)
class DeviceDisconnect(Packet):
    """The device is gone."""

    kind = 2
    sender = "host"
    id: int = 0


@dataclass(slots=True)
class Reset(Packet):
    """Reset the device; there is no answer, but a disconnect if it did not come back."""

    kind = 3
    sender = "guest"
    id: int = 0


@dataclass(slots=True)
class InterfaceInfo(Packet):
    """The interfaces of the active configuration: number, class, subclass and protocol of each, up to 32."""

    kind = 4
    sender = "host"
    interfaces: tuple[tuple[int, int, int, int], ...] = ()
    id: int = 0


@dataclass(slots=True)
class EpInfo(Packet):
    """All 32 endpoints, each of the tuples in the order of `ENDPOINTS`."""

    kind = 5
    sender = "host"
    type: tuple[int, ...] = (TransferType.INVALID,) * ENDPOINTS
    interval: tuple[int, ...] = (0,) * ENDPOINTS
    interface: tuple[int, ...] = (0,) * ENDPOINTS
    max_packet_size: tuple[int, ...] = (0,) * ENDPOINTS
    max_streams: tuple[int, ...] = (0,) * ENDPOINTS
    id: int = 0


@dataclass(slots=True)
class SetConfiguration(Packet):
    """Choose a configuration; answered by ConfigurationStatus."""

    kind = 6
    sender = "guest"
    configuration: int = 0
    id: int = 0


@dataclass(slots=True)
class GetConfiguration(Packet):
    """Ask for the active configuration; answered by ConfigurationStatus."""

    kind = 7
    sender = "guest"
    id: int = 0


@dataclass(slots=True)
class ConfigurationStatus(Packet):
    """The active configuration."""

    kind = 8
    sender = "host"
    status: int = 0
    configuration: int = 0
    id: int = 0


@dataclass(slots=True)
class SetAltSetting(Packet):
    """Choose an alternate setting of an interface; answered by AltSettingStatus."""

    kind = 9
    sender = "guest"
    interface: int = 0
    alt: int = 0
    id: int = 0


@dataclass(slots=True)
class GetAltSetting(Packet):
    """Ask for an interface's alternate setting; answered by AltSettingStatus."""

    kind = 10
    sender = "guest"
    interface: int = 0
    id: int = 0


@dataclass(slots=True)
class AltSettingStatus(Packet):
    """An interface's alternate setting."""

    kind = 11
    sender = "host"
    status: int = 0
    interface: int = 0
    alt: int = 0
    id: int = 0


@dataclass(slots=True)
class StartIsoStream(Packet):
    """Keep `no_urbs` times `pkts_per_urb` isochronous packets in flight; answered by IsoStreamStatus."""

    kind = 12
    sender = "guest"
    endpoint: int = 0
    pkts_per_urb: int = 0
    no_urbs: int = 0
    id: int = 0


@dataclass(slots=True)
class StopIsoStream(Packet):
    """End an isochronous stream; answered by IsoStreamStatus."""

    kind = 13
    sender = "guest"
    endpoint: int = 0
    id: int = 0


@dataclass(slots=True)
class IsoStreamStatus(Packet):
    """A stream started, stopped, or (STALL, unasked) ended by itself."""

    kind = 14
    sender = "host"
    status: int = 0
    endpoint: int = 0
    id: int = 0


@dataclass(slots=True)
class StartInterruptReceiving(Packet):
    """Poll an interrupt endpoint (in) from now on; answered by InterruptReceivingStatus."""

    kind = 15
    sender = "guest"
    endpoint: int = 0
    id: int = 0


@dataclass(slots=True)
class StopInterruptReceiving(Packet):
    """Poll it no more; answered by InterruptReceivingStatus."""

    kind = 16
    sender = "guest"
    endpoint: int = 0
    id: int = 0


@dataclass(slots=True)
class InterruptReceivingStatus(Packet):
    """Polling started, stopped, or (STALL, unasked) ended by itself."""

    kind = 17
    sender = "host"
    status: int = 0
    endpoint: int = 0
    id: int = 0


@dataclass(slots=True)
class AllocBulkStreams(Packet):
    """Allocate USB 3 bulk streams on the endpoints of a bit mask; answered by BulkStreamsStatus."""

    kind = 18
    sender = "guest"
    needs = Capability.BULK_STREAMS
    endpoints: int = 0
    no_streams: int = 0
    id: int = 0


@dataclass(slots=True)
class FreeBulkStreams(Packet):
    """Free the bulk streams of the endpoints of a bit mask; answered by BulkStreamsStatus."""

    kind = 19
    sender = "guest"
    needs = Capability.BULK_STREAMS
    endpoints: int = 0
    id: int = 0


@dataclass(slots=True)
class BulkStreamsStatus(Packet):
    """Streams are allocated (`no_streams` of them) or freed (0)."""

    kind = 20
    sender = "host"
    needs = Capability.BULK_STREAMS
    endpoints: int = 0
    no_streams: int = 0
    status: int = 0
    id: int = 0


@dataclass(slots=True)
class CancelDataPacket(Packet):
    """Cancel the data packet with this id; its answer comes all the same."""

    kind = 21
    sender = "guest"
    id: int = 0


@dataclass(slots=True)
class FilterReject(Packet):
    """The guest's filter does not let the device in."""

    kind = 22
    sender = "guest"
    needs = Capability.FILTER
    id: int = 0


@dataclass(slots=True)
class FilterFilter(Packet):
    """A side's filter in its text form (`filter.Filter`)."""

    kind = 23
    needs = Capability.FILTER
    filter: str = ""
    id: int = 0


@dataclass(slots=True)
class DeviceDisconnectAck(Packet):
    """The guest has seen the disconnect: no packet for the old device comes after this."""

    kind = 24
    sender = "guest"
    needs = Capability.DEVICE_DISCONNECT_ACK
    id: int = 0


@dataclass(slots=True)
class StartBulkReceiving(Packet):
    """Keep `no_transfers` reads of a bulk endpoint in flight; answered by BulkReceivingStatus."""

    kind = 25
    sender = "guest"
    needs = Capability.BULK_RECEIVING
    stream_id: int = 0
    bytes_per_transfer: int = 0
    endpoint: int = 0
    no_transfers: int = 0
    id: int = 0


@dataclass(slots=True)
class StopBulkReceiving(Packet):
    """End that; answered by BulkReceivingStatus."""

    kind = 26
    sender = "guest"
    needs = Capability.BULK_RECEIVING
    stream_id: int = 0
    endpoint: int = 0
    id: int = 0


@dataclass(slots=True)
class BulkReceivingStatus(Packet):
    """Bulk receiving started, stopped, or (STALL, unasked) ended by itself."""

    kind = 27
    sender = "host"
    needs = Capability.BULK_RECEIVING
    stream_id: int = 0
    endpoint: int = 0
    status: int = 0
    id: int = 0


@dataclass(slots=True)
class ControlPacket(Packet):
    """A control transfer and its answer: the fields of the setup packet (USB 2.0, 9.3) and the data of its stage."""

    kind = 100
    endpoint: int = 0
    request: int = 0
    requesttype: int = 0
    status: int = 0
    value: int = 0
    index: int = 0
    length: int = 0
    id: int = 0
    data: Data = field(default=b"", repr=False)


@dataclass(slots=True)
class BulkPacket(Packet):
    """A bulk transfer and its answer; over 65535 bytes only with BULK_LENGTH_32BITS."""

    kind = 101
    endpoint: int = 0
    status: int = 0
    length: int = 0
    stream_id: int = 0
    id: int = 0
    data: Data = field(default=b"", repr=False)


@dataclass(slots=True)
class IsoPacket(Packet):
    """One isochronous packet in the direction of its endpoint; ids count from 0."""

    kind = 102
    endpoint: int = 0
    status: int = 0
    length: int = 0
    id: int = 0
    data: Data = field(default=b"", repr=False)


@dataclass(slots=True)
class InterruptPacket(Packet):
    """In: what polling brought, ids count from 0. Out: a transfer and its answer."""

    kind = 103
    endpoint: int = 0
    status: int = 0
    length: int = 0
    id: int = 0
    data: Data = field(default=b"", repr=False)


@dataclass(slots=True)
class BufferedBulkPacket(Packet):
    """What bulk receiving brought; ids count from 0."""

    kind = 104
    sender = "host"
    needs = Capability.BULK_RECEIVING
    stream_id: int = 0
    length: int = 0
    endpoint: int = 0
    status: int = 0
    id: int = 0
    data: Data = field(default=b"", repr=False)


def index(endpoint: int) -> int:
    """The place of an endpoint address in `EpInfo`."""
    return (endpoint & 0x0F) | (endpoint & DATA_IN) >> 3
