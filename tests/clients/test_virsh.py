"""Unmodified virsh, and libvirt's own Python binding, run the whole life of a domain against our daemon."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.model.schema import unusable
from labs import corrald

pytestmark = [pytest.mark.clients, pytest.mark.qemu]

DOCUMENT = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
    <interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Virsh:
    """virsh connected to one daemon."""

    uri: str
    directory: Path

    def run(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """One command; whatever comes of it."""
        return subprocess.run(
            ["virsh", "-c", self.uri, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.directory,
            env={**os.environ, "LC_ALL": "C"},
        )

    def __call__(self, *command: str) -> str:
        """One command that must succeed; its output without the empty lines at the end."""
        done = self.run(*command)
        assert done.returncode == 0, f"virsh {' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def error(self, *command: str) -> str:
        """One command that must fail; what it says on standard error."""
        done = self.run(*command)
        assert done.returncode != 0, f"virsh {' '.join(command)} succeeded: {done.stdout}"
        return done.stderr.strip()

    def document(self, name: str) -> str:
        """The path of a file with a domain's document."""
        path = self.directory / f"{name}.xml"
        path.write_text(DOCUMENT.format(name=name))
        return str(path)


@pytest.fixture(scope="module")
def daemon() -> Iterator[corrald.Daemon]:
    with tempfile.TemporaryDirectory(prefix="cv") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def virsh(daemon: corrald.Daemon) -> Virsh:
    return Virsh(f"qemu+unix:///session?socket={daemon.socket}", daemon.state.parent)


@pytest.fixture
def defined(virsh: Virsh, request: pytest.FixtureRequest) -> Iterator[str]:
    """A defined domain with a name of the test's own; whatever is left of it afterwards goes."""
    name = re.sub(r"\W", "-", request.node.name)[:40]
    virsh("define", virsh.document(name))
    yield name
    virsh.run("destroy", name)
    virsh.run("undefine", name)


@pytest.fixture
def running(virsh: Virsh, defined: str) -> str:
    virsh("start", defined)
    return defined


def fields(text: str) -> dict[str, str]:
    """Lines `name:  value`."""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_about_the_connection(virsh: Virsh) -> None:
    version = fields(virsh("version"))
    assert version["Using API"] == f"QEMU {virsh('--version')}"  # what this virsh takes the daemon for: its own
    assert re.fullmatch(r"QEMU \d+\.\d+\.\d+", version["Running hypervisor"])
    assert virsh("hostname") == subprocess.check_output(["hostname"], text=True).strip()
    assert int(fields(virsh("nodeinfo"))["CPU(s)"]) == os.cpu_count()
    assert int(virsh("maxvcpus", "--type", "qemu")) >= 16
    assert virsh("capabilities").startswith("<capabilities>")
    assert "<domainCapabilities>" in virsh("domcapabilities", "--virttype", "qemu")
    assert "Total" in fields(virsh("freecell"))
    for command in ("net-list", "pool-list", "iface-list", "nodedev-list", "secret-list", "nwfilter-list"):
        virsh(command)


def test_define_and_look(virsh: Virsh, defined: str) -> None:
    assert re.search(rf"^ -\s+{defined}\s+shut off$", virsh("list", "--all"), re.MULTILINE)
    assert defined not in virsh("list")
    info = fields(virsh("dominfo", defined))
    assert (info["State"], info["CPU(s)"], info["Max memory"], info["Persistent"], info["Autostart"]) == (
        "shut off",
        "2",
        "32768 KiB",
        "yes",
        "disable",
    )
    uuid = virsh("domuuid", defined)
    assert virsh("domname", uuid) == defined
    assert virsh("domid", defined) == "-"
    assert virsh("domstate", "--reason", defined) == "shut off (unknown)"
    assert f"<uuid>{uuid}</uuid>" in virsh("dumpxml", defined)
    error = virsh.error("dominfo", "nobody")
    assert error == "error: failed to get domain 'nobody'"


