"""A serial port: the Communications Device Class's Abstract Control Model (what Linux calls ttyACM), in Python.

"Universal Serial Bus Class Definitions for Communications Devices" 1.2 and its PSTN subclass 1.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from corral.usb.descriptors import Interface
from corral.usb.device import Device, Stall, bulk, interrupt
from corral.usb.packets import Speed
from corral.usb.transfer import Setup

_COMMUNICATIONS, _DATA, _ABSTRACT_CONTROL = 0x02, 0x0A, 0x02
_NOTIFY, _IN, _OUT = 0x81, 0x82, 0x03
_SET_LINE_CODING, _GET_LINE_CODING, _SET_CONTROL_LINE_STATE, _SEND_BREAK = 0x20, 0x21, 0x22, 0x23
_SERIAL_STATE = 0x20
_CARRIER, _READY = 1, 2
_LINE = struct.Struct("<IBBB")
_BUFFER = 64 << 10

_FUNCTIONS = (
    bytes((5, 0x24, 0x00, 0x10, 0x01))  # header: CDC 1.10
    + bytes((5, 0x24, 0x01, 0x00, 0x01))  # call management: none, on interface 1
    + bytes((4, 0x24, 0x02, 0x06))  # abstract control: line coding, line state, serial state, break
    + bytes((5, 0x24, 0x06, 0x00, 0x01))  # union of interfaces 0 and 1
)


class Line(NamedTuple):
    """Line coding (PSTN 1.2, 6.3.11): bits per second, stop bits and parity as numbers of the class, data bits."""

    rate: int = 9600
    stop: int = 0
    parity: int = 0
    bits: int = 8


class Serial(Device):
    """A serial port of the guest whose other end is here.

    `on_data` gets what the guest sends, and says whether it took it: if not, the guest waits until `resume`. `on_room`
    is called when the guest has taken something and `send` may have room again.
    """

    name: ClassVar[str] = "USB serial port"
    device_class: ClassVar[tuple[int, int, int]] = (_COMMUNICATIONS, 0, 0)

    def __init__(self, *, speed: Speed = Speed.HIGH, serial: str = "000000000001") -> None:
        super().__init__(speed=speed, serial=serial)
        self.line = Line()
        self.open = False
        """The guest holds DTR: a program has the port open."""
        self.on_data: Callable[[bytes], bool] = _drop
        self.on_room: Callable[[], None] = _nothing
        self._waiting = bytearray()
        self._state_told = False

    def interfaces_offered(self, speed: Speed) -> tuple[Interface, ...]:
        """A communications interface with the notifications, and a data interface."""
        notify = interrupt(_NOTIFY, 16, 32, speed)
        return (
            Interface(0, _COMMUNICATIONS, _ABSTRACT_CONTROL, 1, (notify,), extra=_FUNCTIONS),
            Interface(1, _DATA, 0, 0, (bulk(_IN, speed), bulk(_OUT, speed))),
        )

    @property
    def room(self) -> int:
        """Bytes that `send` takes now."""
        return _BUFFER - len(self._waiting)

    def send(self, data: bytes) -> int:
        """Give bytes to the guest; how many were taken."""
        taken = data[: self.room]
        self._waiting += taken
        self.ready(_IN)
        return len(taken)

    def resume(self) -> None:
        """Take data from the guest again."""
        self.ready(_OUT)

    def began(self) -> None:
        """Reset or configured: nobody has the port open, and the carrier is to be told again."""
        self.open = False
        self._state_told = False
        self._waiting.clear()

    def control_in(self, setup: Setup) -> bytes:
        """GetLineCoding (PSTN 1.2, 6.3.11)."""
        if (setup.request_type, setup.request) == (0xA1, _GET_LINE_CODING):
            return _LINE.pack(*self.line)
        raise Stall

    def control_out(self, setup: Setup, data: bytes) -> None:
        """SetLineCoding, SetControlLineState, SendBreak (PSTN 1.2, 6.3.10 to 6.3.13)."""
        if setup.request_type != 0x21:
            raise Stall
        if setup.request == _SET_LINE_CODING and len(data) == _LINE.size:
            self.line = Line(*_LINE.unpack(data))
        elif setup.request == _SET_CONTROL_LINE_STATE:
            self.open = bool(setup.value & 1)
        elif setup.request != _SEND_BREAK:
            raise Stall

    def data_in(self, endpoint: int, length: int) -> bytes | None:
        """What was sent to the guest; on the other endpoint once that there is a carrier (PSTN 1.2, 6.5.4)."""
        if endpoint == _NOTIFY:
            if self._state_told:
                return None
            self._state_told = True
            return struct.pack("<BBHHHH", 0xA1, _SERIAL_STATE, 0, 0, 2, _CARRIER | _READY)
        if not self._waiting:
            return None
        data = bytes(self._waiting[:length])
        del self._waiting[:length]
        self.on_room()
        return data

    def data_out(self, endpoint: int, data: bytes) -> bool:
        """What the guest sends."""
        return self.on_data(data)


def _drop(_data: bytes) -> bool:
    return True


def _nothing() -> None:
    """Nobody listens."""
