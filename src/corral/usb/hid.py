"""A keyboard and a tablet: Human Interface Devices written in Python.

"Device Class Definition for Human Interface Devices (HID)", version 1.11; usages from the HID Usage Tables 1.12.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import ClassVar, Final

from corral.errors import InvalidArgument, OperationInvalid
from corral.usb.descriptors import Interface
from corral.usb.device import Device, Stall, interrupt
from corral.usb.keys import strokes
from corral.usb.packets import Speed
from corral.usb.transfer import Setup

_HID = 0x03
_IN = 0x81
_GET_REPORT, _GET_IDLE, _GET_PROTOCOL, _SET_REPORT, _SET_IDLE, _SET_PROTOCOL = 1, 2, 3, 9, 10, 11
"""bRequest (HID 1.11, 7.2)."""
_GET_DESCRIPTOR = 6
_DESCRIPTOR_HID, _DESCRIPTOR_REPORT = 0x21, 0x22
_INTERVAL = 10
"""Milliseconds between two reports."""
_MAX_QUEUED = 65536

LARGEST: Final = 0x7FFF
"""The tablet's coordinates go from 0 to this, whatever the screen's size."""

_KEYBOARD_REPORTS = bytes.fromhex(
    "05010906a101"  # usage page generic desktop, usage keyboard, collection application
    "050719e029e715002501750195088102"  # eight modifier keys, one bit each
    "950175088101"  # a reserved byte
    "950575010508190129059102"  # five lamps out
    "950175039101"  # and three bits of padding
    "95067508150025650507190029658100"  # six keys that are down
    "c0"
)
_TABLET_REPORTS = bytes.fromhex(
    "05010902a1010901a100"  # usage mouse: a pointer
    "05091901290515002501950575018102"  # five buttons
    "950175038101"  # padding
    "050109300931150026ff7f350046ff7f751095028102"  # X and Y, absolute
    "09381581257f35004500750895018106"  # the wheel, relative
    "c0c0"
)
_POINTER = struct.Struct("<BHHb")


class _Reporter(Device):
    """A device of reports over one interrupt endpoint: each goes out once, in order, and then the host waits."""

    protocol: ClassVar[int] = 0
    boot: ClassVar[int] = 0
    reports: ClassVar[bytes] = b""
    report_size: ClassVar[int] = 8

    def __init__(self, *, speed: Speed = Speed.FULL, serial: str = "000000000001") -> None:
        super().__init__(speed=speed, serial=serial)
        self._queue: deque[bytes] = deque()
        self._last = bytes(self.report_size)
        self._idle = 0
        self._boot_protocol = 1
        self.polled = False
        """Whether the host has asked for reports since it configured the device."""
        self.interrupted = 0
        """How often the host has stopped asking for reports: some that it had fetched may be lost then."""
        self.noticed: Callable[[], None] = unnoticed
        """Called when the host has asked for a report, or sent one."""

    def interfaces_offered(self, speed: Speed) -> tuple[Interface, ...]:
        """One interface with its HID descriptor (6.2.1)."""
        endpoint = interrupt(_IN, self.report_size, _INTERVAL, speed)
        return (Interface(0, _HID, self.boot, self.protocol, (endpoint,), extra=self._hid_descriptor()),)

    def _hid_descriptor(self) -> bytes:
        return struct.pack("<BBHBBBH", 9, _DESCRIPTOR_HID, 0x0111, 0, 1, _DESCRIPTOR_REPORT, len(self.reports))

    def control_in(self, setup: Setup) -> bytes:
        """Class descriptors and what can be asked of the device (7.1, 7.2)."""
        if (setup.request_type, setup.request) == (0x81, _GET_DESCRIPTOR):
            kind = setup.value >> 8
            if kind == _DESCRIPTOR_REPORT:
                return self.reports
            if kind == _DESCRIPTOR_HID:
                return self._hid_descriptor()
        elif setup.request_type == 0xA1:
            if setup.request == _GET_REPORT:
                return self._last
            if setup.request == _GET_IDLE:
                return bytes((self._idle,))
            if setup.request == _GET_PROTOCOL and self.boot:
                return bytes((self._boot_protocol,))
        raise Stall

    def control_out(self, setup: Setup, data: bytes) -> None:
        """Lamps, the idle rate, the boot protocol (7.2)."""
        if setup.request_type != 0x21:
            raise Stall
        if setup.request == _SET_REPORT and data:
            self.told(data)
            self.noticed()
        elif setup.request == _SET_IDLE:
            self._idle = setup.value >> 8
        elif setup.request == _SET_PROTOCOL and self.boot:
            self._boot_protocol = setup.value & 1
        else:
            raise Stall

    def told(self, report: bytes) -> None:
        """The host has sent a report."""

    def began(self) -> None:
        """Reset or configured: reports for the old state are void."""
        self._queue.clear()
        self.polled = False

    def data_in(self, endpoint: int, length: int) -> bytes | None:
        """The next report."""
        self.polled = True
        if self._queue:
            self._last = self._queue.popleft()
            data: bytes | None = self._last
        else:
            data = None
        self.noticed()
        return data

    def unpolled(self, endpoint: int) -> None:
        """The host asks no longer."""
        self.interrupted += 1

    @property
    def waiting(self) -> int:
        """Reports that the host has not fetched yet."""
        return len(self._queue)

    def _report(self, reports: Iterable[bytes]) -> None:
        new = list(reports)
        if len(self._queue) + len(new) > _MAX_QUEUED:
            raise OperationInvalid(f"the guest has not fetched {len(self._queue)} reports of the {self.name}")
        self._queue += new
        self.ready(_IN)


class Keyboard(_Reporter):
    """A US keyboard with the boot protocol."""

    name: ClassVar[str] = "USB keyboard"
    protocol: ClassVar[int] = 1
    boot: ClassVar[int] = 1
    reports: ClassVar[bytes] = _KEYBOARD_REPORTS

    lamps = 0
    """Num lock 1, caps lock 2, scroll lock 4, as the guest last said."""

    def told(self, report: bytes) -> None:
        """The lamps."""
        self.lamps = report[0]

    def type(self, text: str) -> None:
        """Type characters, each pressed and let go; a line's end is Enter. InvalidArgument for one without a key."""
        reports: list[bytes] = []
        for modifier, usage in strokes(text):
            reports += (_keys(modifier, usage), _keys(0))
        self._report(reports)

    def press(self, modifiers: int, *usages: int) -> None:
        """Have these keys down, and no others: a modifier byte (8.3) and up to six usages."""
        if len(usages) > 6 or not all(0 <= usage <= 0x65 for usage in usages) or not 0 <= modifiers <= 0xFF:
            raise InvalidArgument("a keyboard report has up to six usages from 0 to 0x65, and modifiers to 0xff")
        self._report([_keys(modifiers, *usages)])

    def release(self) -> None:
        """Let all keys go."""
        self.press(0)


class Tablet(_Reporter):
    """A pointer with absolute coordinates, five buttons and a wheel."""

    name: ClassVar[str] = "USB tablet"
    reports: ClassVar[bytes] = _TABLET_REPORTS
    report_size: ClassVar[int] = _POINTER.size

    def move(self, x: int, y: int, *, buttons: int = 0, wheel: int = 0) -> None:
        """Point at x and y (0 to 0x7fff), with these buttons down (left 1, right 2, middle 4), the wheel turned."""
        if not (0 <= x <= LARGEST and 0 <= y <= LARGEST and 0 <= buttons <= 0x1F and -127 <= wheel <= 127):
            raise InvalidArgument("a tablet's x and y go from 0 to 0x7fff, its wheel from -127 to 127")
        self._report([_POINTER.pack(buttons, x, y, wheel)])


def unnoticed() -> None:
    """Nobody waits for what the host does."""


def _keys(modifiers: int, *usages: int) -> bytes:
    return bytes((modifiers, 0, *usages)).ljust(8, b"\0")
