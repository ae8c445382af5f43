"""Our library and our commands run the whole life of a domain against Debian's real libvirtd."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import corral
from corral.client.host import Host
from corral.errors import CorralError, NoDomain, NoSupport, OperationDenied, OperationInvalid
from labs import libvirtd
from labs.libvirtd import Libvirtd

pytestmark = pytest.mark.clients

DOCUMENT = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type machine='q35'>hvm</type></os>
  <devices>
    <console type='pty'/>
    <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirtd]:
    with tempfile.TemporaryDirectory(prefix="cr") as directory, libvirtd.running(Path(directory)) as daemon:
        yield daemon


def virsh(daemon: Libvirtd, *words: str) -> str:
    command = ["virsh", "-q", "-c", daemon.uri, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout.strip()


async def test_what_it_is(daemon: Libvirtd) -> None:
    async with corral.connect(daemon.uri) as host:
        assert (await host.version()).api.startswith("11.") or (await host.version()).api > "9"
        node = await host.node_info()
        assert node.cpus >= 1
        assert node.memory > 1 << 20
        assert "qemu" in await host.domain_types()
        assert await host.hostname() == virsh(daemon, "hostname")


async def test_a_life(daemon: Libvirtd) -> None:
    async with corral.connect(daemon.uri) as host, host.events() as events:
        domain = await host.define(DOCUMENT.format(name="one"), validate=True)
        assert (await domain.state()).name == "shutoff"
        assert await domain.persistent()
        await domain.start(paused=True)
        assert domain.id is not None
        assert (await domain.state()).name == "paused"
        await domain.resume()
        assert (await domain.state()).name == "running"
        assert virsh(daemon, "domstate", "one") == "running"
        info = await domain.info()
        assert (info.vcpus, info.max_memory, info.state) == (1, 65536, "running")
        await domain.suspend()
        await domain.resume()
        await domain.reset()
        kind, picture = await domain.screenshot()
        assert kind.startswith("image/")
        assert picture[:2] == b"P6" or picture[1:4] == b"PNG"
        status = await domain.monitor({"execute": "query-status"})
        assert (status["running"], status["status"]) == (True, "running")
        assert "Server" in await domain.monitor("info vnc", hmp=True)
        await domain.set_autostart(True)
        assert await domain.autostart()
        await domain.set_autostart(False)
        await domain.destroy()
        assert str(await domain.wait_for("shutoff")) == "shutoff (destroyed)"
        await domain.rename("two")
        assert domain.name == "two"
        await domain.undefine()
        assert (await domain.wait_for("gone")).name == "gone"
        seen = []
        async with asyncio.timeout(60):
            async for event in events:
                if event.kind == "lifecycle":
                    seen.append(str(event))
                    if "undefined (removed)" in seen:
                        break
        assert seen[:3] == ["defined (added)", "started (booted)", "suspended (paused)"]
        assert seen[-3:] == ["undefined (renamed)", "defined (renamed)", "undefined (removed)"]
        assert "stopped (destroyed)" in seen


async def test_its_threads_and_its_memory_have_their_places(daemon: Libvirtd) -> None:
    async with corral.connect(daemon.uri) as host:
        domain = await host.create(DOCUMENT.format(name="placed").replace("<os>", "<iothreads>1</iothreads><os>"))
        tuning = domain.tuning
        (anywhere,) = await tuning.vcpu_pins()
        assert await tuning.emulator_pin() == anywhere
        last = max(anywhere)
        await tuning.pin_vcpu(0, {last})
        await tuning.pin_emulator({last})
        await tuning.add_iothread(3)
        await tuning.pin_iothread(3, {last})
        await tuning.tune_iothread(3, {"poll_max_ns": 1000, "thread_pool_max": 8})
        assert await tuning.vcpu_pins() == [{last}]
        assert await tuning.emulator_pin() == {last}
        assert {each.number: each.cpus for each in await tuning.iothreads()} == {1: anywhere, 3: {last}}
        assert virsh(daemon, "vcpupin", "placed", "--live").split()[-1] == str(last)
        await tuning.remove_iothread(3)
        assert [each.number for each in await tuning.iothreads()] == [1]
        assert await tuning.numa() == ("strict", "")
        await domain.destroy()


async def test_a_transient_domain_ends_with_its_connection(daemon: Libvirtd) -> None:
    async with corral.connect(daemon.uri) as watcher, watcher.events("lifecycle") as events:
        async with corral.connect(daemon.uri) as host:
            domain = await host.create(DOCUMENT.format(name="brief"), autodestroy=True)
            assert not await domain.persistent()
        async with asyncio.timeout(60):
            while str(await anext(events)) != "stopped (destroyed)":
                pass
        with pytest.raises(NoDomain):
            await watcher.domain("brief")


async def test_errors_are_its_own(daemon: Libvirtd) -> None:
    async with corral.connect(daemon.uri) as host:
        with pytest.raises(NoDomain, match="no domain with matching name 'none'"):
            await host.domain("none")
        with pytest.raises(CorralError, match="tag mismatch"):
            await host.define("<domain type='qemu'><name></domain>")
        with pytest.raises(CorralError, match="missing name"):
            await host.define("<domain type='qemu'><name/></domain>")
        domain = await host.define(DOCUMENT.format(name="still"))
        with pytest.raises(OperationInvalid, match="not running"):
            await domain.destroy()
        with pytest.raises(OperationInvalid):
            await domain.console()
        with pytest.raises(CorralError, match="agent"):
            await domain.start()
            await domain.agent("guest-ping")
        await domain.destroy()
        await domain.undefine()
        with pytest.raises(NoSupport):
            await host.report()
        assert (await host.call("connect_get_type")).type == "QEMU"  # the connection is unharmed


async def test_more_calls_at_once_than_it_takes(daemon: Libvirtd) -> None:
    """libvirtd reads no further while five calls of a client are under way; ours wait in the socket."""
    async with corral.connect(daemon.uri) as host:
        answers = await asyncio.gather(*(host.call("connect_get_type") for _ in range(500)))
        assert len(answers) == 500


async def test_a_read_only_connection_changes_nothing(daemon: Libvirtd) -> None:
    async with corral.connect(daemon.uri, readonly=True) as host:
        assert await host.domains() is not None
        with pytest.raises(OperationDenied):
            await host.define(DOCUMENT.format(name="no"))


def command(daemon: Libvirtd, *words: str, stdin: bytes = b"", status: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "corral.cli", *words, "--connect", daemon.uri]
        if "--" not in words
        else [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, *words],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == status, (words, result.stdout, result.stderr)
    return result.stdout.decode() if status == 0 else result.stderr.decode()


@pytest.mark.guest
@pytest.mark.qemu
def test_the_commands_with_a_guest(daemon: Libvirtd) -> None:
    try:
        said = command(
            daemon, "run", "tiny", "--name", "web", "--cpus", "2", "--memory", "256M", "--accel", "tcg", "--wait"
        )
        assert said.startswith(
            f"web is running (2 vCPUs, 256 MiB); reach it with: corral -c '{daemon.uri}' console web"
        )
        rows = json.loads(command(daemon, "ps", "--format", "json"))
        assert [(row["name"], row["state"], row["vcpus"]) for row in rows] == [("web", "running", 2)]
        assert command(daemon, "exec", "web", "--", "nproc") == "2\n"
        assert command(daemon, "exec", "-i", "web", "--", "sh", "-c", "tr a-z A-Z", stdin=b"hello") == "HELLO"
        assert "error\n" in command(daemon, "exec", "web", "--", "sh", "-c", "echo error >&2; exit 7", status=7)
        until = time.monotonic() + 60  # its network comes up beside the agent
        while "10.0.2.15" not in (listed := command(daemon, "ps", "-A")):
            assert time.monotonic() < until, listed
        until = time.monotonic() + 60  # it ends when the guest has been silent for a second
        while "Linux" not in (shown := command(daemon, "console", "web", stdin=b"\nuname\n")):
            assert time.monotonic() < until, shown
        assert "already exists" in command(daemon, "run", "tiny", "--name", "web", status=1)
        assert json.loads(command(daemon, "show", "web", "--format", "json"))["name"] == "web"
        command(daemon, "pause", "web")
        assert "paused" in command(daemon, "ps")
        command(daemon, "resume", "web")
        command(daemon, "restart", "web")
        command(daemon, "stop", "web")
        assert "off" in command(daemon, "ps", "-a")
        assert "only Corral's own daemon" in command(daemon, "logs", "web", status=1)
    finally:
        command(daemon, "rm", "-f", "web")
    assert "web" not in command(daemon, "ps", "-a")


@pytest.mark.qemu
@pytest.mark.slow
async def test_a_device_that_the_guest_keeps_is_not_said_to_be_gone(daemon: Libvirtd) -> None:
    """libvirtd's call succeeds when it has waited long enough; without a system nobody lets go."""
    async with corral.connect(daemon.uri) as host:
        domain = await host.define(DOCUMENT.format(name="kept"))
        await domain.start()
    command(daemon, "nic", "add", "kept", "--mac", "52:54:00:00:00:01")
    command(daemon, "nic", "rm", "kept", status=1)
    assert "52:54:00:00:00:01" in command(daemon, "nic", "ls", "kept")
    command(daemon, "rm", "--force", "kept")


def test_a_run_that_fails_late_leaves_nothing(daemon: Libvirtd, tmp_path: Path) -> None:
    """A disk was made and the machine defined when QEMU finds that there is no such memory."""
    image = tmp_path / "late.raw"
    image.write_bytes(bytes(1 << 20))
    choices = ["--name", "late", "--accel", "tcg", "--disk", "1G"]
    assert "memory" in command(daemon, "run", str(image), *choices, "--memory", "900T", status=1)
    assert "late" not in command(daemon, "ps", "-aq")
    assert not list(daemon.socket.parent.parent.rglob("late*.qcow2"))
    try:
        command(daemon, "run", str(image), *choices, "--memory", "64M")  # its name and its disk's are free
        assert [path.name for path in daemon.socket.parent.parent.rglob("late*.qcow2")] == ["late.qcow2"]
    finally:
        command(daemon, "rm", "-f", "--disks", "late")
    assert image.exists()


async def test_the_library_with_no_uri_and_no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_URI", "qemu+unix:///system?socket=/nowhere")
    with pytest.raises(CorralError, match="no daemon listens at /nowhere"):
        await Host.open()
