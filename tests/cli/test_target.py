"""How a signal ends a command: by its own clearing up, however often the signal comes at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

BODY = """
import asyncio
from corral.cli.target import run

async def work():
    try:
        print("begun", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep({clearing})
        print("cleared up", flush=True)

run(work())
"""


def begun(clearing: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BODY.format(clearing=clearing)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_and_its_echo(number: signal.Signals) -> None:
    """As timeout(1) sends it: to the program, and to its group."""
    with begun(0.2) as process:
        process.send_signal(number)
        time.sleep(0.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == ("cleared up\n", "", 128 + number)


def test_a_second_one_ends_at_once() -> None:
    with begun(60) as process:
        until = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < until:
            process.terminate()
            time.sleep(0.2)
        output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("", -signal.SIGTERM)
