"""Whoever carries a redirection between two others looks that both keep to the protocol: a pure check of the bytes.

The daemon stands between a client's device and QEMU. What is malformed, unknown, too long or out of order must end that
one redirection before the other side has to cope with it.

    inspection.pass_on("host", data)       # bytes that the host's side sent: raises Refused, or they may go on
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from corral.errors import InvalidArgument, OperationFailed
from corral.usb.connection import Connection, Lost
from corral.usb.layouts import layouts
from corral.usb.packets import NO_CAPABILITIES, DeviceDisconnectAck, Hello, Packet

if TYPE_CHECKING:
    from typing import Final

    from corral.usb.packets import Side

_HEADER = struct.Struct("<III")
_HELLO = layouts(NO_CAPABILITIES)[Hello.kind]
_MAX_HELLO: Final = _HELLO.size + 64


class Refused(OperationFailed):
    """One of the two broke the protocol; the text says which and how."""


class _Follower(Connection):
    """One side as the other sees it: it follows what is said, and says nothing itself."""

    def _put(self, packet: Packet) -> None:
        """The two speak for themselves."""


class Inspection:
    """Follows both directions of one redirection, from the hellos on."""

    def __init__(self) -> None:
        self._hellos: dict[Side, bytes] = {"host": b"", "guest": b""}
        self._followers: dict[Side, _Follower] = {}
        """By the side whose bytes it reads: it is in the place of the other."""

    def pass_on(self, side: Side, data: bytes) -> None:
        """Look at bytes that `side` sent; Refused when they end the redirection."""
        try:
            if not self._followers:
                data = self._greet(side, data)
            if data:
                self._follow(side, data)
        except InvalidArgument as error:
            raise Refused(f"USB redirection: {_who(side)}: {error.detail}") from error

    def _greet(self, side: Side, data: bytes) -> bytes:
        """Collect the two hellos; what is left once both are there."""
        hello = self._hellos[side] + data
        size = _HEADER.size
        if len(hello) >= size:
            kind, length, _ = _HEADER.unpack_from(hello)
            if kind != Hello.kind or not _HELLO.size <= length <= _MAX_HELLO:
                raise InvalidArgument(f"a packet of type {kind} and {length} bytes before the hello")
            size += length
        self._hellos[side], rest = hello[:size], hello[size:]
        if all(map(_complete, self._hellos.values())):
            self._begin()
        elif rest:
            raise InvalidArgument("more than a hello before the other side's")
        return rest

    def _begin(self) -> None:
        said: dict[Side, Hello] = {}
        for side, data in self._hellos.items():
            try:
                packet = _HELLO.decode(memoryview(data)[_HEADER.size :], 0)
            except (ValueError, struct.error) as error:
                raise InvalidArgument(f"malformed Hello: {error}") from error
            assert isinstance(packet, Hello)
            said[side] = packet
        # Who reads the host's bytes is in the guest's place and can do what the guest says that it can.
        self._followers = {
            "host": _Follower("guest", capabilities=said["guest"].capabilities),
            "guest": _Follower("host", capabilities=said["host"].capabilities),
        }
        for side, data in self._hellos.items():
            self._follow(side, data)
        self._hellos.clear()

    def _follow(self, side: Side, data: bytes) -> None:
        other = self._followers["guest" if side == "host" else "host"]
        for packet in self._followers[side].receive_data(data):
            if isinstance(packet, Lost):
                raise InvalidArgument(packet.reason)
            # A hello is known already, and the acknowledgement was expected from the moment the device left.
            if not isinstance(packet, Hello | DeviceDisconnectAck):
                other.send(packet)


def _complete(hello: bytes) -> bool:
    return len(hello) >= _HEADER.size and len(hello) == _HEADER.size + _HEADER.unpack_from(hello)[1]


def _who(side: Side) -> str:
    return "the device's side" if side == "host" else "the guest's side"
