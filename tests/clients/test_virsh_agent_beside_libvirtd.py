"""virsh's commands for a guest's agent, its sleep and its cables: the same against our daemon and a real libvirtd.

Both run the same tiny guest. Compared are output and exit status with the machine off, without a channel for an agent,
with nobody at it, with an agent, with one that is silent, with the guest asleep and paused. Where our message goes on
after libvirtd's, with what to do about it, that is as good as the same.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.clients.beside import Said, compare, lines
from tests.clients.test_virsh_agent import DISK, NAME, PING, Virsh, until

from corral.guests import tiny
from labs import corrald, libvirtd

pytestmark = [
    pytest.mark.clients,
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.skipif(libvirtd.missing() is not None, reason=str(libvirtd.missing())),
]

MAC = "52:54:00:12:34:56"
CLOCK = r"Time: \S+( \S+)?"
#: A machine without a guest, with and without a channel for an agent.
EMPTY = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{channel}</devices></domain>"""
CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
NAMES = {"dumb": "", "deaf": CHANNEL}
PM = "<pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='no'/></pm>"


#: All commands that need the guest, for machines that cannot answer them.
EVERY = """
domifaddr {0}
domifaddr {0} --source lease
domifaddr {0} --source agent
domifaddr {0} --source arp
domifaddr {0} --source nothing
domfsinfo {0}
domfsfreeze {0}
domfsfreeze {0} /mnt
domfsthaw {0}
domfsthaw {0} /mnt
domfstrim {0}
domfstrim {0} --mountpoint /mnt
domtime {0}
domtime {0} --now
domtime {0} --sync
domtime {0} --time 5
guestinfo {0}
guestinfo {0} --os
guestinfo {0} --load
set-user-password {0} root word
set-user-password {0} root word --encrypted
dompmsuspend {0} mem
dompmsuspend {0} disk
dompmsuspend {0} hybrid
dompmsuspend {0} nothing
dompmwakeup {0}
qemu-agent-command {0} {{"execute":"guest-ping"}}
qemu-agent-command {0} {{"execute":"guest-ping"}} --timeout 1
qemu-agent-command {0} --pretty {{"execute":"guest-ping"}} --async
qemu-agent-command {0} nonsense
domhostname {0}
domhostname {0} --source agent
domhostname {0} --source lease
guestvcpus {0}
guestvcpus {0} --cpulist 1 --disable
get-user-sshkeys {0} root
set-user-sshkeys {0} root --reset
guest-agent-timeout {0}
guest-agent-timeout {0} --timeout 5
guest-agent-timeout {0} --timeout -3
shutdown {0} --mode agent
reboot {0} --mode agent
"""


