"""What `run` makes of an image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pycdlib
import pytest
import yaml
from tests.client.peer import Peer, serving
from tests.client.test_image import CD

from corral.client import connect, seed
from corral.client.recipe import Recipe, memory_kib
from corral.errors import InvalidArgument, OperationFailed
from corral.guests import tiny as guest
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
        ("512Mi", 524288),
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


async def test_memory_to_grow_to(short_path: Path) -> None:
    kernel = short_path / "vmlinuz"
    kernel.write_bytes(b"x")
    recipe = Recipe(image="", kernel=str(kernel), memory="512M", max_memory="2G")
    model = await _model(short_path, recipe)
    assert (model.max_memory.kib, model.memory.kib, model.current_memory.kib) == (1 << 21, 1 << 21, 1 << 19)
    assert [(each.model, each.target.size.kib) for each in model.devices.memories] == [("virtio-mem", 3 << 19)]


async def test_an_installation_cd(short_path: Path) -> None:
    image = short_path / "debian.iso"
    image.write_bytes(CD)
    model = await _model(short_path, Recipe(image=str(image), name="new"))
    assert (model.name, model.devices.disks[0].device, model.os.boots[0].dev) == ("new", "cdrom", "cdrom")
    assert model.devices.graphics


@pytest.mark.parametrize("tiny", [False, True])
async def test_ports_that_lead_to_the_guest(short_path: Path, tiny: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = ["8080:80", "127.0.0.1:5353:53/udp", "[::1]:2222:22"]
    built = guest.Tiny(Path("/k"), Path("/i"), "c", Path("/p"))
    monkeypatch.setattr(guest, "build", AsyncMock(return_value=built))
    recipe = Recipe(ports=ports) if tiny else Recipe(image="", kernel="/etc/hostname", ports=ports, firmware="uefi")
    model = await _model(short_path, recipe)
    card = model.devices.interfaces[0]
    assert card.backend is not None and card.backend.type == "passt"
    assert [(each.proto, each.address, each.ranges[0].start, each.ranges[0].to) for each in card.port_forwards] == [
        ("tcp", None, 8080, 80),
        ("udp", "127.0.0.1", 5353, 53),
        ("tcp", "::1", 2222, 22),
    ]
    assert tiny or model.os.firmware == "efi"


async def test_a_screen_for_the_tiny_guest(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = guest.Tiny(Path("/k"), Path("/i"), "c", Path("/p"))
    monkeypatch.setattr(guest, "build", AsyncMock(return_value=built))
    model = await _model(short_path, Recipe(graphics=True))
    assert [(each.type, each.autoport) for each in model.devices.graphics] == [("vnc", "yes")]
    assert len(model.devices.videos) == 1
    assert not (await _model(short_path, Recipe())).devices.graphics


async def test_a_name_that_is_taken_meanwhile_is_chosen_again(short_path: Path) -> None:
    peer = Peer()
    define = peer.answers["domain_define_xml_flags"]

    def someone_was_faster(session: Any, args: Any) -> Any:
        if "<name>hostname</name>" in args.xml:
            raise OperationFailed("domain 'hostname' already exists with uuid 6d5f04a4-…")
        return define(session, args)

    peer.answers["domain_define_xml_flags"] = someone_was_faster
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        assert (await host.run("", kernel="/etc/hostname")).name == "hostname-2"
        with pytest.raises(OperationFailed, match="already exists"):
            await host.run("", kernel="/etc/hostname", name="hostname")


def test_user_data(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(short_path))
    text, password = seed.own_user_data()
    assert password and password in text and text.startswith("#cloud-config\n")
    (short_path / ".ssh").mkdir()
    (short_path / ".ssh/id.pub").write_text("ssh-ed25519 AAAA me\n")
    text, password = seed.own_user_data()
    assert password is None and yaml.safe_load(text) == {"ssh_authorized_keys": ["ssh-ed25519 AAAA me"]}
    cd = pycdlib.PyCdlib()
    cd.open_fp(io.BytesIO(seed.build("my web", text)))
    out = io.BytesIO()
    cd.get_file_from_iso_fp(out, joliet_path="/meta-data")
    assert yaml.safe_load(out.getvalue())["local-hostname"] == "my-web"
    assert cd.pvd.volume_identifier.strip() == b"cidata"
    (short_path / "x").write_text("hello\n")
    with pytest.raises(InvalidArgument, match=r"first line is 'hello'.*#cloud-config"):
        seed.read_user_data(str(short_path / "x"))


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
        ({"image": "tiny", "memory": "64M"}, "too little for tiny; it needs 160M"),
        ({"image": "tiny", "memory": "200M", "max_memory": "1G"}, "it needs 224M beside a maximum of 1G"),
        ({"image": "tiny", "kernel": "/nowhere"}, "tiny brings its own kernel"),
        ({"image": "", "kernel": "/etc/hostname", "ports": ["80"]}, "port '80'.*HOST:GUEST"),
        ({"image": "", "kernel": "/etc/hostname", "ports": ["99999:80"]}, "port '99999:80'"),
        ({"image": "", "kernel": "/nowhere"}, "/nowhere is not a file"),
        ({"image": "", "kernel": "/etc/hostname", "firmware": "uboot"}, "firmware 'uboot'"),
        ({"image": "", "kernel": "/etc/hostname", "cpus": 0}, "0 vCPUs"),
        ({"image": "", "kernel": "/etc/hostname", "memory": "1G", "max_memory": "512M"}, "at most 512M"),
        ({"image": "", "kernel": "/etc/hostname", "accel": "xen"}, "accelerator 'xen'"),
        ({"name": ""}, "'' is no name"),
        ({"name": "a/b"}, "'a/b' is no name"),
        ({"disk": "5X"}, "disk '5X' is neither a size nor a file"),
        ({"disk": "/nowhere"}, "disk '/nowhere' is neither"),
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
