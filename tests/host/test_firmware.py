"""Firmware descriptors: which is chosen for `<os firmware='efi'>`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.host.firmware import choose, descriptors


def descriptor(directory: Path, name: str, machines: str, *features: str, mode: str = "split") -> None:
    """One descriptor with an image of its own beside it."""
    directory.mkdir(exist_ok=True)
    image = directory / f"{name}.fd"
    image.write_text("")
    mapping = {"device": "flash", "mode": mode, "executable": {"filename": str(image), "format": "raw"}}
    if mode == "split":
        mapping["nvram-template"] = {"filename": str(image) + ".vars", "format": "qcow2"}
    content = {
        "description": name,
        "interface-types": ["uefi"],
        "mapping": mapping,
        "targets": [{"architecture": "x86_64", "machines": [machines]}],
        "features": list(features),
        "tags": [],
    }
    (directory / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    descriptor(tmp_path, "40-enrolled", "pc-q35-*", "secure-boot", "enrolled-keys", "requires-smm")
    descriptor(tmp_path, "50-secure", "pc-q35-*", "secure-boot", "requires-smm")
    descriptor(tmp_path, "60-plain", "pc-*")
    descriptor(tmp_path, "70-stateless", "pc-q35-*", mode="stateless")
    return tmp_path


def chosen(shelf: Path, machine: str, arch: str = "x86_64", **wishes: bool) -> str | None:
    firmware = choose(arch, machine, firmwares=descriptors([shelf]), **wishes)
    return firmware and firmware.description


def test_the_first_that_serves_the_machine(shelf: Path) -> None:
    assert chosen(shelf, "pc-q35-10.0") == "40-enrolled"
    assert chosen(shelf, "pc-i440fx-10.0") == "60-plain"
    assert chosen(shelf, "microvm") is None
    assert chosen(shelf, "pc-q35-10.0", arch="i686") is None


def test_wishes(shelf: Path) -> None:
    assert chosen(shelf, "pc-q35-10.0", secure=False) == "60-plain"
    assert chosen(shelf, "pc-q35-10.0", secure=True, enrolled=False) == "50-secure"
    assert chosen(shelf, "pc-i440fx-10.0", secure=True) is None
    assert chosen(shelf, "pc-q35-10.0", stateless=True) == "70-stateless"


def test_nvram_template_and_its_format(shelf: Path) -> None:
    firmware = choose("x86_64", "pc-i440fx-10.0", firmwares=descriptors([shelf]))
    assert firmware is not None
    assert firmware.nvram_template == shelf / "60-plain.fd.vars"
    assert (firmware.nvram_format, firmware.executable_format) == ("qcow2", "raw")


def test_higher_directory_replaces_and_an_empty_file_hides(shelf: Path, tmp_path: Path) -> None:
    admin = tmp_path / "admin"
    descriptor(admin, "50-secure", "none")
    (admin / "40-enrolled.json").write_text("")
    firmware = choose("x86_64", "pc-q35-10.0", firmwares=descriptors([shelf, admin]))
    assert firmware is not None
    assert firmware.description == "60-plain"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mapping": {"device": "rocket"}}', '{"mapping": 3}', "null"])
def test_damaged_descriptors_are_left_out(shelf: Path, content: str) -> None:
    (shelf / "10-damaged.json").write_text(content)
    assert len(descriptors([shelf])) == 4


def test_an_image_that_is_gone_is_not_chosen(shelf: Path) -> None:
    (shelf / "60-plain.fd").unlink()
    assert chosen(shelf, "pc-i440fx-10.0") is None
