"""virsh's words from our daemon, compared with those from a real libvirtd: command by command, with the exit status.

Where our line goes on after libvirtd's, with what to do about it, that is as good as the same.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

#: Each command with what it printed, and its exit status as the last line.
Said = list[tuple[str, list[str]]]


def said(
    uri: str,
    table: str,
    directory: Path,
    *,
    within: Sequence[str] = (),
    wash: Callable[[str], str] = lambda text: text,
) -> Said:
    """What virsh says to each line of a table; DIR stands for a directory, and a line that begins with `!` is a command
    of the host's. `wash` takes out what differs from run to run.
    """
    found = []
    for line in table.strip().splitlines():
        command = shlex.split(line.replace("DIR", str(directory)))
        words = command[1:] if command[0] == "!" else ["virsh", "-c", uri, *command]
        done = subprocess.run(
            [*within, *words],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
        found.append((line, lines(done, directory, wash)))
    return found


def lines(
    done: subprocess.CompletedProcess[str], directory: Path, wash: Callable[[str], str] = lambda text: text
) -> list[str]:
    """The lines that a command printed, but for the empty ones, and its status."""
    output = wash((done.stdout + done.stderr).replace(str(directory), "DIR"))
    return [*(line.rstrip() for line in output.splitlines() if line.strip()), f"status {done.returncode}"]


def compare(ours: Said, theirs: Said, better: Mapping[str, str] | None = None) -> None:
    """Fail with the commands to which the two say different things.

    `better`: the beginning of what libvirtd says, and of what we rightly say instead.
    """
    differing = "\n".join(
        f"$ virsh {command}\n  ours: {own}\n  libvirtd: {other}"
        for (command, own), (_, other) in zip(ours, theirs, strict=True)
        if not _agree(own, other, better or {})
    )
    if differing:
        pytest.fail(differing, pytrace=False)


def _agree(ours: list[str], theirs: list[str], better: Mapping[str, str]) -> bool:
    text = " ".join(theirs)
    for other, own in better.items():
        if text.startswith(other):
            return " ".join(ours).startswith(own)
    return len(ours) == len(theirs) and all(
        one == other or one.startswith(f"{other}; ") for one, other in zip(ours, theirs, strict=True)
    )