#: What an agent answers; a line that begins with `!` runs in the guest.
LIVE = """
domtime {0} --time 1700000000
domtime {0} --now
domtime {0} --sync
domtime {0} --pretty
!mke2fs /dev/vdb >/dev/null && mount -t ext2 /dev/vdb /mnt
domfsinfo {0}
domfsfreeze {0}
domfsfreeze {0}
domfsinfo {0}
domfsthaw {0} /mnt
domfsthaw {0}
domfsthaw {0}
domfsfreeze {0} /mnt
domfsthaw {0} --mountpoint /mnt
domfsthaw {0}
domfsfreeze {0} /nothing
domfsthaw {0}
domfstrim {0}
domfstrim {0} --minimum 1048576
domfstrim {0} --mountpoint /mnt
domfstrim {0} --minimum -1
!umount /mnt
domfsinfo {0}
guestinfo {0}
guestinfo {0} --user
guestinfo {0} --os
guestinfo {0} --timezone --hostname
guestinfo {0} --filesystem
guestinfo {0} --disk
guestinfo {0} --interface
guestinfo {0} --load
guestinfo {0} --os --load
set-user-password {0} root word
set-user-password {0} nobody word
set-user-password {0} root $6$salt$crypted --encrypted
!cat /etc/shadow
domifaddr {0} --source agent
domifaddr {0} --source agent --full
domifaddr {0} --source agent --full --interface eth0
domifaddr {0} --source agent --interface nothing
domifaddr {0} --source arp
domhostname {0}
domhostname {0} --source agent
guestvcpus {0}
guestvcpus {0} --cpulist 1 --disable
guestvcpus {0}
guestvcpus {0} --cpulist 1 --enable
guestvcpus {0} --cpulist 7 --disable
guestvcpus {0} --cpulist 0,1 --disable
get-user-sshkeys {0} root
set-user-sshkeys {0} root --file DIR/key1
get-user-sshkeys {0} root
set-user-sshkeys {0} root --file DIR/key2
get-user-sshkeys {0} root
set-user-sshkeys {0} root --reset --file DIR/key2
get-user-sshkeys {0} root
set-user-sshkeys {0} root --remove --file DIR/key2
get-user-sshkeys {0} root
set-user-sshkeys {0} root --reset
get-user-sshkeys {0} nobody1
set-user-sshkeys {0} nobody1 --file DIR/key1
qemu-agent-command {0} {{"execute":"guest-ping"}}
qemu-agent-command {0} {{"execute":"guest-nothing"}}
qemu-agent-command {0} {{"execute":"guest-get-memory-blocks"}}
qemu-agent-command {0} {{"execute":"guest-file-open","arguments":{{"path":"/nothing"}}}}
qemu-agent-command {0} {{"execute":"guest-ping"}} --block
qemu-agent-command {0} {{"execute":"guest-ping"}} --timeout 0
qemu-agent-command {0} {{"execute":"guest-get-host-name"}} --pretty
qemu-agent-command {0} nonsense
qemu-agent-command {0} {{}}
qemu-agent-command {0} []
guest-agent-timeout {0}
guest-agent-timeout {0} --timeout 2
guest-agent-timeout {0} --timeout -2
guest-agent-timeout {0} --timeout -1
domif-getlink {0} 52:54:00:12:34:56
domif-setlink {0} 52:54:00:12:34:56 down
domif-getlink {0} 52:54:00:12:34:56
!cd /sys/class/net/eth0; for i in $(seq 300); do [ $(cat carrier) = 0 ] && break; usleep 100000; done; cat carrier
domif-setlink {0} 52:54:00:12:34:56 sideways
domif-setlink {0} 52:54:00:12:34:99 down
domif-getlink {0} 52:54:00:12:34:99
domif-setlink {0} nothing down
domif-setlink {0} 52:54:00:12:34:56 up
domif-setlink {0} 52:54:00:12:34:56 down --config
domif-getlink {0} 52:54:00:12:34:56
domif-getlink {0} 52:54:00:12:34:56 --config
domif-setlink {0} 52:54:00:12:34:56 up --config --print-xml
domif-setlink {0} 52:54:00:12:34:56 up --config
!cd /sys/class/net/eth0; for i in $(seq 300); do [ $(cat carrier) = 1 ] && break; usleep 100000; done; cat carrier
"""

#: Paused, and with sleep refused.
PAUSED = """
suspend {0}
domtime {0}
domfsinfo {0}
guestinfo {0}
dompmsuspend {0} mem
dompmwakeup {0}
qemu-agent-command {0} {{"execute":"guest-ping"}}
guestvcpus {0}
resume {0}
dompmsuspend {0} nothing
dompmwakeup {0}
dompmsuspend {0} disk
"""

ASLEEP = """
domstate {0} --reason
domtime {0}
domifaddr {0} --source agent
guestinfo {0}
dompmsuspend {0} mem
suspend {0}
resume {0}
domfsfreeze {0}
qemu-agent-command {0} {{"execute":"guest-ping"}}
dompmwakeup {0}
domstate {0} --reason
dompmwakeup {0}
"""

#: With an agent that is there and says nothing.
SILENT = """
guest-agent-timeout {0} --timeout 1
domtime {0}
domtime {0} --now
domfsinfo {0}
guestinfo {0}
domfsfreeze {0}
set-user-password {0} root x
dompmsuspend {0} mem
qemu-agent-command {0} {{"execute":"guest-ping"}} --timeout 1
domhostname {0}
guestvcpus {0}
domifaddr {0} --source agent
shutdown {0} --mode agent
domstate {0} --reason
guest-agent-timeout {0}
domtime {0}
"""

#: Where we say or do better, by the beginning of what libvirtd says, and of what we say.
BETTER = {
    # libvirtd looks at what QEMU can before it looks whether there is one.
    "error: Operation not supported: cannot set time: qemu doesn't support rtc-reset-reinjection": (
        "error: Requested operation is not valid: domain is not running"
    ),
    "error: internal error: failed to parse JSON": "error: internal error: failed to parse JSON: Expecting value",
    # Without its network driver libvirtd has no leases; we have none because there are no networks.
    "error: Failed to query for interfaces addresses error: no connection driver available": " Name       MAC address",
    # libvirtd does not say why it knows none.
    "error: failed to get hostname error: no hostname found": (
        "error: failed to get hostname error: Guest agent is not responding"
    ),
    "error: failed to get hostname error: no connection driver available": "error: failed to get hostname error: ",
}


