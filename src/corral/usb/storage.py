"""A storage stick: USB Mass Storage, bulk-only transport, one removable SCSI disk.

"Universal Serial Bus Mass Storage Class, Bulk-Only Transport", revision 1.0; class code from the Mass Storage Class
Specification Overview 1.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from corral.usb import scsi
from corral.usb.descriptors import Interface
from corral.usb.device import Device, Stall, bulk
from corral.usb.medium import Image, Medium
from corral.usb.packets import Speed
from corral.usb.transfer import Job, Setup

_MASS_STORAGE, _SCSI, _BULK_ONLY = 0x08, 0x06, 0x50
_IN, _OUT = 0x81, 0x02
_RESET, _GET_MAX_LUN = 0xFF, 0xFE
_COMMAND = struct.Struct("<4sIIBBB16s")
_STATUS = struct.Struct("<4sIIB")
_PASSED, _FAILED, _PHASE_ERROR = 0, 1, 2

CHUNK: Final = 1 << 20
"""Bytes of a command that are in memory at a time."""


class _Stage(Enum):
    COMMAND = auto()
    DATA_IN = auto()
    DATA_OUT = auto()
    STATUS = auto()
    BROKEN = auto()
    """An invalid command wrapper: both endpoints are halted until reset recovery (5.3.4)."""


class MassStorage(Device):
    """A stick whose blocks are in `medium`: a raw image's path, or anything that is a `Medium`.

    Data given is acknowledged when it is in the file; it is on stable storage after SYNCHRONIZE CACHE or FUA.
    """

    name: ClassVar[str] = "USB stick"

    def __init__(
        self, medium: Medium | Path, *, read_only: bool = False, speed: Speed = Speed.HIGH, serial: str = "000000000001"
    ) -> None:
        super().__init__(speed=speed, serial=serial)
        self.medium: Medium = Image(medium, read_only=read_only) if isinstance(medium, Path) else medium
        self.disk = scsi.Disk(
            self.medium.size // scsi.BLOCK,
            read_only=read_only or self.medium.read_only,
            name=self.name,
            serial=serial,
        )
        self.bytes_read = 0
        self.bytes_written = 0
        self._forget()

    def interfaces_offered(self, speed: Speed) -> tuple[Interface, ...]:
        """One interface: SCSI over bulk-only transport (4.3)."""
        return (Interface(0, _MASS_STORAGE, _SCSI, _BULK_ONLY, (bulk(_IN, speed), bulk(_OUT, speed))),)

    def close(self) -> None:
        """End all transfers and close the medium."""
        super().close()
        self._forget()
        self.medium.close()

    # -- class requests ---------------------------------------------------------------------------------------------

    def control_in(self, setup: Setup) -> bytes:
        """Get Max LUN (3.2): there is one."""
        if (setup.request_type, setup.request) == (0xA1, _GET_MAX_LUN):
            return b"\0"
        raise Stall

    def control_out(self, setup: Setup, data: bytes) -> None:
        """Bulk-Only Mass Storage Reset (3.1): ready for the next command; halts stay."""
        if (setup.request_type, setup.request) != (0x21, _RESET):
            raise Stall
        self._forget()

    def began(self) -> None:
        """Reset or configured."""
        self._forget()
        self.disk.reset()

    def unhalted(self, endpoint: int) -> bool:
        """After an invalid command wrapper a halt stays until the reset (5.3.4, 6.6.1)."""
        return self._stage is not _Stage.BROKEN

    def _forget(self) -> None:
        self._stage = _Stage.COMMAND
        self._tag = 0
        self._left = 0  # bytes of the data stage that the host still expects to move
        self._dropped = 0  # bytes of it that the host gave in vain
        self._result = _PASSED
        self._chunk: bytes | bytearray | memoryview = b""  # data for the host
        self._more: list[tuple[int, int]] = []  # extents of the medium that follow it: offset, length
        self._given: list[bytes] = []  # data from the host that is not in the medium yet
        self._given_size = 0
        self._write: scsi.Write | None = None
        self._busy = 0
        self._generation = getattr(self, "_generation", 0) + 1

    # -- from the host ----------------------------------------------------------------------------------------------

    def data_out(self, endpoint: int, data: bytes) -> bool:
        """A command wrapper, or data of the command."""
        if self._stage is _Stage.DATA_OUT:
            return self._take(data)
        if self._stage is _Stage.STATUS or self._stage is _Stage.DATA_IN:
            if self._busy:
                return False
            # The host has given up the last command without its status, and begins anew.
            self._forget()
        elif self._stage is _Stage.BROKEN:
            raise Stall
        self._command(data)
        return True

    def _command(self, wrapper: bytes) -> None:
        """A command block wrapper (5.1), valid and meaningful (6.2) or else the transport is broken."""
        if len(wrapper) != _COMMAND.size or wrapper[:4] != b"USBC":
            self._break()
        _, tag, expected, flags, lun, length, block = _COMMAND.unpack(wrapper)
        if flags & 0x7F or lun or not 1 <= length <= 16:
            self._break()
        self._tag, self._left, self._dropped, self._result = tag, expected, 0, _PASSED
        inwards = bool(flags & 0x80)
        self._stage = _Stage.STATUS if not expected else _Stage.DATA_IN if inwards else _Stage.DATA_OUT
        try:
            action = self.disk.execute(block[:length])
        except scsi.Failure:
            self._result = _FAILED
        else:
            self._perform(action, inwards)
        self.ready(_IN)

    def _break(self) -> None:
        self._stage = _Stage.BROKEN
        self.halt(_IN)
        raise Stall

    def _perform(self, action: scsi.Action, inwards: bool) -> None:
        """Match what the disk does with what the host expects: the thirteen cases (6.7)."""
        if isinstance(action, scsi.Flush):
            self._work(self.medium.flush, self._flushed)
            return
        if isinstance(action, scsi.Reply):
            if len(action.data) > self._left or (action.data and not inwards):
                self._fail_phase()  # cases 2, 7 and 10
            else:
                self._chunk = action.data
            return
        if action.length > self._left or (action.length and inwards is isinstance(action, scsi.Write)):
            self._fail_phase()
        elif isinstance(action, scsi.Read):
            self._more = [
                (at, min(CHUNK, action.offset + action.length - at))
                for at in range(action.offset, action.offset + action.length, CHUNK)
            ]
            self._fetch()
        elif action.length:
            self._write = action

    def _fail_phase(self) -> None:
        """Host and device disagree about the data: none moves, and the host resets the transport."""
        self._result = _PHASE_ERROR

    def _take(self, data: bytes) -> bool:
        """Data of a write; what is too much at a time waits, what nobody wants is dropped."""
        if self._busy:
            return False
        size = len(data)
        if size > self._left:
            self._fail_phase()
            size = self._left
        self._left -= size
        write = self._write
        # The host may give more than the command writes (case 11), or data that a failed command does not want.
        useful = min(size, write.length - self._given_size) if write is not None else 0
        self._dropped += size - useful
        if write is not None:
            self._given.append(data[:useful] if useful < len(data) else data)
            self._given_size += useful
            if self._given_size == write.length or self._given_size >= CHUNK:
                self._store(write)
        if not self._left:
            self._stage = _Stage.STATUS
            self.ready(_IN)
        return True

    def _store(self, write: scsi.Write) -> None:
        """Put what the host gave into the medium."""
        offset, size, chunks = write.offset, self._given_size, self._given
        write.offset += size
        write.length -= size
        self._given, self._given_size = [], 0
        self.bytes_written += size
        if not write.length:
            self._write = None
        through = write.through and not write.length
        self._work(partial(self._put, offset, chunks, through), self._stored)

    def _put(self, offset: int, chunks: list[bytes], through: bool) -> None:
        self.medium.write(offset, chunks)
        if through:
            self.medium.flush()

    # -- to the host ------------------------------------------------------------------------------------------------

    def data_in(self, endpoint: int, length: int) -> bytes | memoryview | None:
        """Data of the command, or its status."""
        if self._stage is _Stage.STATUS and not self._busy:
            self._stage = _Stage.COMMAND
            status = _STATUS.pack(b"USBS", self._tag, self._left + self._dropped, self._result)
            self.ready(_OUT)
            return status
        if self._stage is not _Stage.DATA_IN or self._busy:
            return None
        length = min(length, self._left)
        if len(self._chunk) < length and self._more:
            return self._gather(length)
        data = memoryview(self._chunk)[:length]
        self._chunk = memoryview(self._chunk)[len(data) :]
        self._sent(len(data), short=len(data) < length or not data)
        return data

    def _gather(self, length: int) -> bytes | None:
        """A request for more than is in memory: fetch the next part and join the two."""
        rest = self._chunk
        self._chunk = b""
        self._fetch(bytes(rest))
        return None if self._busy else bytes(self.data_in(_IN, length) or b"")

    def _sent(self, size: int, short: bool) -> None:
        """Data went out; with less than was asked for, or nothing left, the status follows (cases 4, 5 and 6)."""
        self._left -= size
        self.bytes_read += size
        if short or not self._left:
            self._stage = _Stage.STATUS
        elif not len(self._chunk) and self._more:
            self._fetch()

    def _fetch(self, before: bytes = b"") -> None:
        """Have the next extent in memory, at once if the kernel has it."""
        if not self._more:
            return
        offset, length = self._more.pop(0)
        data = self.medium.read_now(offset, length)
        if data is not None:
            self._chunk = before + data if before else data
        else:
            self._work(partial(self.medium.read, offset, length), partial(self._fetched, before))

    # -- blocking work ----------------------------------------------------------------------------------------------

    def _work(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._busy += 1
        self.block(Job(run, partial(self._worked, self._generation, done)))

    def _worked(self, generation: int, done: Callable[[Any], None], result: Any) -> None:
        if generation != self._generation:
            return  # the command is forgotten
        self._busy -= 1
        done(result)
        self.ready(_OUT, _IN)

    def _fetched(self, before: bytes, result: bytes | bytearray | OSError) -> None:
        if isinstance(result, OSError):
            self._fail(scsi.MEDIUM_READ_ERROR)
        else:
            self._chunk = before + result if before else result

    def _stored(self, result: OSError | None) -> None:
        if isinstance(result, OSError):
            self._fail(scsi.MEDIUM_WRITE_ERROR)

    def _flushed(self, result: OSError | None) -> None:
        if isinstance(result, OSError):
            self._fail(scsi.MEDIUM_WRITE_ERROR)

    def _fail(self, sense: scsi.Sense) -> None:
        """An access failed: no more of this command's data moves, and the status says so."""
        self.disk.failed(sense)
        self._result = _FAILED
        self._chunk, self._more, self._write, self._given = b"", [], None, []
        self._given_size = 0