def test_documents_validate(virsh: Virsh, running: str) -> None:
    if reason := unusable():
        pytest.skip(reason)
    validate = shutil.which("virt-xml-validate")
    assert validate, "virt-xml-validate comes with libvirt-clients"
    for number, options in enumerate(((), ("--inactive",), ("--security-info", "--inactive"), ("--migratable",))):
        path = virsh.directory / f"validate-{number}.xml"
        path.write_text(virsh("dumpxml", *options, running))
        done = subprocess.run([validate, str(path), "domain"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + path.read_text()


def test_a_running_machine_defined_again(virsh: Virsh, running: str) -> None:
    """`dumpxml | define` of a running machine leaves it startable: what its run wrote is not in the definition."""
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(virsh("dumpxml", running))
        file.flush()
        virsh("define", file.name)
    definition = virsh("dumpxml", "--inactive", running)
    assert "/dev/pts/" not in definition
    assert "<alias" not in definition
    assert " id='" not in definition.splitlines()[0]
    virsh("destroy", running)
    virsh("start", running)
    assert virsh("domstate", running) == "running"


def test_start_pause_stop(virsh: Virsh, defined: str) -> None:
    assert virsh("start", "--paused", defined) == f"Domain '{defined}' started"
    assert virsh("domstate", "--reason", defined) == "paused (user)"
    virsh("resume", defined)
    assert virsh("domstate", "--reason", defined) == "running (unpaused)"
    number = int(virsh("domid", defined))
    assert re.search(rf"^ {number}\s+{defined}\s+running$", virsh("list"), re.MULTILINE)
    virsh("suspend", defined)
    assert virsh("domstate", "--reason", defined) == "paused (user)"
    virsh("resume", defined)
    assert virsh.error("start", defined) == "error: Domain is already active"
    virsh("reset", defined)
    virsh("reboot", defined)
    virsh("shutdown", defined)
    assert virsh("domcontrol", defined) == "ok"
    assert "Job type" in fields(virsh("domjobinfo", defined))
    virsh("destroy", "--graceful", defined)
    assert virsh("domstate", "--reason", defined) == "shut off (destroyed)"
    assert "domain is not running" in virsh.error("destroy", defined)
    virsh("start", defined)
    assert int(virsh("domid", defined)) > number


def test_a_transient_domain_vanishes(virsh: Virsh) -> None:
    path = virsh.document("passing")
    assert virsh("create", path) == f"Domain 'passing' created from {path}"
    assert fields(virsh("dominfo", "passing"))["Persistent"] == "no"
    error = virsh.error("create", path)
    assert "passing" in error
    virsh("destroy", "passing")
    assert "passing" not in virsh("list", "--all")
    assert "failed to get domain" in virsh.error("domstate", "passing")


def test_undefine_and_redefine_while_running(virsh: Virsh, running: str) -> None:
    virsh("undefine", running)
    assert fields(virsh("dominfo", running))["Persistent"] == "no"
    path = Path(virsh.document(running))
    path.write_text(path.read_text().replace("<vcpu>2", f"<uuid>{virsh('domuuid', running)}</uuid><vcpu>4"))
    virsh("define", str(path))
    assert fields(virsh("dominfo", running))["Persistent"] == "yes"
    assert "<vcpu placement='static'>4</vcpu>" in virsh("dumpxml", "--inactive", running)
    assert "<vcpu placement='static'>2</vcpu>" in virsh("dumpxml", running)
    other = virsh.directory / "other.xml"
    other.write_text(path.read_text().replace(running, "another-name"))
    assert "already" in virsh.error("define", str(other))


def test_marks_and_words(virsh: Virsh, defined: str) -> None:
    virsh("autostart", defined)
    assert fields(virsh("dominfo", defined))["Autostart"] == "enable"
    assert defined in virsh("list", "--all", "--autostart", "--name")
    virsh("autostart", "--disable", defined)
    assert defined not in virsh("list", "--all", "--autostart", "--name")
    virsh("desc", "--title", defined, "A short title")
    virsh("desc", defined, "Some more words")
    assert virsh("desc", "--title", defined) == "A short title"
    assert virsh("desc", defined) == "Some more words"
    assert "A short title" in virsh("list", "--all", "--title")
    namespace = "http://example.org/ticket"
    virsh("metadata", defined, namespace, "--key", "t", "--set", "<ticket>7</ticket>")
    assert "7" in virsh("metadata", defined, namespace)
    virsh("metadata", defined, namespace, "--remove")
    assert virsh.run("metadata", defined, namespace).stdout.strip() == ""  # an error only for an older virsh
    virsh("domrename", defined, "renamed")
    assert virsh("domstate", "renamed") == "shut off"
    virsh("domrename", "renamed", defined)


def test_keys_pictures_and_monitor(virsh: Virsh, running: str) -> None:
    virsh("send-key", running, "KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_DELETE")
    virsh("inject-nmi", running)
    virsh("screenshot", running, "shot.png")
    assert (virsh.directory / "shot.png").read_bytes()[:4] in (b"\x89PNG", b"P6\n7", b"P6\n6")
    answer = json.loads(virsh("qemu-monitor-command", running, '{"execute":"query-name"}'))
    assert answer["return"] == {"name": running}
    assert "VM status: running" in virsh("qemu-monitor-command", "--hmp", running, "info status")
    assert "QEMU guest agent is not connected" in virsh.error("qemu-agent-command", running, '{"execute":"guest-ping"}')
    assert "QEMU guest agent is not connected" in virsh.error("domhostname", running)
    assert re.fullmatch(r"vnc://127\.0\.0\.1:\d+", virsh("domdisplay", running))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", virsh("vncdisplay", running))
    assert virsh("ttyconsole", running).startswith("/dev/pts/")


def test_figures(virsh: Virsh, running: str) -> None:
    stats = dict(line.strip().split("=", 1) for line in virsh("domstats", running).splitlines()[1:])
    assert (stats["state.state"], stats["vcpu.current"], stats["balloon.maximum"]) == ("1", "2", "32768")
    assert int(stats["cpu.time"]) > 0 and stats["block.0.name"] == "sda"
    assert "rss" in virsh("dommemstat", running)
    assert len(re.findall(r"^VCPU:", virsh("vcpuinfo", running), re.MULTILINE)) == 2
    assert "cpu_time" in virsh("cpu-stats", "--total", running)
    counts = [line.split() for line in virsh("vcpucount", running).splitlines()]
    assert counts == [[which, whose, "2"] for which in ("maximum", "current") for whose in ("config", "live")]
    assert "sda rd_req" in virsh("domblkstat", running, "sda")
    assert virsh("domblklist", running)
    assert "52:54:00:12:34:56" in virsh("domiflist", running)
    assert virsh("domifaddr", running).splitlines()[0].split() == ["Name", "MAC", "address", "Protocol", "Address"]


def test_events_as_they_happen(virsh: Virsh, defined: str, tmp_path: Path) -> None:
    log, path = tmp_path / "heard", tmp_path / "again.xml"
    path.write_text(virsh("dumpxml", defined))
    command = ["virsh", "-c", virsh.uri, "event", defined, "--event", "lifecycle", "--loop"]

    def heard() -> list[str]:
        return [line.strip().partition("': ")[2] for line in log.read_text().splitlines()]

    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as watcher:
        try:
            end = time.monotonic() + 60
            while not heard():  # it does not say when it listens
                virsh("define", str(path))
                assert time.monotonic() < end
            for change in ("start", "suspend", "resume", "destroy"):
                virsh(change, defined)
            while "Stopped Destroyed" not in heard():
                assert time.monotonic() < end, heard()
                time.sleep(0.05)
        finally:
            watcher.terminate()
    assert [line for line in heard() if line != "Defined Updated"] == [
        "Resumed Unpaused",
        "Started Booted",
        "Suspended Paused",
        "Resumed Unpaused",
        "Shutdown Finished after host request",
        "Stopped Destroyed",
    ]


def test_a_console_is_a_terminal(virsh: Virsh, running: str) -> None:
    """SeaBIOS says its name on the serial port only if told to; what the guest is sent, QEMU takes. The stream itself
    is what is tested: connected, escaped from, and free again."""
    for _ in range(2):
        master, slave = os.openpty()
        console = subprocess.Popen(
            ["virsh", "-c", virsh.uri, "console", running], stdin=slave, stdout=slave, stderr=slave, close_fds=True
        )
        os.close(slave)
        said = b""
        until = time.monotonic() + 60
        while b"Escape character" not in said and time.monotonic() < until:
            if select.select([master], [], [], 0.1)[0]:
                said += os.read(master, 4096)
        assert b"Connected to domain" in said
        until = time.monotonic() + 60
        while console.poll() is None and time.monotonic() < until:
            os.write(master, b"\x1d")  # what is typed before virsh has made the terminal raw is lost
            with contextlib.suppress(subprocess.TimeoutExpired):
                console.wait(0.2)
        assert console.returncode == 0
        os.close(master)


def test_a_qemu_killed_from_outside(virsh: Virsh, daemon: corrald.Daemon, running: str) -> None:
    uuid = virsh("domuuid", running)
    (pid,) = [
        pid for pid in corrald.machines(daemon.state) if uuid in Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    ]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while (state := virsh("domstate", "--reason", running)) != "shut off (crashed)" and time.monotonic() < until:
        time.sleep(0.02)
    assert state == "shut off (crashed)"


def test_read_only(virsh: Virsh, defined: str) -> None:
    assert virsh("-r", "domstate", defined) == "shut off"
    assert "read only access prevents virDomainCreate" in virsh.error("-r", "start", defined)
    assert virsh("domstate", defined) == "shut off"


def test_bad_documents(virsh: Virsh) -> None:
    path = Path(virsh.document("bad"))
    good = path.read_text()
    before = virsh("list", "--all", "--uuid")
    for broken in (
        "<domain",
        good.replace("<vcpu>2", "<vcpu>-2"),
        good.replace("<memory unit='MiB'>32", "<memory unit='MiB'>-32"),
        good.replace("machine='q35'", "machine='pc-nonsense'"),
        good.replace("<devices>", "<devices><nonsense/>"),
        good.replace("<name>bad", "<name>b/ad"),
        good.replace("type='qemu'", "type='xen'"),
    ):
        path.write_text(broken)
        assert virsh.error("define", str(path)).startswith("error: Failed to define domain")
    assert virsh("list", "--all", "--uuid") == before


def test_the_python_binding(virsh: Virsh) -> None:
    script = Path(__file__).with_name("life.py")
    done = subprocess.run(["/usr/bin/python3", str(script), virsh.uri], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["type"], seen["lib"], seen["secure"], seen["alive"]) == ("QEMU", 11003000, 1, 1)
    assert seen["empty"] == [[]] * 8
    assert seen["off"] == [0, 1, -1, [5, 0], 0, "hvm"]
    assert seen["twice"] == [42, "Domain not found: no domain with matching name 'nobody'"]
    assert seen["metadata"][0] == "A title" and ">7<" in seen["metadata"][1] and seen["metadata"][2] == 1
    assert seen["no_metadata"][0] == 80
    assert seen["not_running"] == [55, "Requested operation is not valid: domain is not running"]
    assert seen["paused"][0] == [3, 1] and seen["paused"][2] == 1
    assert seen["running"] == [1, 5]
    assert seen["again"][0] == 55
    assert seen["xml_id"] and not seen["xml_inactive"]
    assert seen["monitor_answer"]["status"] == "running" and "running" in seen["hmp"]
    assert seen["no_agent"][0] == seen["agent"][0] == 86
    assert seen["mime"] in ("image/png", "image/x-portable-pixmap") and seen["picture"][1]
    assert seen["destroyed"] == [[5, 2], -1]
    assert seen["gone"][0] == 42
    assert (seen["transient"], seen["left"]) == ([0, 1], [])
    assert [2, 0] in seen["events"] and [5, 1] in seen["events"]
    assert "RESUME" in seen["monitor"]
    assert seen["readonly"] == [29, "operation forbidden: read only access prevents virDomainDefineXML"]
