"""Figures and words for people."""

from __future__ import annotations

import pytest

from corral.cli.logs import _after
from corral.cli.output import duration, size, state, table


def test_table() -> None:
    assert table(["A", "LONG"], [["xyz", "1"], ["", "22"]]) == "A    LONG\nxyz  1\n     22"


@pytest.mark.parametrize(
    ("kib", "text"),
    [(512, "512 KiB"), (65536, "64 MiB"), (1 << 20, "1 GiB"), (1572864, "1.5 GiB"), (1 << 41, "2048 TiB")],
)
def test_size(kib: int, text: str) -> None:
    assert size(kib) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0.0s"), (59.94, "59.9s"), (250, "4m 10s"), (7500, "2h 5m")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "reason", "text"),
    [
        ("running", "booted", "running"),
        ("shutoff", "destroyed", "off"),
        ("shutoff", "crashed", "off (crashed)"),
        ("paused", "ioerror", "paused (ioerror)"),
        ("pmsuspended", "", "asleep"),
    ],
)
def test_state(name: str, reason: str, text: str) -> None:
    assert state(name, reason) == text


def test_what_is_new_in_a_log() -> None:
    assert _after("a\nb\n", "b\nc\n") == "b\nc\n"  # begun anew
    seen = "".join(f"line {number}\n" for number in range(1000))
    assert _after(seen, seen[2000:] + "new\n") == "new\n"  # its beginning was cut off
