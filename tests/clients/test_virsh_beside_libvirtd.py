"""What virsh shows of our daemon has the shape of what it shows of Debian's libvirtd: same words, same exit status.

Both run the same domains. Figures, image paths and the width of columns are made equal before the comparison; commands
in TABLE must then agree to the letter. What rightly differs (what this host lacks, what is not built yet) is not in it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from labs import corrald, libvirtd

REASON = libvirtd.missing()
pytestmark = [
    pytest.mark.clients,
    pytest.mark.qemu,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]

DOCUMENT = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <title>A title</title>
  <description>Some words</description>
  <metadata><t:ticket xmlns:t="http://example.org/ticket">7</t:ticket></metadata>
  <memory unit='MiB'>32</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{image}'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
  </devices>
</domain>
"""
UUIDS = {"on": "11111111-2222-3333-4444-555555555555", "off": "11111112-2222-3333-4444-555555555555"}

#: By what a reader would look for; each line is one virsh command.
TABLE = {
    "one domain": """
        domid on
        domid off
        domuuid on
        domname 11111111-2222-3333-4444-555555555555
        domstate on --reason
        domcontrol on
        domcontrol off
        desc on
        desc off --title
        metadata on http://example.org/ticket
        metadata on http://example.org/nothing
        domblklist on
        domblklist on --details
        domblklist off --inactive
        domiflist on
        domiflist off
        domif-getlink on 52:54:00:12:34:56
        domif-getlink on nothing
        iothreadinfo on
        snapshot-list on
        snapshot-info on --current
        snapshot-current on
        checkpoint-list off
        checkpoint-info on nothing
        dommessages off
    """,
    "processors and jobs": """
        vcpucount on
        vcpucount off
        vcpucount on --live --active
        vcpuinfo off
        vcpupin on
        cpu-stats off
        domjobinfo on
        domjobinfo off
        domjobinfo on --completed
        domjobabort on
        domjobabort off
    """,
    "disks and interfaces": """
        domblkinfo on vda
        domblkinfo off vda
        domblkinfo on --all
        domblkinfo on nothing
        domblkstat on vda
        domblkstat on vda --human
        domblkstat on
        domblkstat on nothing
        domblkstat off vda
        domblkerror on
        domblkerror off
        domifstat on vnet0
        domifaddr off
        domifaddr on --source agent
        domifaddr on --source arp
        dommemstat off
        blockjob on vda
        blockjob on vda --info
    """,
    "what is shown of the guest": """
        domdisplay on
        domdisplay on --all
        domdisplay on --type spice
        domdisplay off
        domdisplay on --include-password
        domdisplay off --all
        domdisplay-reload off --type nothing
        vncdisplay on
        vncdisplay off
        ttyconsole on
        ttyconsole off
        domhostname on
        domhostname off
        qemu-agent-command off x
        qemu-monitor-command off info
    """,
    "the host": """
        nodeinfo
        nodememstats
        nodememstats 0
        nodecpustats
        nodecpustats --percent
        nodecpustats 0
        nodecpumap
        freecell
        freecell --all
        maxvcpus qemu
        maxvcpus xen
        sysinfo
        version
        version --daemon
        hostname
        event --list
    """,
    "lists": """
        list
        list --all
        list --inactive
        list --id
        list --all --id
        list --all --name
        list --all --uuid
        list --all --name --uuid
        list --all --title
        list --all --managed-save
        list --all --persistent
        list --all --transient
        list --all --with-snapshot
        list --all --without-snapshot
        list --all --with-checkpoint
        list --all --without-checkpoint
        list --all --with-managed-save
        list --all --without-managed-save
        list --all --autostart
        list --all --no-autostart
        list --state-running
        list --all --state-running
        list --all --state-paused
        list --all --state-shutoff
        list --all --state-other
    """,
    "no such domain": """
        dominfo nobody
        domid nobody
        domuuid nobody
        domname nobody
        domstate nobody
        dumpxml nobody
        start nobody
        destroy nobody
        shutdown nobody
        reboot nobody
        reset nobody
        suspend nobody
        resume nobody
        undefine nobody
        console nobody
        screenshot nobody
        managedsave nobody
        edit nobody
        domdisplay nobody
        domblklist nobody
        domiflist nobody
        domstats nobody
        vcpucount nobody
        autostart nobody
        desc nobody
        domname 11111111-2222-3333-4444-555555555559
        setvcpus nobody 1
        domrename nobody x
    """,
    "not in this state": """
        start on
        resume on
        suspend off
        resume off
        shutdown off
        reboot off
        reset off
        destroy off
        inject-nmi off
        send-key off 28
        screenshot off
        console off
        managedsave-remove off
        domrename on other
        domrename off on
        domrename off off
        detach-disk on nothing
        autostart on
        autostart on --disable
        define /nothing
        create /nothing
        undefine off --nvram --keep-nvram
    """,
}


@dataclass(frozen=True)
class Side:
    """One daemon and the directory of its domains' images."""

    uri: str
    directory: Path

    def run(self, command: str) -> tuple[int, str]:
        """Exit status and all that one command says."""
        done = subprocess.run(
            ["virsh", "-c", self.uri, *shlex.split(command)],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
        return done.returncode, (done.stdout + done.stderr).rstrip()

    def shape(self, command: str) -> tuple[int, list[str]]:
        """The same without what may differ: figures, paths of ours, widths."""
        status, said = self.run(command)
        said = re.sub(r"\d+(\.\d+)?", "9", said.replace(str(self.directory), "DIR"))
        return status, [re.sub(r"[ \t-]+", " ", line).strip() for line in said.splitlines()]


def _populate(side: Side) -> None:
    for name, uuid in UUIDS.items():
        image = side.directory / f"{name}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M"], check=True)
        document = side.directory / f"{name}.xml"
        document.write_text(DOCUMENT.format(name=name, uuid=uuid, image=image))
        assert side.run(f"define {document}")[0] == 0
    assert side.run("start on") == (0, "Domain 'on' started")


