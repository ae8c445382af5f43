"""Completion scripts, and what they complete."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Corral
from tests.client.peer import Peer


def completed(uri: str, words: str) -> list[str]:
    """What bash is offered after these words."""
    environment = {
        **os.environ,
        "CORRAL_URI": uri,
        "_CORRAL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - (0 if words.endswith(" ") else 1)),
    }
    command = [sys.executable, "-m", "corral.cli"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert result.stderr == ""
    return result.stdout.split()


def test_words(peer: Peer, uri: str) -> None:
    for name in ("web", "worker", "db"):
        peer.add(name)
    assert completed(uri, "corral st") == ["start", "stop"]
    assert completed(uri, "corral start ") == ["db", "web", "worker"]
    assert completed(uri, "corral start w") == ["web", "worker"]
    assert completed(uri, "corral stop web d") == ["db"]
    assert completed("corral+unix:///session?socket=/nowhere", f"corral console -c {uri} we") == ["web"]
    assert completed(uri, "corral ps --format ") == ["table", "json"]
    assert "--memory" in completed(uri, "corral run --")
    assert completed(uri, "corral events -k agent") == ["agent-lifecycle"]


def test_a_daemon_that_is_not_there(uri: str) -> None:
    assert completed("corral+unix:///session?socket=/nowhere", "corral start ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(corral_: Corral, shell: str) -> None:
    script = corral_("completion", shell).out
    assert "_CORRAL_COMPLETE" in script
    assert "corral" in script


def test_bash_takes_its_script(corral_: Corral, peer: Peer, uri: str, tmp_path: Path) -> None:
    """In a real bash: source the script, press Tab."""
    peer.add("webserver")
    script = tmp_path / "completion"
    script.write_text(corral_("completion", "bash").out)
    (tmp_path / "corral").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m corral.cli "$@"\n')
    (tmp_path / "corral").chmod(0o755)
    body = (
        f'source {script}; COMP_WORDS=(corral start web); COMP_CWORD=2; COMP_LINE="corral start web"; '
        '$(complete -p corral | sed "s/.*-F \\([^ ]*\\) .*/\\1/") corral; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "CORRAL_URI": uri, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", body], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.stdout.strip() == "webserver", result.stderr
