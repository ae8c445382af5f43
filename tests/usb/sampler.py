"""A device of isochronous endpoints: it gives numbered packets, and keeps what it is given."""

from __future__ import annotations

import struct
from itertools import count

from corral import usb
from corral.usb.descriptors import Interface
from corral.usb.device import isochronous

SIZE = 192
"""Bytes in a packet, a millisecond of sound at 48 kHz in stereo."""


class Sampler(usb.Device):
    """A vendor's own class; the endpoints are in the alternate setting, as bandwidth is reserved by that (5.6.3)."""

    name = "Python sampler"

    def __init__(self, speed: usb.Speed = usb.Speed.FULL) -> None:
        super().__init__(speed=speed)
        self.numbers = count()
        self.given: list[bytes] = []

    def interfaces_offered(self, speed: usb.Speed) -> tuple[Interface, ...]:
        endpoints = isochronous(0x81, SIZE, speed), isochronous(0x02, SIZE, speed)
        return Interface(0, 0xFF, 0, 0), Interface(0, 0xFF, 0, 0, endpoints, alt=1)

    def data_in(self, endpoint: int, length: int) -> bytes:
        return struct.pack("<I", next(self.numbers)) * (SIZE // 4)

    def data_out(self, endpoint: int, data: bytes) -> bool:
        self.given.append(data)
        return True
