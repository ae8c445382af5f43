"""virsh's commands about network cards on a bridge: the same against our daemon and a real libvirtd, each in a network
namespace of its own.

Where our message goes on after libvirtd's, with what to do about it, that is as good as the same. What libvirtd cannot
do here and we can (limits without its kernel modules) is tested by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.beside import Said, compare, said

from labs import corrald, libvirtd, netns
from labs.netns import Namespace

pytestmark = [
    pytest.mark.clients,
    pytest.mark.qemu,
    pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing())),
]

DOCUMENT = """<domain type='qemu'><name>v</name><uuid>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</uuid>
<memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><interface type='user'><mac address='52:54:00:aa:bb:01'/><model type='virtio'/></interface>
<interface type='bridge'><mac address='52:54:00:aa:bb:02'/><source bridge='br0'/><model type='virtio'/></interface>
</devices></domain>"""

CARD = (
    "<interface type='bridge'><mac address='52:54:00:aa:bb:02'/><source bridge='br0'/><model type='virtio'/>{}"
    "</interface>"
)
FILES = {
    "dom.xml": DOCUMENT,
    "br1.xml": CARD.format("").replace("br0", "br1"),
    "e1000.xml": CARD.format("").replace("virtio", "e1000"),
    "mtu.xml": CARD.format("<mtu size='1300'/>"),
    "queues.xml": CARD.format("<driver queues='2'/>"),
    "target.xml": CARD.format("<target dev='foo'/>"),
    "rom.xml": CARD.format("<rom bar='off'/>"),
    "down.xml": CARD.format("<link state='down'/>"),
    "backend.xml": CARD.format("<backend tap='/dev/net/tun'/>"),
    "isolated.xml": CARD.format("<port isolated='yes'/>"),
    "sourceless.xml": CARD.format("").replace("<source bridge='br0'/>", ""),
}

COMMANDS = """
define DIR/dom.xml
domiftune v 52:54:00:aa:bb:01
domiftune v 52:54:00:aa:bb:01 --inbound 100
domiftune v 52:54:00:aa:bb:02 --inbound 100,200,300 --config
domiftune v 52:54:00:aa:bb:02 --outbound 50 --config
domiftune v 52:54:00:aa:bb:02
domiftune v 52:54:00:aa:bb:02 --inbound 0 --outbound 0 --config
domiftune v 52:54:00:aa:bb:02
domiftune v 52:54:00:aa:bb:09
domiftune v vnet0
domifstat v vnet0
domifaddr v --source arp
start v
! ip neigh add 10.77.0.5 lladdr 52:54:00:aa:bb:02 dev br0 nud reachable
! ip link add br1 type bridge
domiflist v
domiflist v --inactive
domiftune v vnet0
domiftune v vnet0 --config
domiftune v 52:54:00:aa:bb:02 --config
domiftune v 52:54:00:aa:bb:01 --inbound 100 --live
domiftune v 52:54:00:aa:bb:02 --inbound 0,5
domifstat v vnet0
domifstat v 52:54:00:aa:bb:02
domifstat v 52:54:00:aa:bb:01
domifstat v foo
domstats v --interface
domifaddr v --source arp
domifaddr v --source arp --full --interface vnet0
domifaddr v --source agent
domif-getlink v vnet0
domif-setlink v vnet0 down
domif-getlink v vnet0
domif-getlink v 52:54:00:aa:bb:02 --config
domif-setlink v 52:54:00:aa:bb:02 down --config
domif-getlink v 52:54:00:aa:bb:02 --config
domif-setlink v vnet0 up
update-device v DIR/br1.xml --live
domiflist v
! ls /sys/class/net/br1/brif
update-device v DIR/e1000.xml
update-device v DIR/mtu.xml
update-device v DIR/queues.xml
update-device v DIR/target.xml
update-device v DIR/rom.xml
update-device v DIR/backend.xml
update-device v DIR/sourceless.xml
update-device v DIR/isolated.xml
! cat /sys/class/net/vnet0/brport/isolated
update-device v DIR/down.xml
domif-getlink v vnet0
attach-interface v bridge br0 --model virtio --mac 52:54:00:aa:bb:03 --live
attach-interface v bridge br0 --model e1000 --mac 52:54:00:aa:bb:04 --live --config --target mytap
attach-interface v bridge br0 --target mytap --live
attach-interface v bridge br0 --alias ua-x --model virtio --live --mac 52:54:00:aa:bb:07
attach-interface v bridge br0 --config --mac 52:54:00:aa:bb:08 --model virtio --inbound 10,20,30 --outbound 5
attach-interface v direct veth0 --mac 52:54:00:aa:bb:05 --model virtio --live
domiftune v 52:54:00:aa:bb:08 --config
domiflist v
domiflist v --inactive
! ls /sys/class/net
detach-interface v bridge --mac 52:54:00:aa:bb:99
detach-interface v bridge
detach-interface v bridge --config --mac 52:54:00:aa:bb:08
detach-interface v bridge --config --mac 52:54:00:aa:bb:08
destroy v
! ls /sys/class/net
domiflist v
domifstat v vnet0
undefine v
"""


def session(uri: str, directory: Path, namespace: Namespace) -> Said:
    """What is said to the commands."""
    directory.mkdir()
    for name, text in FILES.items():
        (directory / name).write_text(text)
    return said(uri, COMMANDS, directory, within=namespace.within, wash=wash)


def wash(text: str) -> str:
    """Without numbers of links beyond the first, and figures."""
    return re.sub(r"(?<=[.x_])(bytes|packets|pkts|drop)[= ]\d+", "counted", re.sub(r"vnet[1-9]", "vnetN", text))


#: Where we say the same in other words, which say what to do.
BETTER = {
    "error: Failed to attach interface error: Requested operation is not valid: The mytap interface already exists": (
        "error: Failed to attach interface error: Requested operation is not valid: a network link 'mytap' is there"
    ),
}


@contextlib.contextmanager
def place() -> Iterator[tuple[Namespace, Path]]:
    """A namespace and a directory."""
    with netns.made(f"corral-v{os.getpid()}") as namespace, tempfile.TemporaryDirectory(prefix="vd") as name:
        yield namespace, Path(name)


@pytest.mark.beside
def test_as_with_libvirtd() -> None:
    with place() as (namespace, directory), libvirtd.running(directory, within=namespace.within) as peer:
        theirs = session(peer.uri, directory / "files", namespace)
    with place() as (namespace, directory), corrald.running(directory, within=namespace.within) as daemon:
        ours = session(daemon.uri, directory / "files", namespace)
    compare(ours, theirs, BETTER)


def test_limits_live() -> None:
    """What needs kernel modules of libvirtd, our daemon does with others: set, seen, changed, taken away, kept off."""
    mac = "52:54:00:aa:bb:02"
    with place() as (namespace, directory), corrald.running(directory, within=namespace.within) as daemon:

        def virsh(*words: str) -> str:
            command = ["virsh", "-q", "-c", daemon.uri, *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

        def helper() -> str:
            """The rate of the link by whose help is limited what the guest sends."""
            index = namespace.run("cat", "/sys/class/net/vnet0/ifindex").strip()
            return namespace.run("tc", "class", "show", "dev", f"corral-{index}")

        (directory / "dom.xml").write_text(DOCUMENT)
        virsh("define", str(directory / "dom.xml"))
        virsh("start", "v")
        virsh("domiftune", "v", "vnet0", "--inbound", "100,200,300", "--outbound", "50", "--live")
        assert "inbound.peak   : 200" in virsh("domiftune", "v", "vnet0")
        assert "inbound.average: 0" in virsh("domiftune", "v", mac, "--config")
        assert "<outbound average='50'/>" in virsh("dumpxml", "v")
        shaped = namespace.run("tc", "class", "show", "dev", "vnet0")
        assert "rate 800Kbit ceil 1600Kbit burst 300Kb" in shaped and "rate 400Kbit" in helper()
        virsh("domiftune", "v", mac, "--inbound", "0", "--live", "--config")
        assert namespace.run("tc", "class", "show", "dev", "vnet0") == ""
        assert "<outbound average='50'/>" in virsh("dumpxml", "v")
        virsh("domiftune", "v", mac, "--outbound", "60", "--config")
        virsh("destroy", "v")
        assert namespace.links() == netns.LINKS
        virsh("start", "v")
        assert "rate 480Kbit" in helper()
        virsh("destroy", "v")
        assert namespace.links() == netns.LINKS
