"""Image headers and chains: what QEMU's own tool wrote, and what a hostile guest could have written."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from corral.errors import ConfigUnsupported, CorralError, HostError
from corral.qemu import images

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def create(path: Path, *options: str, size: str | None = "64M", format: str = "qcow2") -> Path:
    command = ["qemu-img", "create", "-q", "-f", format, *options, str(path), *([size] if size else [])]
    subprocess.run(command, check=True)
    return path


def header(
    *, version: int = 3, name: bytes = b"", size: int = 1 << 20, extensions: bytes = b"", **changed: int
) -> bytes:
    """A qcow2 header written by hand."""
    start = 104 + len(extensions)
    facts = {"name_at": start if name else 0, "name_length": len(name), "cluster_bits": 16, "crypt": 0} | changed
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", version, facts["name_at"], facts["name_length"], facts["cluster_bits"], size, facts["crypt"]),
        *(1, 0x30000, 0x10000, 1, 0, 0),
    )
    return fixed + struct.pack(">QQQII", changed.get("incompatible", 0), 0, 0, 4, 104) + extensions + name


def test_raw_is_what_it_is_told_to_be(tmp_path: Path) -> None:
    """A guest that writes a qcow2 header into its raw disk gains nothing by it."""
    disk = tmp_path / "disk"
    disk.write_bytes(header(name=b"/etc/shadow"))
    image = images.inspect(disk)
    assert (image.format, image.virtual_size, image.backing_path) == ("raw", disk.stat().st_size, None)
    with pytest.raises(ConfigUnsupported, match="not in qcow2 format"):
        disk.write_bytes(bytes(4096))
        images.inspect(disk, "qcow2")


@needs_qemu_img
async def test_a_chain_of_three(tmp_path: Path) -> None:
    base = create(tmp_path / "base.raw", format="raw")
    middle = create(tmp_path / "middle.qcow2", "-b", "base.raw", "-F", "raw", size=None)
    top = create(tmp_path / "top.qcow2", "-b", str(middle), "-F", "qcow2", size="128M")
    chain = images.chain(top, "qcow2")
    assert [image.path.resolve() for image in chain] == [top, middle, base]
    assert [image.format for image in chain] == ["qcow2", "qcow2", "raw"]
    assert [image.virtual_size >> 20 for image in chain] == [128, 64, 64]
    assert [image.backing_format for image in chain] == ["qcow2", "raw", None]


@needs_qemu_img
async def test_a_backing_image_without_a_format(tmp_path: Path) -> None:
    base = create(tmp_path / "base.qcow2")
    top = tmp_path / "top.qcow2"
    top.write_bytes(header(name=b"base.qcow2"))
    with pytest.raises(ConfigUnsupported, match=f"format of backing image '{base}' of image '{top}'"):
        images.chain(top, "qcow2")
    base.write_bytes(bytes(4096))
    assert [image.format for image in images.chain(top, "qcow2")] == ["qcow2", "raw"]


async def test_loops_depth_and_missing_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extension = struct.pack(">II8s", 0xE2792ACA, 5, b"qcow2")
    for name, below in (("a", b"b"), ("b", b"a"), ("lost", b"gone"), ("net", b"nbd://host/disk"), ("json", b"json:{}")):
        (tmp_path / name).write_bytes(header(name=below, extensions=extension))
    with pytest.raises(ConfigUnsupported, match="loop"):
        images.chain(tmp_path / "a", "qcow2")
    with pytest.raises(HostError, match=f"backing file '{tmp_path}/gone' of storage file '.*': No such file"):
        images.chain(tmp_path / "lost", "qcow2")
    for name in ("net", "json"):
        with pytest.raises(ConfigUnsupported, match="not a local file"):
            images.chain(tmp_path / name, "qcow2")
    monkeypatch.setattr(images, "MAX_DEPTH", 3)
    for n in range(5):
        (tmp_path / f"deep{n}").write_bytes(header(name=b"deep%d" % (n + 1), extensions=extension))
    with pytest.raises(ConfigUnsupported, match="deeper than 3"):
        images.chain(tmp_path / "deep0", "qcow2")


def test_a_fifo_or_folder_in_an_images_place_does_not_hold_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigUnsupported, match="neither a file nor a block device"):
        images.inspect(tmp_path / "fifo")
    with pytest.raises(CorralError):
        images.inspect(tmp_path)


@pytest.mark.parametrize("changed", [{"cluster_bits": 99}, {"name_length": 9999}, {"name_at": 1 << 60}, {"version": 9}])
def test_damaged_headers(tmp_path: Path, changed: dict[str, int]) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(header(name=b"base", **changed))
    with pytest.raises(ConfigUnsupported, match="header"):
        images.inspect(disk, "qcow2")


def test_random_headers_raise_nothing_else(tmp_path: Path) -> None:
    dice = random.Random(1)
    disk = tmp_path / "disk"
    good = bytearray(header(name=b"base", extensions=struct.pack(">II8s", 0xE2792ACA, 5, b"qcow2")))
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(dice.randrange(1, 8)):
            bad[dice.randrange(4, len(bad))] = dice.randrange(256)
        disk.write_bytes(bad[: dice.randrange(len(bad) + 1)])
        try:
            images.inspect(disk, "qcow2")
        except CorralError:
            continue


@needs_qemu_img
def test_external_data_and_encryption_are_seen(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk", "-o", f"data_file={tmp_path}/data,data_file_raw=on")
    assert images.inspect(disk, "qcow2").data_file == f"{tmp_path}/data"
    assert not images.inspect(disk, "qcow2").encrypted
    assert images.detect(disk) == "qcow2"
    assert images.detect(tmp_path / "data") == "raw"


@pytest.mark.qemu
def test_a_disk_that_qemu_holds_is_in_use(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    assert not images.in_use(disk, writable=True)
    for read_only, expected in (("off", (True, True)), ("on", (True, False))):
        holder = subprocess.Popen(
            [
                *(
                    "qemu-system-x86_64",
                    "-M",
                    "q35,accel=tcg",
                    "-nodefaults",
                    "-display",
                    "none",
                    "-S",
                    "-qmp",
                    "stdio",
                ),
                *("-blockdev", f"driver=file,filename={disk},node-name=f,read-only={read_only}"),
                *("-blockdev", f"driver=raw,file=f,node-name=d,read-only={read_only}"),
                *("-device", "virtio-blk-pci,drive=d"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert holder.stdin is not None and holder.stdout is not None
            holder.stdin.write(b'{"execute": "qmp_capabilities"}')
            holder.stdin.flush()
            while b'"return"' not in holder.stdout.readline():
                pass
            assert (images.in_use(disk, writable=True), images.in_use(disk, writable=False)) == expected
        finally:
            holder.kill()
            holder.communicate()
    assert not images.in_use(disk, writable=True)


async def test_data_in_another_file(tmp_path: Path) -> None:
    """An image whose bytes are elsewhere is refused: the other file's name is in its header."""
    image, data = tmp_path / "a.qcow2", tmp_path / "data"
    options = f"data_file={data},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "1M"], check=True)  # noqa: ASYNC221
    with pytest.raises(ConfigUnsupported, match="has its data in another file"):
        images.chain(image, "qcow2")
