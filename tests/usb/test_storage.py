"""The stick: what guests send over bulk-only transport, what goes wrong, and what reaches the file."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.usb.desk import Host

from corral.errors import HostError, InvalidArgument
from corral.usb import Image, MassStorage, Speed, Status
from corral.usb.storage import CHUNK

BLOCKS = 8192


class Memory:
    """A medium in memory; `slow` never answers at once, `broken` not at all."""

    def __init__(self, blocks: int = BLOCKS, *, read_only: bool = False) -> None:
        self.data = bytearray(os.urandom(512) * blocks)
        self.size = len(self.data)
        self.read_only = read_only
        self.slow = False
        self.broken = False
        self.flushed = 0

    def read(self, offset: int, length: int) -> bytes:
        if self.broken:
            raise OSError(5, "broken")
        return bytes(self.data[offset : offset + length])

    def read_now(self, offset: int, length: int) -> bytes | None:
        return None if self.slow or self.broken else self.read(offset, length)

    def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        if self.broken:
            raise OSError(5, "broken")
        for chunk in chunks:
            self.data[offset : offset + len(chunk)] = chunk
            offset += len(chunk)

    def flush(self) -> None:
        if self.broken:
            raise OSError(5, "broken")
        self.flushed += 1

    def close(self) -> None:
        self.data = bytearray()


@pytest.fixture
def medium() -> Memory:
    return Memory()


@pytest.fixture
def host(medium: Memory) -> Host:
    return Host(MassStorage(medium, serial="S1"))


def rw(code: int, block: int, blocks: int) -> bytes:
    form = {0x28: ">BxIxHx", 0x2A: ">BxIxHx", 0xA8: ">BxIIxx", 0xAA: ">BxIIxx", 0x88: ">BxQIxx", 0x8A: ">BxQIxx"}[code]
    return struct.pack(form, code, block, blocks)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("code", [0x28, 0xA8, 0x88])
def test_reads(host: Host, medium: Memory, code: int, slow: bool) -> None:
    medium.slow = slow
    result, data, residue = host.scsi(rw(code, 5, 300), 300 * 512)
    assert (result, residue) == (0, 0)
    assert data == medium.data[5 * 512 : 305 * 512]


@pytest.mark.parametrize("code", [0x2A, 0xAA, 0x8A])
def test_writes(host: Host, medium: Memory, code: int) -> None:
    data = os.urandom(240 * 512)
    assert host.scsi(rw(code, 7, 240), data) == (0, b"", 0)
    assert medium.data[7 * 512 : 247 * 512] == data


@pytest.mark.parametrize("slow", [False, True])
def test_long_transfers_go_in_parts(host: Host, medium: Memory, slow: bool) -> None:
    medium.slow = slow
    size = 3 * CHUNK + 512 * 3
    data = os.urandom(size)
    assert host.scsi(rw(0xAA, 1, size // 512), data, piece=65536) == (0, b"", 0)
    assert host.scsi(rw(0xA8, 1, size // 512), size, piece=100 * 1024) == (0, data, 0)


def test_six_byte_commands(host: Host, medium: Memory) -> None:
    assert host.scsi(bytes((0x08, 0, 0, 9, 1, 0)), 512)[1] == medium.data[9 * 512 : 10 * 512]
    assert len(host.scsi(bytes((0x08, 0, 0, 0, 0, 0)), 256 * 512)[1]) == 256 * 512
    host.scsi(bytes((0x0A, 0, 0, 2, 1, 0)), b"\7" * 512)
    assert medium.data[1024:1536] == b"\7" * 512


def test_says_what_it_is(host: Host) -> None:
    result, data, residue = host.scsi(bytes((0x12, 0, 0, 0, 36, 0)), 36)
    assert (result, residue, data[0], data[1] & 0x80) == (0, 0, 0, 0x80)
    assert data[8:32] == b"Corral  USB stick       "
    assert host.scsi(bytes((0x12, 1, 0, 0, 255, 0)), 255)[1] == bytes((0, 0, 0, 6, 0, 0x80, 0x83, 0xB0, 0xB1, 0xB2))
    assert host.scsi(bytes((0x12, 1, 0x80, 0, 255, 0)), 255)[1][4:] == b"S1"
    for page in (0x83, 0xB0, 0xB1, 0xB2):
        data = host.scsi(bytes((0x12, 1, page, 0, 255, 0)), 255)[1]
        assert data[1] == page and len(data) == 4 + int.from_bytes(data[2:4], "big")
    assert host.scsi(bytes((0x12, 1, 0xC0, 0, 255, 0)), 255)[0] == 1
    assert host.sense() == (5, 0x24, 0)
    assert host.scsi(struct.pack(">BxxxxxIxx", 0xA0, 64), 64)[1] == struct.pack(">IIQ", 8, 0, 0)


def test_capacity(host: Host) -> None:
    assert host.scsi(bytes((0x25,)).ljust(10, b"\0"), 8)[1] == struct.pack(">II", BLOCKS - 1, 512)
    data = host.scsi(struct.pack(">BBQIxx", 0x9E, 0x10, 0, 32), 32)[1]
    assert data[:12] == struct.pack(">QI", BLOCKS - 1, 512) and len(data) == 32
    assert host.scsi(struct.pack(">BxxxxxxHx", 0x23, 252), 252)[1] == struct.pack(">IIBBH", 8, BLOCKS, 2, 0, 512)


@pytest.mark.parametrize("read_only", [False, True])
def test_modes(read_only: bool) -> None:
    host = Host(MassStorage(Memory(read_only=read_only)))
    six = host.scsi(bytes((0x1A, 0, 0x3F, 0, 192, 0)), 192)[1]
    assert six[0] == len(six) - 1 and bool(six[2] & 0x80) is read_only
    ten = host.scsi(struct.pack(">BBBxxxxHx", 0x5A, 0, 0x08, 255), 255)[1]
    assert int.from_bytes(ten[:2], "big") == len(ten) - 2 and ten[8] == 8 and ten[10] & 0x04  # a write cache
    assert host.scsi(bytes((0x1A, 0, 0x01, 0, 192, 0)), 192)[0] == 1


@pytest.mark.parametrize(
    "command",
    [
        bytes(6),
        bytes((0x1E, 0, 0, 0, 1, 0)),
        bytes((0x1B, 0, 0, 0, 1, 0)),
        bytes((0x2F,)).ljust(10, b"\0"),
        bytes((0x35,)).ljust(10, b"\0"),
        bytes((0x91,)).ljust(16, b"\0"),
        bytes((0x1D, 4, 0, 0, 0, 0)),
    ],
)
def test_commands_without_data(host: Host, command: bytes) -> None:
    assert host.scsi(command) == (0, b"", 0)


def test_synchronize_and_forced_writes_reach_stable_storage(host: Host, medium: Memory) -> None:
    host.scsi(rw(0x2A, 0, 1), bytes(512))
    assert medium.flushed == 0
    host.scsi(bytes((0x35,)).ljust(10, b"\0"))
    assert medium.flushed == 1
    host.scsi(bytes((0x2A, 0x08)) + rw(0x2A, 0, 1)[2:], bytes(512))
    assert medium.flushed == 2


@pytest.mark.parametrize(
    ("command", "what", "sense"),
    [
        (bytes((0x42,)).ljust(10, b"\0"), b"x" * 24, (5, 0x20, 0)),  # UNMAP
        (bytes((0xFE,)).ljust(6, b"\0"), 0, (5, 0x20, 0)),
        (rw(0x28, BLOCKS, 1), 512, (5, 0x21, 0)),
        (rw(0x28, 0xFFFFFFFF, 0xFFFF), 512, (5, 0x21, 0)),
        (rw(0x2A, BLOCKS - 1, 2), bytes(1024), (5, 0x21, 0)),
        (rw(0x88, 2**64 - 1, 2**32 - 1), 512, (5, 0x21, 0)),
        (struct.pack(">BBIxHx", 0x2F, 2, 0, 1), bytes(512), (5, 0x24, 0)),
    ],
)
def test_refused_with_sense(host: Host, medium: Memory, command: bytes, what: int | bytes, sense: Any) -> None:
    before = bytes(medium.data)
    result, data, residue = host.scsi(command, what)
    assert (result, data) == (1, b"")
    assert residue == (what if isinstance(what, int) else len(what))
    assert host.sense() == sense
    assert host.sense() == (0, 0, 0)
    assert medium.data == before


def test_write_protected() -> None:
    medium = Memory(read_only=True)
    host = Host(MassStorage(medium))
    before = bytes(medium.data)
    assert host.scsi(rw(0x2A, 0, 1), bytes(512))[0] == 1
    assert host.sense() == (7, 0x27, 0)
    assert medium.data == before


def test_broken_medium(host: Host, medium: Memory) -> None:
    medium.broken = True
    assert host.scsi(rw(0x28, 0, 8), 4096)[0] == 1
    assert host.sense() == (3, 0x11, 0)
    assert host.scsi(rw(0x2A, 0, 8), bytes(4096))[0] == 1
    assert host.sense() == (3, 0x0C, 0)
    assert host.scsi(bytes((0x35,)).ljust(10, b"\0"))[0] == 1
    medium.broken = False
    assert host.scsi(rw(0x28, 0, 8), 4096)[0] == 0


def test_ejected(host: Host) -> None:
    host.scsi(bytes((0x1E, 0, 0, 0, 1, 0)))
    assert host.scsi(bytes((0x1B, 0, 0, 0, 2, 0)))[0] == 1  # removal is prevented
    host.scsi(bytes((0x1E, 0, 0, 0, 0, 0)))
    assert host.scsi(bytes((0x1B, 0, 0, 0, 2, 0)))[0] == 0
    assert host.device.disk.ejected  # type: ignore[attr-defined]
    assert host.scsi(bytes(6))[0] == 1
    assert host.sense() == (2, 0x3A, 0)
    assert host.scsi(bytes((0x1B, 0, 0, 0, 3, 0)))[0] == 0
    assert host.scsi(bytes(6))[0] == 0


def wrapper(length: int, flags: int, command: bytes, *, magic: bytes = b"USBC", lun: int = 0, size: int = 16) -> bytes:
    return struct.pack("<4sIIBBB16s", magic, 77, length, flags, lun, size, command)


def status(host: Host) -> tuple[int, int]:
    answer = host.read(0x81, 13)
    _, tag, residue, result = struct.unpack("<4sIIB", answer.data)
    assert tag == 77
    return result, residue


def test_thirteen_cases(host: Host) -> None:
    """6.7: what the host expects against what the device does; here where they disagree."""
    inquiry, write, read = bytes((0x12, 0, 0, 0, 36, 0)), rw(0x2A, 0, 1), rw(0x28, 0, 1)
    host.write(2, wrapper(0, 0, read))  # 2: nothing expected, data there
    assert status(host) == (2, 0)
    host.write(2, wrapper(0, 0, write))  # 3
    assert status(host) == (2, 0)
    host.write(2, wrapper(64, 0x80, bytes(6)))  # 4: data expected, none there
    assert host.read(0x81, 64).length == 0
    assert status(host) == (0, 64)
    host.write(2, wrapper(512, 0x80, inquiry))  # 5: more expected than there is
    assert host.read(0x81, 512).length == 36
    assert status(host) == (0, 476)
    host.write(2, wrapper(256, 0x80, read))  # 7: less expected
    assert host.read(0x81, 256).length == 0
    assert status(host)[0] == 2
    host.write(2, wrapper(512, 0x80, write))  # 8: the other direction
    assert host.read(0x81, 512).length == 0
    assert status(host)[0] == 2
    host.write(2, wrapper(512, 0, bytes(6)))  # 9: data given, none wanted
    host.write(2, bytes(512))
    assert status(host) == (0, 512)
    host.write(2, wrapper(512, 0, read))  # 10
    host.write(2, bytes(512))
    assert status(host)[0] == 2
    host.write(2, wrapper(1024, 0, write))  # 11: more given than wanted
    host.write(2, bytes(1024))
    assert status(host) == (0, 512)
    host.write(2, wrapper(256, 0, write))  # 13: less given
    host.write(2, bytes(256))
    assert status(host)[0] == 2


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"USBC",
        wrapper(0, 0, bytes(6)) + b"\0",
        wrapper(0, 0, bytes(6), magic=b"USBX"),
        wrapper(0, 0, bytes(6), lun=1),
        wrapper(0, 0, bytes(6), size=0),
        wrapper(0, 0, bytes(6), size=17),
        wrapper(0, 0x41, bytes(6)),
    ],
)
def test_bad_wrapper_halts_until_reset_recovery(host: Host, bad: bytes) -> None:
    """5.3.4 and 6.6.1."""
    assert host.write(2, bad).status == Status.STALL
    assert host.read(0x81, 13).status == Status.STALL
    host.control(0x02, 1, 0, 0x81)  # clearing the halt alone is not enough
    assert host.read(0x81, 13).status == Status.STALL
    assert host.control(0x21, 0xFF).status == Status.SUCCESS
    for endpoint in (0x81, 0x02):
        assert host.control(0x02, 1, 0, endpoint).status == Status.SUCCESS
    assert host.scsi(bytes(6)) == (0, b"", 0)


def test_data_waits_while_the_medium_is_busy(medium: Memory) -> None:
    host = Host(MassStorage(medium))
    size = 2 * CHUNK
    host.write(2, wrapper(size, 0, rw(0xAA, 0, size // 512)))
    host.hold = True
    assert host.write(2, bytes(CHUNK)).status == Status.SUCCESS  # in memory, on its way
    assert host.write(2, b"\1" * CHUNK) is None  # no more until that is in the medium
    host.hold = False
    assert any(packet.status == Status.SUCCESS for packet in host.move())  # type: ignore[attr-defined]
    assert status(host) == (0, 0)
    assert medium.data[CHUNK:size] == b"\1" * CHUNK


def test_reset_forgets_what_was_going_on(host: Host, medium: Memory) -> None:
    host.hold, medium.slow = True, True
    host.write(2, wrapper(4096, 0x80, rw(0x28, 0, 8)))
    assert host.read(0x81, 4096) is None
    assert host.control(0x21, 0xFF).status == Status.SUCCESS
    host.hold = False
    host.move()
    assert not any(getattr(packet, "data", b"") for packet in host.news if packet.kind == 101)
    host.guest.in_flight.clear()
    medium.slow = False


def test_transport_reset_and_cancel_answer_every_transfer(host: Host) -> None:
    from corral.usb import packets as p

    assert host.read(0x81, 512) is None
    (waiting,) = host.guest.in_flight
    host.guest.send(p.CancelDataPacket(waiting[1]))
    (answer,) = host.move()
    assert isinstance(answer, p.BulkPacket) and answer.status == Status.CANCELLED
    assert host.read(0x81, 512) is None
    host.guest.send(p.Reset())
    (answer,) = host.move()
    assert isinstance(answer, p.BulkPacket) and answer.status == Status.CANCELLED
    assert host.scsi(bytes(6)) == (0, b"", 0)


def test_descriptors_at_both_speeds(medium: Memory) -> None:
    for speed, size in ((Speed.HIGH, 512), (Speed.FULL, 64)):
        host = Host(MassStorage(medium, speed=speed))
        assert host.control(0x80, 6, 0x0100, 0, 64).length == 18
        full = host.control(0x80, 6, 0x0200, 0, 255).data
        assert int.from_bytes(full[2:4], "little") == len(full) == 32
        assert [int.from_bytes(full[at + 4 : at + 6], "little") for at in (18, 25)] == [size, size]
        assert host.control(0x80, 6, 0x0302, 0x409, 255).data[2:].decode("utf-16-le") == "USB stick"
        qualifier = host.control(0x80, 6, 0x0600, 0, 10)
        assert qualifier.status == (Status.SUCCESS if speed is Speed.HIGH else Status.STALL)
        assert host.control(0xA1, 0xFE, 0, 0, 1).data == b"\0"


command_bytes = st.one_of(
    st.binary(min_size=1, max_size=16),
    st.builds(
        lambda code, rest: bytes((code,)) + rest,
        st.sampled_from((0x00, 0x03, 0x08, 0x0A, 0x12, 0x1A, 0x25, 0x28, 0x2A, 0x35, 0x5A, 0x88, 0x8A, 0x9E, 0xA8)),
        st.binary(min_size=5, max_size=15),
    ),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(command_bytes, st.one_of(st.integers(0, 5000), st.binary(max_size=5000)), st.booleans())
def test_any_command_gets_a_status(command: bytes, what: int | bytes, slow: bool) -> None:
    medium = Memory(64)
    medium.slow = slow
    host = Host(MassStorage(medium))
    length = what if isinstance(what, int) else len(what)
    result, data, residue = host.scsi(command, what, piece=1024)
    assert result in (0, 1, 2) and 0 <= residue <= length
    assert len(medium.data) == medium.size
    if isinstance(what, int):
        assert residue == length - len(data)
    assert host.scsi(bytes((0x12, 0, 0, 0, 36, 0)), 36)[0] == 0


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=512, max_size=512), st.booleans()), max_size=30))
def test_reads_give_what_writes_gave(steps: list[tuple[int, bytes, bool]]) -> None:
    medium = Memory(64)
    model = bytearray(medium.data)
    host = Host(MassStorage(medium))
    for block, data, slow in steps:
        medium.slow = slow
        host.scsi(rw(0x2A, block, 2), data * 2, piece=700)
        model[block * 512 : block * 512 + 1024] = data * 2
        assert host.scsi(rw(0x28, block, 3), 1536, piece=900)[1] == model[block * 512 : block * 512 + 1536]
    assert medium.data == model


def test_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1000))
    image = Image(path)
    assert image.size == 512
    image.write(100, [b"a", b"", b"bc" * 3])
    image.flush()
    assert image.read(99, 9) == b"\0abcbcbc\0"
    assert image.read_now(99, 9) in (b"\0abcbcbc\0", None)  # None where the file system never says, as tmpfs
    image.close()
    image.close()
    with pytest.raises(HostError, match="cannot open"):
        Image(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidArgument, match="empty"):
        Image(tmp_path / "empty")
