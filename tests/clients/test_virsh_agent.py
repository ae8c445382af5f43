"""A guest's agent and its sleep through unmodified virsh: clock, filesystems, facts, keys, S3, S4."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.guests import tiny
from labs import corrald

pytestmark = [pytest.mark.clients, pytest.mark.guest, pytest.mark.timeout(600)]

NAME = "sleeper"
PING = '{"execute":"guest-ping"}'
PM = "<pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='yes'/></pm>"
DISK = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>
  <target dev='{target}' bus='virtio'/></disk>"""


class Virsh:
    """virsh connected to one daemon, and a shell in the guest behind it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        words = ["virsh", "-c", self.uri, *command]
        return subprocess.run(
            words, capture_output=True, text=True, timeout=200, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
        )

    def __call__(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"virsh {' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def fails(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def agent(self, command: str, **arguments: object) -> object:
        message = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(self("qemu-agent-command", NAME, message))["return"]

    def sh(self, script: str) -> str:
        started = self.agent("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
        assert isinstance(started, dict)
        while True:
            status = self.agent("guest-exec-status", **started)
            assert isinstance(status, dict)
            if status["exited"]:
                return base64.b64decode(status.get("out-data", "")).decode()
            time.sleep(0.1)

    def booted(self) -> None:
        until(lambda: self.run("qemu-agent-command", NAME, PING).returncode == 0, "the agent")


def until(condition: Callable[[], object], what: str, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def virsh() -> Iterator[Virsh]:
    guest = asyncio.run(tiny.build())
    with tempfile.TemporaryDirectory(prefix="cs") as name:
        directory = Path(name)
        disks = ""
        for target, size in (("vda", 512), ("vdb", 32)):
            path = directory / f"{target}.img"
            with path.open("wb") as file:
                file.truncate(size << 20)
            disks += DISK.format(path=path, target=target)
        document = tiny.document(NAME, tiny=guest, memory_kib=512 * 1024).to_xml()
        document = document.replace("hostname=", "resume=/dev/vda hostname=").replace(
            "<devices>", f"{PM}<devices>{disks}"
        )
        (directory / "guest.xml").write_text(document)
        with corrald.running(directory) as daemon:
            virsh = Virsh(f"qemu+unix:///session?socket={daemon.socket}")
            virsh("define", str(directory / "guest.xml"))
            assert "domain is not running" in virsh.fails("domtime", NAME)
            virsh("start", NAME)
            assert "QEMU guest agent is not connected" in virsh.fails("domtime", NAME)
            virsh.booted()
            yield virsh


def test_clock(virsh: Virsh) -> None:
    virsh("domtime", NAME, "--time", "1700000000")
    assert int(virsh("domtime", NAME).split()[-1]) in range(1700000000, 1700000060)
    virsh("domtime", NAME, "--now")
    assert abs(int(virsh("domtime", NAME).split()[-1]) - time.time()) < 60


def test_filesystems(virsh: Virsh) -> None:
    virsh.sh("mke2fs /dev/vdb && mount -t ext2 /dev/vdb /mnt")
    assert virsh("domfsinfo", NAME).split()[-4:] == ["/mnt", "vdb", "ext2", "vdb"]
    assert virsh("domfsfreeze", NAME) == "Froze 1 filesystem(s)"
    refused = virsh.fails("domfsfreeze", NAME)
    assert "frozen state" in refused or "has been disabled" in refused  # agents of QEMU 7.2, and of 10.0
    assert "specifying mountpoints is not supported" in virsh.fails("domfsthaw", NAME, "/mnt")
    assert virsh("domfsthaw", NAME) == "Thawed 1 filesystem(s)"
    assert virsh("domfsfreeze", NAME, "/mnt") == "Froze 1 filesystem(s)"
    assert virsh("domfsthaw", NAME) == "Thawed 1 filesystem(s)"
    virsh("domfstrim", NAME)
    virsh.sh("umount /mnt")


def test_facts(virsh: Virsh) -> None:
    facts = dict(line.split(":", 1) for line in virsh("guestinfo", NAME).splitlines())
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    assert facts["os.id"] == "tiny"
    assert facts["hostname"] == NAME == virsh("domhostname", NAME)
    assert facts["timezone.name"] == "UTC"
    assert facts["disk.0.alias"] == "vda"
    if "--load" in virsh("help", "guestinfo"):
        agent = virsh.agent("guest-info")["supported_commands"]
        if any(command["name"] == "guest-get-load" for command in agent):  # of QEMU 9.1 or newer
            assert float(virsh("guestinfo", NAME, "--load").split()[2]) >= 0
        else:
            assert "guest-get-load has not been found" in virsh.fails("guestinfo", NAME, "--load")
    until(lambda: "10.0.2.15/24" in virsh("domifaddr", NAME, "--source", "agent"), "the guest's address")


def test_password(virsh: Virsh) -> None:
    """The guest's own file shows the word, by the salt that the guest chose, and one that came crypted as it came."""

    def shadow() -> str:
        return virsh.sh("cat /etc/shadow").split(":")[1]

    assert shadow() == ""
    virsh("set-user-password", NAME, "root", "one word")
    kind, salt = shadow().split("$")[1:3]
    assert kind == "6"
    assert virsh.sh(f"mkpasswd -m sha512 -S '{salt}' 'one word'").strip() == shadow()
    crypted = "$6$saltsalt$" + "x" * 86
    virsh("set-user-password", NAME, "root", crypted, "--encrypted")
    assert shadow() == crypted
    assert "failed to set user password" in virsh.fails("set-user-password", NAME, "nobody1", "word")
    assert shadow() == crypted


