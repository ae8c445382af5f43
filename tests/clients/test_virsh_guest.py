"""A Linux guest steered by unmodified virsh: its shell on the console, its agent, its addresses, reboot, power-off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.guests import tiny
from labs import corrald

pytestmark = [pytest.mark.clients, pytest.mark.guest]

NAME = "penguin"


class Virsh:
    """virsh connected to one daemon."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            ["virsh", "-c", self.uri, *command], capture_output=True, text=True, timeout=60, env=environment
        )

    def __call__(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"virsh {' '.join(command)}: {done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def virsh() -> Iterator[Virsh]:
    guest = asyncio.run(tiny.build())
    with tempfile.TemporaryDirectory(prefix="cg") as directory, corrald.running(Path(directory)) as daemon:
        path = Path(directory) / "guest.xml"
        path.write_text(tiny.document(NAME, tiny=guest, cpus=2).to_xml())
        virsh = Virsh(f"qemu+unix:///session?socket={daemon.socket}")
        virsh("define", str(path))
        yield virsh
        virsh.run("destroy", NAME)


def until(condition: Callable[[], object], what: str, timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
        time.sleep(0.1)


def pinged(virsh: Virsh) -> bool:
    return virsh.run("qemu-agent-command", NAME, '{"execute":"guest-ping"}').returncode == 0


@contextlib.contextmanager
def console(virsh: Virsh) -> Iterator[Callable[..., bytes]]:
    """A person at `virsh console`: type something, wait until something is shown; returns all that was shown."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        ["virsh", "-c", virsh.uri, "console", NAME, "--force"], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)

    def talk(typed: bytes, shown: bytes, seconds: float = 60) -> bytes:
        said = b""
        os.write(master, typed)
        deadline = time.monotonic() + seconds
        while shown not in said:
            assert time.monotonic() < deadline, said
            if select.select([master], [], [], 0.2)[0]:
                said += os.read(master, 4096)
        return said

    try:
        yield talk
    finally:
        os.write(master, b"\x1d")
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            os.close(master)


@pytest.mark.timeout(300)
def test_a_guest_from_start_to_power_off(virsh: Virsh) -> None:
    virsh("start", NAME)
    until(lambda: pinged(virsh), "the guest's agent")
    assert virsh("domhostname", NAME) == NAME
    until(lambda: "10.0.2.15/24" in virsh("domifaddr", NAME, "--source", "agent"), "the guest's address")
    info = json.loads(virsh("qemu-agent-command", NAME, '{"execute":"guest-get-vcpus"}'))["return"]
    assert len(info) == 2

    with console(virsh) as talk:
        talk(b"", b"Escape character is ^]")

        def prompted() -> bool:
            with contextlib.suppress(AssertionError):
                return bool(talk(b"\r", b"# ", 1))
            return False

        until(prompted, "the shell's prompt")  # what is typed before virsh has made the terminal raw is lost
        talk(b"touch /run/before\r", b"# ")
        assert b"seven 7" in talk(b"echo seven $((3 + 4))\r", b"seven 7")
        assert b"cpus 2" in talk(b"echo cpus $(nproc)\r", b"cpus 2")

    opening = '{"execute":"guest-file-open","arguments":{"path":"/run/before"}}'
    until(lambda: virsh.run("qemu-agent-command", NAME, opening).returncode == 0, "the file in the guest")
    virsh("reboot", NAME, "--mode", "agent")
    until(lambda: "No such file" in virsh.run("qemu-agent-command", NAME, opening).stderr, "the guest after the reboot")
    assert virsh("domstate", NAME) == "running"

    def off() -> bool:
        virsh.run("shutdown", NAME, "--mode", "acpi")  # a guest that is still booting does not feel its button
        time.sleep(2)
        return virsh("domstate", "--reason", NAME) == "shut off (shutdown)"

    until(off, "the power-off")
