"""The commands with our own daemon and a guest that boots."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.client import connect, seed
from corral.client.execution import STDIN_LIMIT
from labs import corrald
from labs.corrald import Daemon

pytestmark = [pytest.mark.qemu, pytest.mark.guest]

#: Waits until the guest has found its new disk.
VDA = "for n in $(seq 600); do [ -b /dev/vda ] && break; usleep 100000; done"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="cr") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon


@pytest.fixture
def corral(daemon: Daemon) -> Iterator[Run]:
    def run(*words: str, stdin: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, *words]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=200, check=False)
        assert result.returncode == status, (words, result.stdout, result.stderr)
        return result

    yield run
    for left in run("ps", "-aq").stdout.split():  # a test that failed leaves nothing to the next
        run("rm", "--force", left)


def endless_output_ends(daemon: Daemon) -> None:
    """Output comes while the command runs, and the command ends when nobody reads on, or at Ctrl-C."""
    command = [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, "exec", "web", "--"]
    line = "echo first; exec sleep 1000"
    with subprocess.Popen([*command, "yes"], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(60) == 0
    with subprocess.Popen(
        [*command, "sh", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # which a job in the background has not
    ) as process:
        assert process.stdout and process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGINT)
        assert b"sh in web was told to end" in process.communicate(timeout=60)[1]
        assert process.returncode == 130
    until = time.monotonic() + 60
    left = "ps -o args | grep -cE '^(yes|sleep 1000)'"
    while (found := subprocess.run([*command, "sh", "-c", left], stdout=subprocess.PIPE).stdout) != b"0\n":
        assert time.monotonic() < until, found


def files_come_and_go(corral: Run, folder: Path) -> None:
    """What was brought is what is fetched, with its mode; what fails leaves no file."""
    content = os.urandom(3_000_000)
    (folder / "there").write_bytes(content)
    (folder / "there").chmod(0o750)
    corral("cp", str(folder / "there"), "web:/root/")
    assert corral("exec", "web", "--", "stat", "-c", "%a %s", "/root/there").stdout == "750 3000000\n"
    corral("cp", "web:/root/there", str(folder / "back"))
    assert (folder / "back").read_bytes() == content
    assert "No such file" in corral("cp", "web:/no/such", str(folder / "none"), status=1).stderr
    assert sorted(path.name for path in folder.iterdir()) == ["back", "there"]


def what_the_guest_says(corral: Run, daemon: Daemon) -> None:
    """Of itself, and who says it: an agent older than QEMU 10.0 knows nothing of its guest's load and routes."""
    info = json.loads(corral("info", "web", "--format", "json").stdout)
    assert info["os.id"] == "tiny" and "10.0.2.15" in info["addresses"]
    assert info["load"]["source"] in ("/proc/loadavg", "guest-get-load") and 0 <= info["load"]["one"] < 50
    assert info["routes"]["source"].startswith(("/proc/net/route", "guest-network-get-route"))
    way = {"destination": "0.0.0.0/0", "gateway": "10.0.2.2", "interface": "eth0", "metric": 0}
    assert way in info["routes"]["routes"]
    shown = corral("info", "web").stdout
    assert "0.0.0.0/0 via 10.0.2.2" in shown and f"(by {info['load']['source']})" in shown
    known = json.loads(corral("nic", "addresses", "web", "--format", "json").stdout)
    assert ("10.0.2.15", "agent", "eth0") in {
        (each["address"], each["source"], each["name"]) for each in known["known"]
    }
    assert known["silent"] == {"lease": "knows none", "arp": "knows none"}
    asyncio.run(memory_in_pieces(daemon))


