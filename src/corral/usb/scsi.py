"""A SCSI disk without I/O: a command in, what to do out.

SPC-4 (INQUIRY, MODE SENSE, REQUEST SENSE, REPORT LUNS), SBC-3 (what is about blocks), MMC-5 (READ FORMAT CAPACITIES).
A command becomes bytes for the guest, or an access to blocks, or a failure with its sense data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 512
"""Bytes in a logical block."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Why a command failed: sense key, additional sense code and its qualifier (SPC-4, 4.5)."""

    key: int
    code: int
    qualifier: int = 0

    def pack(self) -> bytes:
        """Fixed-format sense data of 18 bytes (SPC-4, 4.5.3)."""
        return bytes((0x70, 0, self.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, self.code, self.qualifier, 0, 0, 0, 0))


NO_SENSE: Final = Sense(0, 0)
NOT_READY_NO_MEDIUM: Final = Sense(2, 0x3A)
MEDIUM_WRITE_ERROR: Final = Sense(3, 0x0C)
MEDIUM_READ_ERROR: Final = Sense(3, 0x11)
INVALID_COMMAND: Final = Sense(5, 0x20)
OUT_OF_RANGE: Final = Sense(5, 0x21)
INVALID_FIELD: Final = Sense(5, 0x24)
REMOVAL_PREVENTED: Final = Sense(5, 0x53, 2)
WRITE_PROTECTED: Final = Sense(7, 0x27)


@dataclass(slots=True)
class Reply:
    """Bytes for the guest; none for a command that only succeeds."""

    data: bytes = b""


@dataclass(slots=True)
class Read:
    """Bytes [offset, offset + length) of the medium for the guest."""

    offset: int
    length: int


@dataclass(slots=True)
class Write:
    """Bytes [offset, offset + length) of the medium from the guest; `through` when they must be on the medium."""

    offset: int
    length: int
    through: bool


@dataclass(slots=True)
class Flush:
    """Everything written must be on the medium."""


