"""What a USB device says about itself: descriptors as records, to and from bytes.

USB 2.0 specification, 9.6, and for SuperSpeed USB 3.0, 9.6. Class-specific descriptors ride along as bytes in `extra`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from corral.errors import InvalidArgument
from corral.usb.packets import TransferType

DEVICE: Final = 1
CONFIGURATION: Final = 2
STRING: Final = 3
INTERFACE: Final = 4
ENDPOINT: Final = 5
DEVICE_QUALIFIER: Final = 6
OTHER_SPEED_CONFIGURATION: Final = 7
BOS: Final = 15
_CAPABILITY: Final = 16
_COMPANION: Final = 48
"""bDescriptorType (USB 2.0, table 9-5; USB 3.0, table 9-6)."""

_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_CONFIGURATION = struct.Struct("<BBHBBBBB")
_INTERFACE = struct.Struct("<BBBBBBBBB")
_ENDPOINT = struct.Struct("<BBBBHB")
_QUALIFIER = struct.Struct("<BBHBBBBBB")
_SUPER_SPEED = struct.Struct("<BBBBHBBH")
_MAX_BURST: Final = 15
_FULL_TO_SUPER: Final = 0x0E
"""wSpeedsSupported: full, high and SuperSpeed (USB 3.0, table 9-13)."""
_LANGUAGE_ENGLISH_US = 0x0409
_MAX_CONFIGURATION = 0xFFFF


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint (9.6.6): address with the direction bit, type, wMaxPacketSize, bInterval as on the wire."""

    address: int
    type: TransferType
    max_packet: int
    interval: int = 0
    attributes: int = 0
    """The high six bits of bmAttributes: synchronisation and usage of isochronous endpoints."""
    extra: bytes = b""
    max_streams: int = 0

    def pack(self) -> bytes:
        """The descriptor's bytes and what rides along."""
        kind = int(self.type) | self.attributes
        return _ENDPOINT.pack(7, ENDPOINT, self.address, kind, self.max_packet, self.interval) + self.extra


def companion(burst: int = _MAX_BURST, interval_bytes: int = 0) -> bytes:
    """A SuperSpeed endpoint's companion (USB 3.0, 9.6.7): packets in a burst less one, bytes of a periodic interval."""
    return struct.pack("<BBBBH", 6, _COMPANION, burst, 0, interval_bytes)


def capabilities() -> bytes:
    """The binary device object store of a SuperSpeed device (USB 3.0, 9.6.2): it needs no time to wake up."""
    extension = struct.pack("<BBBI", 7, _CAPABILITY, 2, 0)
    speeds = _SUPER_SPEED.pack(10, _CAPABILITY, 3, 0, _FULL_TO_SUPER, 1, 0, 0)
    return struct.pack("<BBHB", 5, BOS, 5 + len(extension) + len(speeds), 2) + extension + speeds


