"""What `run` makes of an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.client.peer import Peer, serving

from corral.client import connect
from corral.client.recipe import Recipe, memory_kib
from corral.errors import InvalidArgument, OperationFailed
from corral.model.domain import Domain


@pytest.mark.parametrize(
    ("text", "kib"),
    [
        ("512M", 524288),
        ("512", 524288),
        (512, 524288),
        ("2G", 2097152),
        ("1.5GiB", 1572864),
        ("2048k", 2048),
        ("1 TB", 1 << 30),
    ],
)
def test_memory(text: str | int, kib: int) -> None:
    assert memory_kib(text) == kib


@pytest.mark.parametrize("text", ["", "-1", "lots", "512X", "0", "12P", "9999999T", "1e9"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="memory"):
        memory_kib(text)


async def _model(short_path: Path, recipe: Recipe, *taken: str) -> Domain:
    async with serving(Peer(*taken), short_path / "s") as uri, connect(uri) as host:
        return Domain.from_xml(await recipe.document(host))


async def test_a_disk_image(short_path: Path) -> None:
    image = short_path / "my disk&co.img"
    image.write_bytes(b"QFI\xfb" + bytes(508))
    model = await _model(short_path, Recipe(image=str(image), cpus=3, memory="2G"), "my-disk-co")
    assert (model.name, model.memory.kib, model.type) == ("my-disk-co-2", 2097152, "qemu")
    disk = model.devices.disks[0]
    assert (disk.driver.type, disk.source.file, disk.target.bus) == ("qcow2", str(image), "virtio")


async def test_an_installation_cd(short_path: Path) -> None:
    image = short_path / "debian.iso"
    image.write_bytes(bytes(2048))
    model = await _model(short_path, Recipe(image=str(image), name="new"))
    assert (model.name, model.devices.disks[0].device, model.os.boots[0].dev) == ("new", "cdrom", "cdrom")
    assert model.devices.graphics


async def test_a_kernel(short_path: Path) -> None:
    kernel = short_path / "vmlinuz"
    kernel.write_bytes(b"x")
    model = await _model(short_path, Recipe(image="", kernel=str(kernel), cmdline="console=ttyS0 a<b"))
    assert (model.name, model.os.kernel, model.os.cmdline) == ("vmlinuz", str(kernel), "console=ttyS0 a<b")
    assert not model.devices.disks


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"image": "/nowhere/x.qcow2"}, "image /nowhere/x.qcow2: No such file"),
        ({"image": "/tmp"}, "Is a directory"),
        ({"image": "", "kernel": "/nowhere"}, "/nowhere is not a file"),
        ({"image": "", "kernel": "/etc/hostname", "firmware": "uboot"}, "firmware 'uboot'"),
        ({"image": "", "kernel": "/etc/hostname", "cpus": 0}, "0 vCPUs"),
        ({"image": "", "kernel": "/etc/hostname", "accel": "xen"}, "accelerator 'xen'"),
    ],
)
async def test_mistakes(short_path: Path, choices: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        await _model(short_path, Recipe(**choices))  # type: ignore[arg-type]


async def test_what_does_not_start_leaves_nothing(short_path: Path) -> None:
    peer = Peer()

    def fail(session: object, args: object) -> None:
        raise OperationFailed("no")

    peer.answers["domain_create_with_flags"] = fail
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        with pytest.raises(OperationFailed, match="no"):
            await host.run("", kernel="/etc/hostname", name="x")
    assert peer.domains == {}