class Failure(Exception):
    """The command failed: CHECK CONDITION with its sense data."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense)
        self.sense = sense


Action = Reply | Read | Write | Flush

_VENDOR = b"Corral  "
_STANDARD_PAGES = (0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2)
_CACHING, _EXCEPTIONS = 0x08, 0x1C
_MAX_ALLOCATION = 0xFFFF


class Disk:
    """A removable disk of `blocks` blocks of 512 bytes.

    `name` (16 characters) and `serial` are what the guest sees; `ejected` is true once it has ejected the medium.
    """

    def __init__(self, blocks: int, *, read_only: bool, name: str, serial: str) -> None:
        self.blocks = blocks
        self.read_only = read_only
        self.ejected = False
        self.sense = NO_SENSE
        self._locked = False
        self._name = name.encode("ascii", "replace")[:16].ljust(16)
        self._serial = serial.encode("ascii", "replace")[:32]

    def execute(self, command: bytes) -> Action:
        """What a command (6 to 16 bytes) asks for. Raises Failure, whose sense is kept for REQUEST SENSE."""
        handler = _COMMANDS.get(command[0])
        try:
            if handler is None:
                raise Failure(INVALID_COMMAND)
            action = handler(self, command.ljust(16, b"\0"))
        except Failure as failure:
            self.sense = failure.sense
            raise
        if command[0] != _REQUEST_SENSE:
            self.sense = NO_SENSE
        return action

    def failed(self, sense: Sense) -> None:
        """An access to the medium did not work."""
        self.sense = sense

    def reset(self) -> None:
        """The bus was reset: the medium may be removed."""
        self._locked = False
        self.sense = NO_SENSE

    def _need_medium(self) -> None:
        if self.ejected:
            raise Failure(NOT_READY_NO_MEDIUM)

    # -- who it is ----------------------------------------------------------------------------------------------------

    def _test_unit_ready(self, _command: bytes) -> Action:
        self._need_medium()
        return Reply()

    def _request_sense(self, command: bytes) -> Action:
        sense, self.sense = self.sense, NO_SENSE
        return Reply(sense.pack()[: command[4]])

    def _inquiry(self, command: bytes) -> Action:
        (length,) = struct.unpack_from(">H", command, 3)
        if command[1] & 1:
            return Reply(self._product_data(command[2])[:length])
        if command[2]:
            raise Failure(INVALID_FIELD)
        # A direct-access block device, removable, SPC-4, with 31 more bytes (SPC-4, 6.4.2).
        return Reply((bytes((0x00, 0x80, 0x06, 0x02, 31, 0, 0, 0)) + _VENDOR + self._name + b"1.0 ")[:length])

    def _product_data(self, page: int) -> bytes:
        """A page of vital product data (SPC-4, 7.8; SBC-3, 6.5)."""
        if page == 0x00:
            body = bytes(_STANDARD_PAGES)
        elif page == 0x80:
            body = self._serial
        elif page == 0x83:
            identity = _VENDOR + self._name + self._serial
            body = bytes((0x02, 0x01, 0, len(identity))) + identity  # a T10 vendor identification in ASCII
        elif page == 0xB0:
            # Block limits: no more than 65535 blocks at once, 8 MiB best.
            body = struct.pack(">BBHII", 0, 0, 8, 0xFFFF, 0x4000).ljust(60, b"\0")
        elif page == 0xB1:
            body = struct.pack(">H", 1).ljust(60, b"\0")  # not a rotating medium
        elif page == 0xB2:
            body = bytes(4)  # no thin provisioning: UNMAP is not supported
        else:
            raise Failure(INVALID_FIELD)
        return struct.pack(">BBH", 0, page, len(body)) + body

    def _report_luns(self, command: bytes) -> Action:
        (length,) = struct.unpack_from(">I", command, 6)
        return Reply(struct.pack(">II8x", 8, 0)[: min(length, _MAX_ALLOCATION)])

    # -- modes ------------------------------------------------------------------------------------------------------

    def _mode_sense_6(self, command: bytes) -> Action:
        pages = self._mode_pages(command)
        head = bytes((3 + len(pages), 0, self._device_specific(), 0))
        return Reply((head + pages)[: command[4]])

    def _mode_sense_10(self, command: bytes) -> Action:
        pages = self._mode_pages(command)
        (length,) = struct.unpack_from(">H", command, 7)
        return Reply((struct.pack(">HBBHH", 6 + len(pages), 0, self._device_specific(), 0, 0) + pages)[:length])

    def _device_specific(self) -> int:
        """Write protection, and that FUA is understood (SBC-3, 6.4.1)."""
        return (0x80 if self.read_only else 0) | 0x10

    def _mode_pages(self, command: bytes) -> bytes:
        wanted, control = command[2] & 0x3F, command[2] >> 6
        if control == 3:
            raise Failure(Sense(5, 0x39))  # there are no saved values
        # A write cache that can be flushed; nothing can be changed.
        caching = bytes((_CACHING, 18, 0x04 if control != 1 else 0)).ljust(20, b"\0")
        exceptions = bytes((_EXCEPTIONS, 10)).ljust(12, b"\0")
        pages = {_CACHING: caching, _EXCEPTIONS: exceptions}
        if wanted == 0x3F:
            return caching + exceptions
        if wanted not in pages:
            raise Failure(INVALID_FIELD)
        return pages[wanted]

    # -- the medium -------------------------------------------------------------------------------------------------

    def _start_stop(self, command: bytes) -> Action:
        start, load = command[4] & 1, command[4] & 2
        if load and not start:
            if self._locked:
                raise Failure(REMOVAL_PREVENTED)
            self.ejected = True
            return Flush()
        if load:
            self.ejected = False
        return Reply() if start else Flush()

    def _prevent_removal(self, command: bytes) -> Action:
        self._locked = bool(command[4] & 1)
        return Reply()

    def _read_capacity_10(self, _command: bytes) -> Action:
        self._need_medium()
        return Reply(struct.pack(">II", min(self.blocks - 1, 0xFFFFFFFF), BLOCK))

    def _service_action_in_16(self, command: bytes) -> Action:
        if command[1] & 0x1F != 0x10:  # READ CAPACITY (16)
            raise Failure(INVALID_FIELD)
        self._need_medium()
        (length,) = struct.unpack_from(">I", command, 10)
        return Reply(struct.pack(">QI20x", self.blocks - 1, BLOCK)[: min(length, 32)])

    def _read_format_capacities(self, command: bytes) -> Action:
        """MMC-5, 6.24: one descriptor, of the formatted medium or of none."""
        (length,) = struct.unpack_from(">H", command, 7)
        kind = 0x03 if self.ejected else 0x02
        return Reply(struct.pack(">IIBBH", 8, min(self.blocks, 0xFFFFFFFF), kind, 0, BLOCK)[:length])

    def _range(self, block: int, count: int) -> tuple[int, int]:
        self._need_medium()
        if block + count > self.blocks:
            raise Failure(OUT_OF_RANGE)
        return block * BLOCK, count * BLOCK

    def _read(self, command: bytes) -> Action:
        return Read(*self._range(*_extent(command)))

    def _write(self, command: bytes) -> Action:
        offset, length = self._range(*_extent(command))
        if self.read_only:
            raise Failure(WRITE_PROTECTED)
        return Write(offset, length, through=command[0] != 0x0A and bool(command[1] & 0x08))

    def _verify(self, command: bytes) -> Action:
        """VERIFY that the medium can be read; it is not compared with data of the guest's (BYTCHK)."""
        if command[1] & 0x06:
            raise Failure(INVALID_FIELD)
        self._range(*_extent(command))
        return Reply()

    def _synchronize(self, command: bytes) -> Action:
        self._range(*_extent(command))
        return Flush()

    def _send_diagnostic(self, command: bytes) -> Action:
        """The default self-test succeeds; there is no other."""
        if command[1] & 0xFB or command[3] or command[4]:
            raise Failure(INVALID_FIELD)
        return Reply()