@dataclass(frozen=True, slots=True)
class Interface:
    """One alternate setting of an interface (9.6.5)."""

    number: int
    device_class: int
    subclass: int
    protocol: int
    endpoints: tuple[Endpoint, ...] = ()
    alt: int = 0
    extra: bytes = b""
    """Class-specific descriptors, between the interface's and its endpoints'."""
    name_index: int = 0

    def pack(self) -> bytes:
        """The descriptors' bytes: interface, class-specific, endpoints."""
        head = _INTERFACE.pack(
            *(9, INTERFACE, self.number, self.alt, len(self.endpoints)),
            *(self.device_class, self.subclass, self.protocol, self.name_index),
        )
        return head + self.extra + b"".join(endpoint.pack() for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration (9.6.3) with all its interfaces."""

    interfaces: tuple[Interface, ...]
    value: int = 1
    attributes: int = 0x80
    max_power: int = 50
    """In units of 2 mA."""
    extra: bytes = b""
    """What stands before the first interface, as an interface association."""
    name_index: int = 0

    def pack(self, kind: int = CONFIGURATION) -> bytes:
        """wTotalLength bytes: the configuration and everything in it."""
        body = self.extra + b"".join(interface.pack() for interface in self.interfaces)
        count = len({interface.number for interface in self.interfaces})
        total = _CONFIGURATION.size + len(body)
        head = (9, kind, total, count, self.value, self.name_index, self.attributes, self.max_power)
        return _CONFIGURATION.pack(*head) + body


@dataclass(frozen=True, slots=True)
class DeviceDescriptor:
    """The device (9.6.1): its class, its identity and the indexes of its strings."""

    vendor: int
    product: int
    version: int = 0x0100
    device_class: int = 0
    subclass: int = 0
    protocol: int = 0
    max_packet: int = 64
    usb: int = 0x0200
    strings: tuple[int, int, int] = (1, 2, 3)
    configurations: int = 1

    def pack(self) -> bytes:
        """The 18 bytes."""
        return _DEVICE.pack(
            *(18, DEVICE, self.usb, self.device_class, self.subclass, self.protocol, self.max_packet),
            *(self.vendor, self.product, self.version, *self.strings, self.configurations),
        )

    def qualifier(self) -> bytes:
        """The device qualifier (9.6.2): the device at its other speed."""
        return _QUALIFIER.pack(
            *(10, DEVICE_QUALIFIER, self.usb, self.device_class, self.subclass, self.protocol),
            *(self.max_packet, self.configurations, 0),
        )

    @classmethod
    def unpack(cls, data: bytes) -> DeviceDescriptor:
        """A device descriptor from its 18 bytes; InvalidArgument when it is none."""
        if len(data) < 18 or data[:2] != b"\x12\x01":
            raise InvalidArgument("not a USB device descriptor")
        usb, klass, subclass, protocol, packet, vendor, product, version, *strings, count = _DEVICE.unpack(data[:18])[
            2:
        ]
        indexes = (strings[0], strings[1], strings[2])
        return cls(vendor, product, version, klass, subclass, protocol, packet, usb, indexes, count)


def string(text: str) -> bytes:
    """A string descriptor (9.6.7) of up to 126 UTF-16 units."""
    data = text.encode("utf-16-le")[:252]
    return bytes((2 + len(data), STRING)) + data


def languages() -> bytes:
    """String descriptor zero: the languages there are."""
    return struct.pack("<BBH", 4, STRING, _LANGUAGE_ENGLISH_US)


@dataclass(slots=True)
class _Open:
    """An interface while its descriptors are read."""

    head: tuple[int, ...]
    extra: bytes = b""
    endpoints: list[Endpoint] = field(default_factory=list)

    def close(self) -> Interface:
        number, alt, _count, device_class, subclass, protocol, name = self.head
        return Interface(
            number, device_class, subclass, protocol, tuple(self.endpoints), alt, extra=self.extra, name_index=name
        )


def unpack_configuration(data: bytes) -> Configuration:
    """A configuration from its bytes as a device gives them; InvalidArgument when they are malformed."""
    if len(data) < 9 or data[1] not in (CONFIGURATION, OTHER_SPEED_CONFIGURATION):
        raise InvalidArgument("not a USB configuration descriptor")
    _, _, total, _count, value, name, attributes, power = _CONFIGURATION.unpack(data[:9])
    extra = b""
    interfaces: list[Interface] = []
    current: _Open | None = None
    for descriptor in _descriptors(data[9 : min(total, _MAX_CONFIGURATION)]):
        kind = descriptor[1]
        if kind == INTERFACE and len(descriptor) >= 9:
            if current is not None:
                interfaces.append(current.close())
            current = _Open(tuple(descriptor[2:9]), extra=descriptor[9:])
        elif current is None:
            extra += descriptor
        elif kind == ENDPOINT and len(descriptor) >= 7:
            current.endpoints.append(_endpoint(descriptor))
        elif current.endpoints:
            last = current.endpoints[-1]
            current.endpoints[-1] = replace(last, extra=last.extra + descriptor)
        else:
            current.extra += descriptor
    if current is not None:
        interfaces.append(current.close())
    return Configuration(tuple(interfaces), value, attributes, power, extra=extra, name_index=name)


def _endpoint(descriptor: bytes) -> Endpoint:
    _, _, address, kind, packet, interval = _ENDPOINT.unpack(descriptor[:7])
    return Endpoint(address, TransferType(kind & 3), packet, interval, kind & 0xFC, extra=descriptor[7:])


def _descriptors(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        length = data[at]
        if length < 2 or at + length > len(data):
            raise InvalidArgument(f"a USB descriptor of {length} bytes, {len(data) - at} are left")
        yield data[at : at + length]
        at += length
