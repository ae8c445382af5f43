"""Directories as volumes, and files made, copied, wiped and removed: pure, on a temporary directory."""

from __future__ import annotations

import os
import random
import resource
import socket
import struct
import threading
from pathlib import Path

import pytest

from corral.errors import HostError, NumberTooLarge, OperationAborted, StorageVolumeExists
from corral.host import images
from corral.storage import files, writing

MIB = 1 << 20


def qcow2(size: int, *, backing: bytes = b"", cut: int = 1 << 20) -> bytes:
    """A qcow2 version 3 header, as far as a reader of headers looks."""
    at = 112 if backing else 0
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", 3, at, len(backing), 16, size, 0).ljust(72, b"\0")
    head += struct.pack(">QQQII", 0, 1, 0, 4, 104)
    return (head + bytes(8) + backing)[:cut].ljust(cut if cut < 200 else 4096, b"\0")


def test_scan_tells_formats_by_their_headers(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x" * 1000)
    (tmp_path / "q").write_bytes(qcow2(5 * MIB))
    (tmp_path / "top").write_bytes(qcow2(6 * MIB, backing=b"q"))
    (tmp_path / "net").write_bytes(qcow2(6 * MIB, backing=b"nbd://host/export"))
    (tmp_path / "iso").write_bytes(bytes(0x8001) + b"CD001" + bytes(5000))
    (tmp_path / "vdi").write_bytes((bytes(64) + b"\x7f\x10\xda\xbe").ljust(368, b"\0") + struct.pack("<Q", 3 * MIB))
    (tmp_path / "short.vmdk").write_bytes(b"KDMV")
    (tmp_path / "torn").write_bytes(qcow2(5 * MIB, cut=60))
    (tmp_path / "dir").mkdir()
    (tmp_path / "bad\nname").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        found = {file.name: file for file in files.scan(tmp_path)}
    assert {name: (file.format, file.capacity) for name, file in found.items()} == {
        "raw": ("raw", 1000),
        "q": ("qcow2", 5 * MIB),
        "top": ("qcow2", 6 * MIB),
        "net": ("qcow2", 6 * MIB),
        "iso": ("iso", 0x8001 + 5005),
        "vdi": ("vdi", 3 * MIB),
        "short.vmdk": ("raw", 4),
        "torn": ("raw", 60),
        "dir": ("dir", 0),
    }
    assert found["top"].backing == tmp_path / "q"
    assert found["top"].backing_format == "raw", "what is not written down is never guessed"
    assert found["net"].backing is None
    assert found["q"].lazy_refcounts
    assert found["q"].compat == "1.1"


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot open directory .*gone': No such file or directory"):
        files.scan(tmp_path / "gone")


def test_headers_of_rubbish_are_raw(tmp_path: Path) -> None:
    generator = random.Random(7)
    path = tmp_path / "image"
    whole = qcow2(MIB, backing=b"below")
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 12)):
            data[generator.randrange(130)] = generator.randrange(256)
        path.write_bytes(data[: generator.randrange(len(data))])
        image = images.probe(path)
        assert image.format in ("raw", "qcow2")


def test_a_new_file_is_its_owners_alone_and_never_another(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        writing.make_file(tmp_path / "new", writing.Owner())
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("new", "link"):
        with pytest.raises(StorageVolumeExists, match=f"storage volume '{name}' exists already"):
            writing.make_file(tmp_path / name, writing.Owner())
    assert not (tmp_path / "elsewhere").exists()


def test_sizes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    writing.make_file(path, writing.Owner())
    writing.size_raw(path, 8 * MIB, 0)
    assert (path.stat().st_size, path.stat().st_blocks) == (8 * MIB, 0)
    writing.size_raw(path, 8 * MIB, MIB)
    assert path.stat().st_blocks * 512 >= MIB
    with pytest.raises(NumberTooLarge):
        writing.check_size(2**63)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # a tmpfs takes every size that a number can say
    try:
        with pytest.raises(HostError, match="cannot extend file"):
            writing.size_raw(path, 1 << 30, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def holed(path: Path) -> bytes:
    """A file with data, a hole, data, and a hole at its end."""
    with path.open("wb") as file:
        file.write(b"a" * 100_000)
        file.seek(4 * MIB)
        file.write(b"b" * 70_000)
        file.truncate(8 * MIB)
    return path.read_bytes()


def test_copies_keep_holes(tmp_path: Path) -> None:
    content = holed(tmp_path / "a")
    writing.make_file(tmp_path / "b", writing.Owner())
    writing.copy_raw(tmp_path / "a", tmp_path / "b", threading.Event())
    assert (tmp_path / "b").read_bytes() == content
    assert (tmp_path / "b").stat().st_blocks * 512 < MIB


def test_a_wipe_leaves_zeros(tmp_path: Path) -> None:
    holed(tmp_path / "a")
    writing.wipe(tmp_path / "a", threading.Event())
    assert (tmp_path / "a").read_bytes() == bytes(8 * MIB)
    assert (tmp_path / "a").stat().st_blocks * 512 < MIB


def test_long_work_ends_when_nobody_waits(tmp_path: Path) -> None:
    content = holed(tmp_path / "a")
    stop = threading.Event()
    stop.set()
    with pytest.raises(OperationAborted):
        writing.wipe(tmp_path / "a", stop)
    assert (tmp_path / "a").read_bytes() == content


def test_a_part_made_zeros(tmp_path: Path) -> None:
    content = bytearray(holed(tmp_path / "a"))
    with writing.opened(tmp_path / "a", os.O_RDWR) as descriptor:
        writing.zero(descriptor, 50_000, 5 * MIB)
        writing.zero(descriptor, 8 * MIB, 9 * MIB)
    content[50_000 : 5 * MIB] = bytes(5 * MIB - 50_000)
    assert (tmp_path / "a").read_bytes() == content + bytes(MIB)


def test_only_the_same_file_is_unfinished(tmp_path: Path) -> None:
    device, inode = writing.make_file(tmp_path / "a", writing.Owner())
    assert not writing.remove_unfinished(tmp_path / "a", device, inode + 1)
    assert writing.remove_unfinished(tmp_path / "a", device, inode)
    assert not writing.remove_unfinished(tmp_path / "a", device, inode)


def test_removing(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").touch()
    with pytest.raises(HostError, match=r"cannot remove directory .* Directory not empty"):
        writing.remove(tmp_path / "d", directory=True)
    writing.remove(tmp_path / "d" / "f", directory=False)
    writing.remove(tmp_path / "d", directory=True)
    assert not (tmp_path / "d").exists()
