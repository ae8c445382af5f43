"""What `run` makes of a file that somebody names: a disk, a CD, or a reason with what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corral.client.image import ISO_AT, ISO_MAGIC, look
from corral.errors import InvalidArgument

CD = bytes(ISO_AT) + ISO_MAGIC + bytes(100)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.qcow2", b"QFI\xfb" + bytes(508), "qcow2"),
        ("a.img", bytes(4096), "raw"),
        ("a", b"\xeb\x63\x90" + os.urandom(507) + b"\x55\xaa", "raw"),
        ("a.iso", CD, "cd"),
        ("a.img", CD, "cd"),
    ],
)
def test_told_by_its_first_bytes(short_path: Path, name: str, content: bytes, kind: str) -> None:
    (short_path / name).write_bytes(content)
    assert look(str(short_path / name)) == (short_path / name, kind, False)


@pytest.mark.parametrize(
    ("name", "content", "complaint", "hint"),
    [
        ("a.img", b"", "is empty", "qemu-img create"),
        ("a.img", b"hello, world\n", "is text", "fetched"),
        ("a.img", "grüße\n".encode(), "is text", "fetched"),
        ("a.iso", b"<!DOCTYPE html><html>", r"is called \.iso but is no CD", "fetched"),
        ("a.img", b"<!DOCTYPE html><html>", "is a web page", "fetched"),
        ("a.vmdk", b"KDMV" + bytes(508), "VMware", "qemu-img convert -f vmdk -O qcow2"),
        ("a.img", bytes(64) + b"\x7f\x10\xda\xbe" + bytes(444), "VirtualBox", "convert -f vdi"),
        ("a.vhdx", b"vhdxfile" + bytes(504), "Hyper-V", "convert -f vhdx"),
        ("a.qcow2", b"KDMV" + bytes(508), "VMware", "'a-converted.qcow2' makes a disk"),
        ("a.qcow2", bytes(512), r"is called \.qcow2 but is none", r"\.img"),
        ("a.img.xz", b"\xfd7zXZ\0" + bytes(506), "packed with xz", "unxz"),
    ],
)
def test_no_disk(short_path: Path, name: str, content: bytes, complaint: str, hint: str) -> None:
    (short_path / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=f"{complaint}.*{hint}"):
        look(str(short_path / name))


def test_what_is_no_file(short_path: Path) -> None:
    os.mkfifo(short_path / "pipe")
    with pytest.raises(InvalidArgument, match="a pipe"):
        look(str(short_path / "pipe"))
    with pytest.raises(InvalidArgument, match="a character device"):
        look("/dev/null")
    with pytest.raises(InvalidArgument, match="Is a directory"):
        look(str(short_path))
    with pytest.raises(InvalidArgument, match="No such file"):
        look(str(short_path / "nothing"))