_EXTENTS = {
    0x20: struct.Struct(">xxIxH"),
    0x40: struct.Struct(">xxIxH"),
    0x80: struct.Struct(">xxQI"),
    0xA0: struct.Struct(">xxII"),
}
"""Where block address and count are, by the group of the operation code (SPC-4, 4.3)."""


def _extent(command: bytes) -> tuple[int, int]:
    """Block address and number of blocks of a command."""
    group = command[0] & 0xE0
    if group == 0x00:
        # Six bytes: 21 bits of address, and no blocks means 256 (SBC-3, 5.7).
        return int.from_bytes(command[1:4], "big") & 0x1FFFFF, command[4] or 256
    block, count = _EXTENTS[group].unpack_from(command)
    return block, count


_REQUEST_SENSE = 0x03
_COMMANDS: dict[int, Callable[[Disk, bytes], Action]] = {
    0x00: Disk._test_unit_ready,
    _REQUEST_SENSE: Disk._request_sense,
    0x08: Disk._read,
    0x0A: Disk._write,
    0x12: Disk._inquiry,
    0x1A: Disk._mode_sense_6,
    0x1B: Disk._start_stop,
    0x1D: Disk._send_diagnostic,
    0x1E: Disk._prevent_removal,
    0x23: Disk._read_format_capacities,
    0x25: Disk._read_capacity_10,
    0x28: Disk._read,
    0x2A: Disk._write,
    0x2F: Disk._verify,
    0x35: Disk._synchronize,
    0x5A: Disk._mode_sense_10,
    0x88: Disk._read,
    0x8A: Disk._write,
    0x8F: Disk._verify,
    0x91: Disk._synchronize,
    0x9E: Disk._service_action_in_16,
    0xA0: Disk._report_luns,
    0xA8: Disk._read,
    0xAA: Disk._write,
    0xAF: Disk._verify,
}
"""Operation codes; what is not here (UNMAP, WRITE SAME, MODE SELECT…) is refused as INVALID COMMAND OPERATION CODE."""