@pytest.fixture(scope="module")
def sides(daemon: corrald.Daemon) -> Iterator[tuple[Side, Side]]:
    with tempfile.TemporaryDirectory(prefix="cl") as directory, libvirtd.running(Path(directory)) as other:
        ours, theirs = Side(daemon.uri, daemon.state.parent), Side(other.uri, Path(directory))
        for side in (ours, theirs):
            _populate(side)
        yield ours, theirs
        theirs.run("destroy on")


@pytest.mark.parametrize("group", TABLE)
@pytest.mark.beside
def test_same_shape(sides: tuple[Side, Side], group: str) -> None:
    commands = [line.strip() for line in TABLE[group].strip().splitlines()]
    ours, theirs = sides
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda side: [side.shape(command) for command in commands], sides))
    different = [
        f"virsh {command}\n  ours:   {ours.run(command)}\n  theirs: {theirs.run(command)}"
        for command, our, their in zip(commands, *answers, strict=True)
        if our != their
    ]
    assert not different, "\n".join(different)


def test_statistics_have_libvirts_names_and_facts(sides: tuple[Side, Side]) -> None:
    """Of a running domain and of one that is off; what libvirtd has beyond ours is named here."""
    beyond = (
        r"vcpu\.\d+\.(wait|\w+\.(sum|cur|max))"
        r"|block\.\d+\.backingIndex|dirtyrate\."
    )
    for name in UUIDS:
        ours, theirs = (
            dict(line.strip().split("=", 1) for line in side.run(f"domstats {name}")[1].splitlines()[1:])
            for side in sides
        )
        missing = {each for each in theirs.keys() - ours.keys() if not re.match(beyond, each)}
        if name == "off":  # a control group outlives its machine, and libvirtd still reads it
            missing -= {"cpu.time", "cpu.user", "cpu.system"}
        assert not missing
        for fact in ("state.state", "balloon.maximum", "vcpu.maximum", "block.count", "block.0.capacity"):
            assert ours[fact] == theirs[fact], fact


def test_dominfo_says_what_libvirtd_says(sides: tuple[Side, Side]) -> None:
    """Labels of a security driver and taint messages are all that we have not."""
    for name in UUIDS:
        ours, theirs = (side.shape(f"dominfo {name}") for side in sides)
        theirs = (theirs[0], [line for line in theirs[1] if not re.match(r"Security|Messages|CPU time", line)])
        assert (ours[0], [line for line in ours[1] if not line.startswith("CPU time")]) == theirs


def test_vcpus_are_where_the_kernel_put_them(sides: tuple[Side, Side]) -> None:
    ours, theirs = (re.findall(r"^(\w[^:]*):\s+(\d+|\w+)", side.run("vcpuinfo on")[1], re.MULTILINE) for side in sides)
    assert {label for label, _ in theirs} <= {label for label, _ in ours}
    cpus = [int(value) for label, value in ours if label == "CPU"]
    assert len(cpus) == 2
    assert all(0 <= cpu < (os.cpu_count() or 1) for cpu in cpus)


FUNCTION = "<interface type='hostdev'><mac address='52:54:00:12:34:57'/><source><address type='pci' bus='1'/></source>"
VIRTIO = "<interface type='user'><mac address='52:54:00:12:34:57'/><model type='{}'/><alias name='ua-stays'/>"
COMES, STAYS = "<teaming type='transient' persistent='ua-stays'/>", "<teaming type='persistent'/>"
DEFINED = {
    "team": f"{VIRTIO.format('virtio')}{STAYS}</interface>{FUNCTION}{COMES}</interface>",
    "nobody stays": f"{FUNCTION}<teaming type='transient'/></interface>",
    "a function stays": f"{FUNCTION}{STAYS}</interface>",
    "e1000 stays": f"{VIRTIO.format('e1000')}{STAYS}</interface>",
    "virtio comes": f"{VIRTIO.format('virtio')}{COMES}</interface>",
    "both": f"{VIRTIO.format('virtio')}<teaming type='persistent' persistent='ua-stays'/></interface>",
    "vlan": f"{FUNCTION}<vlan><tag id='0'/></vlan></interface>",
    "empty vlan": f"{FUNCTION}<vlan/></interface>",
    "large vlan": f"{FUNCTION}<vlan><tag id='4096'/></vlan></interface>",
    "isolated": f"{FUNCTION}<port isolated='yes'/></interface>",
    "twice": f"{FUNCTION}</interface>" * 2,
}


@pytest.mark.parametrize("name", DEFINED)
@pytest.mark.beside
def test_functions_and_teams_are_taken_and_refused_alike(sides: tuple[Side, Side], name: str) -> None:
    """What is refused in the same words, after which ours say where."""
    text = DOCUMENT.format(name="new", uuid="5d2ac5d4-0d4c-4b8c-9d50-6c3fb5b0c8c3", image="/new")
    words = []
    for side in sides:
        document = side.directory / "new.xml"
        document.write_text(text.replace("</devices>", f"{DEFINED[name]}</devices>"))
        words.append(
            (side.run(f"define {document}")[1] + side.run("undefine new")[1]).replace(str(document), "new.xml")
        )
    ours, theirs = (re.sub(r" \(/domain/[^)]*\)", "", each) for each in words)
    assert ours == theirs