def through_its_agent(corral: Run, folder: Path) -> None:
    """What the guest does with itself, and what it then shows."""
    corral("exec", "web", "--", "date", "-s", "@1000000000")
    assert corral("agent", "time", "web").stdout.startswith("2001-09-09 01:4")
    corral("agent", "time", "web", "--now")
    shown = json.loads(corral("agent", "time", "web", "--format", "json").stdout)["seconds"]
    assert abs(shown - int(corral("exec", "web", "--", "date", "+%s").stdout)) < 20 and abs(shown - time.time()) < 60
    corral("agent", "password", "web", "root", "--encrypted", stdin="$6$salt$crypted\n")
    assert "root:$6$salt$crypted:" in corral("exec", "web", "--", "cat", "/etc/shadow").stdout
    assert "there is no password" in corral("agent", "password", "web", "root", stdin="\n", status=1).stderr
    (folder / "key.pub").write_text("# mine\nssh-ed25519 AAAA one\n")
    assert corral("agent", "keys", "web", "root", "--add", str(folder / "key.pub")).stdout == "ssh-ed25519 AAAA one\n"
    assert corral("exec", "web", "--", "cat", "/root/.ssh/authorized_keys").stdout == "ssh-ed25519 AAAA one"
    gone = corral("agent", "keys", "web", "root", "--remove", "-", stdin="ssh-ed25519 AAAA one\n").stdout
    assert gone == "root in web has no keys\n"
    assert "one of --add" in corral("agent", "keys", "web", "root", "--add", "-", "--remove", "-", status=1).stderr
    with (folder / "disk.raw").open("wb") as image:
        image.truncate(8 << 20)
    corral("disk", "add", "web", str(folder / "disk.raw"))
    corral("exec", "web", "--", "sh", "-c", f"{VDA}; mke2fs /dev/vda && mount -t ext2 /dev/vda /mnt")
    assert corral("agent", "freeze", "web", "/mnt").stdout.startswith("web has 1 file system frozen: corral agent thaw")
    assert corral("exec", "web", "--", "true", status=125).stdout == ""
    assert corral("agent", "thaw", "web").stdout == "web had 1 file system frozen\n"
    for named, frozen in (
        (("/nowhere",), "froze 0 file systems of the 1 named"),
        (("/mnt", "/nowhere"), "froze 1 file"),
    ):
        said = corral("agent", "freeze", "web", *named, status=1).stderr
        assert frozen in said and "none is frozen now" in said and "corral info web" in said
        corral("exec", "web", "--", "touch", "/mnt/written")  # which a frozen agent would refuse
    assert corral("agent", "trim", "web").stdout == "web\n"
    corral("exec", "web", "--", "umount", "/mnt")
    corral("disk", "rm", "web", "vda")


async def memory_in_pieces(daemon: Daemon) -> None:
    async with connect(daemon.uri) as host:
        vm = await host.domain("web")
        blocks = await vm.memory_blocks()
        assert len(blocks) == 2 and all(block.online for block in blocks), blocks
        await vm.set_memory_blocks([block.number for block in blocks], online=True)  # as they are


