"""How a signal ends a command: by its own clearing up, also when it comes twice at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

BODY = """
import asyncio, os
from corral.cli.target import run

async def work():
    try:
        print("begun", flush=True)
        await asyncio.sleep(60)
    finally:
        {clearing}
        print("cleared up", flush=True)

run(work())
"""


def begun(number: signal.Signals, clearing: str) -> subprocess.Popen[str]:
    """The body in a process for which the signal is not ignored, as nohup has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", BODY.format(clearing=clearing)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_and_its_echo(number: signal.Signals) -> None:
    """As timeout(1) sends it: to the program, and to its group."""
    with begun(number, f"os.kill(os.getpid(), {number:d}); await asyncio.sleep(0.1)") as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == ("cleared up\n", "", 128 + number)


def test_a_second_one_ends_at_once() -> None:
    with begun(signal.SIGTERM, "await asyncio.sleep(60)") as process:
        until = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < until:
            process.terminate()
            time.sleep(0.2)
        output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("", -signal.SIGTERM)
