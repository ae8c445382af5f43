"""The README says what is true: its session is run again, its table has every command, its examples are understood."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.cli.conftest import Corral

from corral.cli.app import COMMANDS
from labs import corrald

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def examples() -> list[str]:
    """Every line of the README that a person may type and that begins with corral, without its comment."""
    lines = re.findall(r"^    (?:\$ )?(corral .*)$", README, re.MULTILINE)
    return [line.split("   #")[0].strip() for line in lines]


def test_every_command_is_named() -> None:
    table = README[README.index("| machines |") : README.index("## From Python")]
    assert {name for name in COMMANDS if f"`{name}`" not in table} == set()


@pytest.mark.parametrize("line", examples())
def test_every_option_that_is_shown_exists(corral_: Corral, line: str) -> None:
    for command in re.split(r"&&|;", line.split(" -- ")[0]):
        words = shlex.split(command)
        name = next(word for word in words[1:] if word in COMMANDS)
        told = corral_(name, "--help").out
        assert all(word in told for word in words if word.startswith("--")), command


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def session() -> list[tuple[str, str]]:
    """The commands of the recorded session, and what each printed."""
    text = README[README.index("## A session") : README.index("`tiny` is a Linux")]
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    parts = re.split(r"^\$ ", "\n".join(lines), flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def alike(text: str) -> str:
    """What is the same on every machine: words and columns, not figures and kernels."""
    text = re.sub(r"^\S+-amd64$", "KERNEL", text, flags=re.MULTILINE)
    return re.sub(r"[\s.\d]+", " ", text).strip()


@pytest.mark.qemu
@pytest.mark.guest
def test_the_session_is_what_one_sees(short_path: Path) -> None:
    (short_path / "corral").write_text(f'#!/bin/sh\nexec {sys.executable} -m corral.cli "$@"\n')
    (short_path / "corral").chmod(0o755)
    assert len(session()) >= 7
    with corrald.running(short_path) as daemon:
        environment = {**os.environ, "PATH": f"{short_path}:{os.environ['PATH']}", "CORRAL_SOCKET": str(daemon.socket)}
        environment.pop("CORRAL_URI", None)
        for command, output in session():
            done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=100)
            assert (done.returncode, alike(done.stdout)) == (0, alike(output)), (command, done.stdout, done.stderr)
        example = README[README.index("    import asyncio, corral") : README.index("Every call can be cancelled")]
        script = [sys.executable, "-c", textwrap.dedent(example)]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert re.match(r"Linux .*\n\nshutdown|Linux .*\n\nstopped", done.stdout), done.stdout