@pytest.mark.timeout(300)
def test_a_life(corral: Run, daemon: Daemon, short_path: Path) -> None:
    said = corral("run", "tiny", "--name", "web", "--cpus", "2", "--memory", "256M").stdout
    assert said.startswith("web is running (2 vCPUs, 256 MiB); reach it with: corral -c 'qemu+unix:")
    assert "console web, or corral -c" in said
    assert corral("exec", "--wait", "90", "web", "--", "nproc").stdout == "2\n"  # waits for the agent by itself
    assert corral("exec", "-i", "web", "--", "cat", stdin="through\n").stdout == "through\n"
    failed = corral("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (failed.stdout, failed.stderr) == ("out\n", "err\n")
    assert "No such file" in corral("exec", "web", "--", "no-such-program", status=127).stderr
    assert len(corral("exec", "web", "--", "head", "-c", "5000000", "/dev/zero").stdout) == 5_000_000
    assert "corral console" in corral("exec", "-it", "web", "sh", status=1).stderr
    endless_output_ends(daemon)
    files_come_and_go(corral, short_path)
    corral("pause", "web")
    assert "corral resume web" in corral("exec", "web", "--", "true", status=125).stderr
    corral("resume", "web")
    until = time.monotonic() + 60  # its network comes up beside the agent
    while "10.0.2.15" not in (listed := corral("ps", "-A").stdout):
        assert time.monotonic() < until, listed
    what_the_guest_says(corral, daemon)
    through_its_agent(corral, short_path)
    until = time.monotonic() + 60  # it ends when the guest has been silent for a second
    while "Linux" not in (shown := corral("console", "web", stdin="\nuname\n").stdout):
        assert time.monotonic() < until, shown
    assert "char device redirected" in corral("logs", "web").stdout
    assert "already exists" in corral("run", "tiny", "--name", "web", status=1).stderr
    corral("restart", "web")
    assert corral("exec", "--wait", "90", "web", "--", "true").stdout == ""
    corral("stop", "web")
    row = json.loads(corral("ps", "-a", "--format", "json").stdout)[0]
    assert (row["name"], row["state"], row["reason"], row["id"]) == ("web", "shutoff", "shutdown", None)
    corral("rm", "web")
    assert json.loads(corral("ps", "-a", "--format", "json").stdout) == []


@pytest.mark.timeout(300)
def test_much_input_and_directories(corral: Run, short_path: Path) -> None:
    """Input beyond what a command carries, or the guest has room for; directories with modes and links."""
    corral("run", "tiny", "--name", "web", "--rm", "--wait")
    much = "x" * (STDIN_LIMIT + 1)
    assert corral("exec", "-i", "web", "--", "wc", "-c", stdin=much).stdout == f"{STDIN_LIMIT + 1}\n"
    corral("exec", "web", "--", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/tmp")
    assert "No space left on device" in corral("exec", "-i", "web", "--", "cat", stdin=much, status=125).stderr
    assert corral("exec", "web", "--", "ls", "/tmp").stdout == ""
    corral("exec", "web", "--", "umount", "/tmp")
    (short_path / "tree/a/b").mkdir(parents=True)
    (short_path / "tree/a/b/file").write_text("deep")
    (short_path / "tree/a/b/file").chmod(0o640)
    (short_path / "tree/a/link").symlink_to("b/file")
    corral("cp", str(short_path / "tree"), "web:/root/")
    assert corral("exec", "web", "--", "stat", "-c", "%a %u %s", "/root/tree/a/b/file").stdout == "640 0 4\n"
    (short_path / "copies").mkdir()
    corral("cp", "web:/root/tree", str(short_path / "copies"))
    copy = short_path / "copies/tree/a"
    assert ((copy / "link").readlink(), (copy / "b/file").read_text()) == (Path("b/file"), "deep")
    assert (copy / "b/file").stat().st_mode & 0o777 == 0o640
    assert "is there already" in corral("cp", "web:/root/tree", str(short_path / "copies"), status=1).stderr
    assert {path.name for path in short_path.iterdir()} == {"copies", "tree"}
    corral("kill", "web")


def test_stop_while_it_boots(corral: Run) -> None:
    """A guest that has not booted hears no power button; `stop` goes on asking."""
    corral("run", "tiny", "--name", "early")
    corral("stop", "early", "--timeout", "120")
    corral("rm", "early")


def test_console_from_the_first_line_and_nothing_left(corral: Run, daemon: Daemon) -> None:
    options = ["--name", "brief", "--rm", "--console"]
    command = [sys.executable, "-m", "corral.cli", "-c", daemon.uri, "run", "tiny", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        until = time.monotonic() + 60
        while "brief" not in corral("ps", "-q").stdout and time.monotonic() < until:
            time.sleep(0.1)
        corral("stop", "brief")
        process.wait(60)  # the machine's end is the console's
        assert process.stdout
        output = process.stdout.read().decode(errors="replace")
    assert "Power down" in output
    assert process.returncode == 0
    until = time.monotonic() + 60
    while corral("ps", "-aq").stdout and time.monotonic() < until:
        time.sleep(0.1)
    assert corral("ps", "-aq").stdout == ""


def test_a_disk_to_install_to(corral: Run, daemon: Daemon, short_path: Path) -> None:
    """A CD and a new disk of the daemon's own pool, which goes with its machine; a failure leaves none."""
    (short_path / "some.iso").write_bytes(seed.build("x", "#cloud-config\n"))
    corral("run", str(short_path / "some.iso"), "--disk", "1G", "--name", "new", "--firmware", "uefi", "-d")
    disks = {row["target"]: row for row in json.loads(corral("disk", "ls", "new", "--format", "json").stdout)}
    assert (disks["sda"]["device"], disks["vda"]["format"]) == ("cdrom", "qcow2")
    made = Path(disks["vda"]["image"])
    assert made == daemon.state / "images/new.qcow2" and made.exists()
    assert "already" in corral("run", str(short_path / "some.iso"), "--disk", "1G", "--name", "new", status=1).stderr
    assert made.exists()
    corral("rm", "--force", "--disks", "new")
    assert not made.exists() and (short_path / "some.iso").exists()
    too_much = corral("run", str(short_path / "some.iso"), "--disk", "1G", "-m", "300T", status=1).stderr
    assert "so much memory" in too_much and "qemu-system" not in too_much
    assert not list(made.parent.iterdir())


def test_ps_is_fast(daemon: Daemon) -> None:
    """150 ms for the whole process, counted in processor time: the machine may have other things to do."""
    asyncio.run(define_machines(daemon, 20))
    command = [sys.executable, "-m", "corral.cli", "ps", "-a", "-c", daemon.uri]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, capture_output=True, check=True, timeout=100, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert result.stdout.count(b"machine-") == 20
    assert min(times) < 0.15, times


async def define_machines(daemon: Daemon, count: int) -> None:
    async with connect(daemon.uri) as host:
        for number in range(count):
            await host.define(DOCUMENT.format(name=f"machine-{number}"))


DOCUMENT = """\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os></domain>
"""