def test_keys(virsh: Virsh, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for key in ("ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"):
        path.write_text(f"{key}\n")
        virsh("set-user-sshkeys", NAME, "root", "--file", str(path))
    assert "AAAA" in virsh.sh("cat /root/.ssh/authorized_keys")
    virsh("set-user-sshkeys", NAME, "root", "--remove", "--file", str(path))
    assert virsh("get-user-sshkeys", NAME, "root") == "ssh-ed25519 AAAA one"
    assert "failed to lookup user" in virsh.fails("get-user-sshkeys", NAME, "nobody1")


def test_sleep_in_memory_and_on_disk(virsh: Virsh) -> None:
    assert "[deep]" in virsh.sh("cat /sys/power/mem_sleep")
    assert "not in suspended state" in virsh.fails("dompmwakeup", NAME)
    virsh("dompmsuspend", NAME, "mem")
    assert virsh("domstate", NAME, "--reason") == "pmsuspended (unknown)"
    assert "domain is not running" in virsh.fails("domtime", NAME)
    assert "domain is pmsuspended" in virsh.fails("resume", NAME)
    virsh("dompmwakeup", NAME)
    assert virsh("domstate", NAME, "--reason") == "running (event wakeup)"
    virsh.booted()
    assert "Waking up from system sleep state S3" in virsh.sh("dmesg")
    virsh("dompmsuspend", NAME, "mem", "--duration", "1")
    until(lambda: virsh("domstate", NAME, "--reason") == "running (event wakeup)", "its end", 20)
    virsh.booted()
    assert virsh.sh("dmesg").count("Waking up from system sleep state S3") == 2

    # A guest that was off has firmware tables of its own again: hibernation is tried on a fresh boot.
    virsh("destroy", NAME)
    virsh("start", NAME)
    virsh.booted()
    kept = virsh.sh("echo kept-$$ >/run/kept; cat /run/kept")
    virsh("dompmsuspend", NAME, "disk")
    assert virsh("domstate", NAME, "--reason") == "shut off (shutdown)"
    virsh("start", NAME)
    virsh.booted()
    assert virsh.sh("cat /run/kept") == kept
    assert "Waking up from system sleep state S4" in virsh.sh("dmesg")
