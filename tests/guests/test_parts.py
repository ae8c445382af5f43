"""What the tiny guest is put together from: archive, kernel, modules, libraries."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from corral.errors import OperationFailed
from corral.guests import kernel, libraries, modules, packages, tiny
from corral.guests.cpio import Archive


def test_an_archive_that_cpio_reads(tmp_path: Path) -> None:
    out = io.BytesIO()
    archive = Archive(out)
    archive.file("etc/deep/file", b"hello", executable=True)
    archive.link("bin/sh", "busybox")
    archive.folder("etc")
    archive.character_device("dev/null", 1, 3)
    archive.finish()
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    run = subprocess.run(["busybox", "cpio", "-tv"], input=out.getvalue(), capture_output=True, check=True)
    lines = [line.split() for line in run.stdout.decode().splitlines()]
    assert {(line[0], line[-1]) for line in lines} == {
        ("drwxr-xr-x", "etc"),
        ("drwxr-xr-x", "etc/deep"),
        ("-rwxr-xr-x", "etc/deep/file"),
        ("drwxr-xr-x", "bin"),
        ("lrwxrwxrwx", "busybox"),
        ("drwxr-xr-x", "dev"),
        ("crw-------", "dev/null"),
    }


def elf(*segments: tuple[int, bytes]) -> bytes:
    """An ELF file that wants these bytes at these physical addresses; it is entered at 0x1000000."""
    at = 64 + 56 * len(segments)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    table, data = b"", b""
    for physical, content in segments:
        size = len(content)
        table += struct.pack("<IIQQQQQQ", 1, 0, at + len(data), 0, physical, size, size, 4)
        data += content
    head = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    return ident + head + table + data


KERNEL = elf((0x1000000, b"text"), (0x1200000, b"data"))


def bzimage(payload: bytes) -> bytes:
    image = bytearray(0x400 * 2)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 0, len(payload))
    return bytes(image) + payload


def lz4_legacy(data: bytes) -> bytes:
    if shutil.which("lz4") is None:
        pytest.skip("lz4 is not installed")
    return subprocess.run(["lz4", "-l", "-c"], input=data, capture_output=True, check=True).stdout


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd, lz4_legacy])
def test_the_kernel_comes_out_of_its_image(pack: object) -> None:
    assert callable(pack)
    payload = pack(KERNEL)
    # gzip and bzip2 end with the size by themselves or not at all; for the others the kernel's build appends it.
    payload += struct.pack("<I", len(KERNEL)) if pack is not gzip.compress else b""
    image = kernel.unpacked(bzimage(payload))
    assert image is not None
    setup, memory = image[:0x800], image[0x800:]
    assert setup[0x202:0x206] == b"HdrS"
    assert struct.unpack_from("<I", setup, 0x1F4) == (len(memory) // 16 + 1,), "in paragraphs, rounded up"
    at = 0x1000000 - 0x100000  # the protected-mode part is loaded at 1 MiB
    assert memory[at : at + 4] == b"text"
    assert memory[0x1100000:] == b"data"


def test_what_cannot_be_started_directly_is_left_as_it_is() -> None:
    assert kernel.unpacked(b"MZ" + bytes(2000)) is None
    too_low = elf((0x100000, b"text"))
    assert kernel.unpacked(bzimage(lzma.compress(too_low) + struct.pack("<I", len(too_low)))) is None
    with pytest.raises(OperationFailed, match="cannot unpack xz"):
        kernel.unpacked(bzimage(b"\xfd7zXZ\x00damaged" + struct.pack("<I", 100)))


def module_file(folder: Path, name: str, *entries: str) -> None:
    """A kernel module of nothing but its .modinfo, signed."""
    info = b"\0".join(entry.encode() for entry in entries) + b"\0"
    names = b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(info) + len(names)
    head = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    )
    section = struct.Struct("<IIQQQQIIQQ")
    sections = (
        section.pack(*[0] * 10)
        + section.pack(1, 1, 0, 0, 64, len(info), 0, 0, 1, 0)
        + section.pack(10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    )
    signature = b"s" * 40 + struct.pack(">4xBBBB", 0, 0, 0, 0)[:8] + struct.pack(">I", 40)
    path = folder / "kernel" / "drivers" / f"{name}.ko"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + info + names + sections + signature + b"~Module signature appended~\n")


def test_modules_with_what_they_need_in_order(tmp_path: Path) -> None:
    module_file(tmp_path, "virtio", "depends=")
    module_file(tmp_path, "virtio-ring", "depends=virtio")
    module_file(tmp_path, "virtio_pci", "depends=virtio-ring,virtio", "alias=pci:v00001AF4d*")
    module_file(tmp_path, "unwanted", "depends=virtio")
    (tmp_path / "modules.builtin").write_text("kernel/net/af_packet.ko\n")
    found = modules.collect(tmp_path, ("virtio_pci", "af_packet", "not_there"))
    assert sorted(found.modules) == ["virtio", "virtio_pci", "virtio_ring"]
    assert found.order(("virtio_pci",)) == ["virtio", "virtio_ring", "virtio_pci"]
    assert "virtio_pci.ko: virtio_ring.ko virtio.ko\n" in found.dependencies()
    assert found.aliases() == "alias pci:v00001AF4d* virtio_pci\n"
    assert not any(b"signature appended" in module.data for module in found.modules.values())
    module_file(tmp_path, "broken", "depends=missing")
    with pytest.raises(OperationFailed, match="lacks module missing"):
        modules.collect(tmp_path, ("broken",))


def test_libraries_as_the_loader_sees_them() -> None:
    program = Path(sys.executable).resolve()
    folders = [Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64"), Path("/usr/lib64")]
    interpreter, found = libraries.closure(program, folders)
    assert interpreter is not None and Path(interpreter).exists()
    assert "libc.so.6" in found
    with pytest.raises(OperationFailed, match="which is not there"):
        libraries.closure(program, [])


def test_every_file_of_the_guest_is_a_script_busybox_understands() -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    folder = Path(tiny.__file__).parent / "data"
    scripts = [path for path in folder.iterdir() if path.name != "mdev.conf"]
    assert len(scripts) >= 6
    for script in scripts:
        assert script.read_text().startswith("#!/bin/busybox sh\n")
        subprocess.run([busybox, "sh", "-n", script], check=True)


async def test_a_host_that_has_nothing_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "available", lambda: False)
    lend = tiny._from_host
    monkeypatch.setattr(tiny, "_from_host", lambda: lend(tmp_path / "nothing"))
    with pytest.raises(OperationFailed, match="install busybox and qemu-guest-agent") as caught:
        await tiny.build(tmp_path / "cache")
    assert "a kernel" in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".tiny.lock"]


def test_a_host_that_is_not_debian_lends_its_own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busybox, folder = shutil.which("busybox"), Path("/lib/x86_64-linux-gnu")
    if busybox is None or not (folder / "libc.so.6").exists():
        pytest.skip("busybox or glibc is not here to be lent")
    root = tmp_path / "root"
    libc, loader = (folder / "libc.so.6").resolve(), Path("/lib64/ld-linux-x86-64.so.2").resolve()
    for path, source in (
        ("usr/bin/busybox", Path(busybox)),
        ("usr/bin/qemu-ga", Path("/bin/true")),
        ("usr/lib64/libc.so.6", libc),
        ("usr/lib64/ld-linux-x86-64.so.2", loader),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / path)
        (root / path).chmod(0o755)
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-9.9").write_bytes(bzimage(lzma.compress(KERNEL) + struct.pack("<I", len(KERNEL))))
    module_file(root / "usr/lib/modules/9.9", "virtio_pci", "depends=")
    monkeypatch.setattr(packages, "available", lambda: False)
    monkeypatch.setattr(tiny.platform, "release", lambda: "9.9")
    lend = tiny._from_host
    monkeypatch.setattr(tiny, "_from_host", lambda: lend(root))
    built = asyncio.run(tiny.build(tmp_path / "cache"))
    assert built.kernel.read_bytes().endswith(b"data")
    listing = subprocess.run(["busybox", "cpio", "-t"], input=built.initrd.read_bytes(), capture_output=True).stdout
    names = set(listing.decode().split())
    wanted = {"init", "bin/qemu-ga", "bin/sh", "usr/lib64/libc.so.6", "lib64/ld-linux-x86-64.so.2", "etc/modules-first"}
    assert wanted <= names
    assert "lib/modules/9.9/virtio_pci.ko" in names
    assert asyncio.run(tiny.build(tmp_path / "cache")) == built
    assert stat.S_IMODE(built.kernel.stat().st_mode) == 0o644


async def test_a_kept_guest_is_used_and_a_damaged_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "available", lambda: False)
    monkeypatch.setattr(tiny.platform, "release", lambda: "0.0.0-none")
    kept = tmp_path / "tiny-0123"
    kept.mkdir()
    (kept / "bzImage").write_bytes(b"kernel")
    (kept / "initrd").write_bytes(b"initrd")
    (kept / "vmlinuz").write_bytes(b"packed")
    (kept / "manifest.json").write_text(f'{{"recipe": "{tiny._recipe_digest()}", "sizes": [6, 6, 6]}}')
    expected = tiny.Tiny(kept / "bzImage", kept / "initrd", tiny.CMDLINE, kept / "vmlinuz")
    assert await tiny.build(tmp_path) == expected
    (kept / "initrd").write_bytes(b"cut")
    with pytest.raises(OperationFailed):
        await asyncio.wait_for(tiny.build(tmp_path), 20)
