"""Choosing one of this computer's USB devices by its number."""

from __future__ import annotations

import io
import sys

import pytest

from corral.cli import main
from corral.cli import usb as commands
from corral.errors import DeviceMissing, InvalidArgument
from corral.usb import Speed
from corral.usb.computer import Found


class Typed(io.StringIO):
    """A terminal on which somebody has typed already."""

    def isatty(self) -> bool:
        return True


class Computer:
    """A computer with these devices."""

    def __init__(self, *found: Found) -> None:
        self.found = list(found)

    def devices(self) -> list[Found]:
        return self.found


STICK = Found(1, 4, "1-2", 0x0951, 0x1666, Speed.SUPER, "Kingston DataTraveler")
MOUSE = Found(1, 5, "1-3", 0x046D, 0xC077, Speed.LOW, "Logitech Mouse")


def test_one_is_chosen_from_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Typed("mouse\n2\n"))
    assert commands._choose(Computer(STICK, MOUSE)) is MOUSE
    said = capsys.readouterr()
    assert "  1  0951:1666 Kingston DataTraveler (1.4)\n  2  046d:c077 Logitech Mouse (1.5)\n" in said.err
    assert said.out.strip() == ""


def test_what_cannot_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Typed("3\n"))
    with pytest.raises(InvalidArgument, match="no USB device 3"):
        commands._choose(Computer(STICK, MOUSE))
    with pytest.raises(DeviceMissing, match="has no USB devices"):
        commands._choose(Computer())
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(InvalidArgument, match="which USB device"):
        commands._choose(Computer(STICK))


def test_text_without_keys_is_refused_before_a_machine_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["corral", "-c", "qemu+unix:///system?socket=/nowhere", "usb", "keyboard", "x", "\u20ac"]
    )
    assert main() == 1
    assert "a US keyboard has no key for '\u20ac'" in capsys.readouterr().err
