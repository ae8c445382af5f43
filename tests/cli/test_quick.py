"""The short way for `ps` reads what the command-line library reads, or leaves it to it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from corral.cli import daemon as command
from corral.cli import listing, quick
from corral.cli import ps as ps_module
from corral.daemon import Options

PLAIN = {"everything": False, "addresses": False, "quiet": False, "uri": None, "as_json": False}


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["ps"], {}),
        (["ps", "-a"], {"everything": True}),
        (["ps", "--all", "-q", "-A"], {"everything": True, "quiet": True, "addresses": True}),
        (["ps", "-c", "x"], {"uri": "x"}),
        (["--connect=x=y", "ps"], {"uri": "x=y"}),
        (["--connect", "ps", "ps"], {"uri": "ps"}),
        (["ps", "--format", "json"], {"as_json": True}),
        (["ps", "--format=table"], {}),
    ],
)
def test_plain_forms(words: list[str], chosen: dict[str, object]) -> None:
    assert quick.ps(words) == PLAIN | chosen


@pytest.mark.parametrize(
    "words",
    [
        ["ps", "-aq"],
        ["ps", "--help"],
        ["ps", "x"],
        ["start", "ps"],
        ["-a", "ps"],
        ["ps", "-c"],
        ["ps", "--format", "xml"],
        ["ps", "ps"],
        ["exec", "web", "--", "ps", "-a"],
        ["--version", "ps"],
        [],
    ],
)
def test_the_rest_is_left_to_the_library(words: list[str]) -> None:
    assert quick.ps(words) is None


def test_both_ways_have_the_same_choices() -> None:
    options = set(inspect.signature(ps_module.ps).parameters)
    assert {name.replace("connect", "uri").replace("output", "as_json") for name in options} == PLAIN.keys()
    assert set(inspect.signature(listing.show).parameters) == PLAIN.keys()


def test_the_short_way_is_light() -> None:
    """What makes `corral ps` slow is never imported by it."""
    code = (
        "import sys; sys.argv = ['corral', 'ps', '-c', 'corral+unix:///session?socket=/nowhere']; "
        "from corral.cli import main; main(); "
        "print([name for name in ('typer', 'rich', 'pydantic', 'lxml', 'yaml', 'corral.model') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert result.stdout.strip() == "[]"
    assert result.stderr.startswith("corral: no daemon listens at /nowhere")


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["daemon"], {}),
        (["daemon", "--state", "/s", "--socket=/k"], {"state": Path("/s"), "socket": Path("/k")}),
        (["daemon", "--timeout", "2.5", "--as-libvirt", "-v"], {"timeout": 2.5, "as_libvirt": True, "verbose": True}),
        (["daemon", "--qemu-user", "q", "--ready-fd=3"], {"qemu_user": "q", "ready_fd": 3}),
        (["daemon", "--display-ports", "5900-5999", "--vnc-tls=on"], {"display_ports": (5900, 5999), "vnc_tls": "on"}),
        (["daemon", "--display-ports", "1-9"], None),
        (["daemon", "--vnc-tls", "maybe"], None),
        (["daemon", "--timeout", "-1"], None),
        (["daemon", "--timeout", "soon"], None),
        (["daemon", "--state"], None),
        (["daemon", "--help"], None),
        (["daemon", "--qemu_user", "q"], None),
        (["--connect", "x", "daemon"], None),
    ],
)
def test_plain_forms_of_daemon(words: list[str], chosen: dict[str, object] | None) -> None:
    assert quick.daemon(words) == chosen


def test_all_options_of_daemon_are_known_to_both() -> None:
    known = set(inspect.signature(command.daemon).parameters)
    assert {*quick._VALUES, *quick._SWITCHES.values()} == known == {field.name for field in fields(Options)}