class Side(Virsh):
    """virsh connected to one daemon, with the directory of what its domains need."""

    def __init__(self, uri: str, directory: Path) -> None:
        super().__init__(uri)
        self.directory = directory
        directory.mkdir()

    def said(self, table: str, name: str = NAME) -> Said:
        """Each command with what it printed; a line that begins with `!` runs in the guest."""
        found = []
        for line in table.strip().splitlines():
            line = line.format(name)
            if line.startswith("!"):
                found.append((line, self.sh(line[1:]).splitlines()))
            else:
                done = self.run(*words(line.replace("DIR", str(self.directory))))
                found.append((line, lines(done, self.directory, _washed)))
        return found


def _washed(text: str) -> str:
    """Without the time and the guest's load, which are no two times the same."""
    return re.sub(r"(load\.\d+m +): [\d.]+", r"\1: some", re.sub(CLOCK, "Time: now", text))


def words(line: str) -> list[str]:
    """A command's words; JSON keeps its quotes."""
    return [word if word.startswith("{") else "".join(shlex.split(word)) for word in line.split()]


def prepare(side: Side) -> None:
    """Define the three machines, and write the keys."""
    files = asyncio.run(tiny.build())
    texts = {name: EMPTY.format(name=name, uuid=identity(name), channel=channel) for name, channel in NAMES.items()}
    disks = ""
    for target, size in (("vda", 256), ("vdb", 32)):
        path = side.directory / f"{target}.img"
        with path.open("wb") as file:
            file.truncate(size << 20)
        disks += DISK.format(path=path, target=target)
    guest = tiny.document(NAME, tiny=files, cpus=2, uuid=identity(NAME)).to_xml()
    guest = guest.replace("hostname=", "ipv6.disable=1 hostname=")  # whose addresses come at any time
    guest = re.sub(r"(<interface type='user'>)", rf"\1<mac address='{MAC}'/>", guest)
    texts[NAME] = guest.replace("<devices>", f"{PM}<devices>{disks}")
    for name, text in texts.items():
        path = side.directory / f"{name}.xml"
        path.write_text(text)
        side("define", str(path))
    for number in "12":
        (side.directory / f"key{number}").write_text(f"ssh-ed25519 {number * 4} number-{number}\n")


def identity(name: str) -> uuid.UUID:
    """The same on both sides."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, name)


def session(side: Side) -> Said:
    """All commands in all states, each with what it said."""
    prepare(side)
    found = side.said(EVERY)
    for name in (*NAMES, NAME):
        side("start", name)
    for name in NAMES:
        found += side.said(EVERY, name)
    side.booted()
    until(lambda: "10.0.2.15" in side.sh("ip address show eth0"), "the address")
    found += side.said(LIVE)
    found += side.said(PAUSED)
    found += side.said("dompmsuspend {0} mem")
    until(lambda: "pmsuspended" in side("domstate", NAME), "the sleep")  # libvirtd answers before that
    found += side.said(ASLEEP)
    side.booted()
    side.agent("guest-exec", path="/bin/sh", arg=["-c", "sleep 0.3; killall -STOP qemu-ga"])
    ping = ("qemu-agent-command", NAME, PING, "--timeout", "1")
    until(lambda: all(side.run(*ping).returncode for _ in range(3)), "the silence")  # not a slow answer or two
    found += side.said(SILENT)
    for name in (*NAMES, NAME):
        side("destroy", name)
    return found


@pytest.mark.beside
def test_as_with_libvirtd() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="av") as one,
        tempfile.TemporaryDirectory(prefix="av") as other,
        corrald.running(Path(one)) as daemon,
        libvirtd.running(Path(other)) as peer,
        ThreadPoolExecutor(2) as threads,
    ):
        sides = [Side(daemon.uri, Path(one) / "files"), Side(peer.uri, Path(other) / "files")]
        ours, theirs = threads.map(session, sides)
    compare(ours, theirs, BETTER)
    about = {line for command, said in theirs if command.startswith("domfs") for line in said}
    assert "Froze 1 filesystem(s)" in about and any("/mnt" in line for line in about), "there was one to speak of"
