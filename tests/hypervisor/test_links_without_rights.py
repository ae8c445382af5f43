"""Network cards in a daemon that is not root's: what works, what is refused with advice, and QEMU's setuid helper."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.client import connect
from corral.errors import CorralError
from corral.network import bridge_helper
from labs import corrald, netns
from labs.netns import Namespace

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing())),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed (apt-get install util-linux)"),
    pytest.mark.skipif(bridge_helper.find() is None, reason="QEMU's package has no qemu-bridge-helper"),
]

NOBODY = 65534


def document(card: str) -> str:
    return (
        "<domain type='qemu'><name>v</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>"
        f"<devices>{card}</devices></domain>"
    )


def on_bridge(name: str, more: str = "") -> str:
    return document(f"<interface type='bridge'><source bridge='{name}'/><model type='virtio'/>{more}</interface>")


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with netns.made(f"corral-n{os.getpid()}") as made:
        made.ip("link add br1 type bridge")
        yield made


@pytest.fixture(params=["", "u+s"], ids=["without the helper", "with the helper"], scope="module")
def daemon(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[tuple[corrald.Daemon, bool]]:
    """A daemon of nobody's; whether QEMU's helper is setuid in its mount namespace, and allows br0 alone."""
    helper = bridge_helper.find()
    assert helper is not None
    with tempfile.TemporaryDirectory(prefix="cw", dir="/var/tmp") as name:
        directory = Path(name)
        (directory / "etc").mkdir()
        (directory / "etc" / "bridge.conf").write_text("allow br0\n")
        shutil.copy(helper, directory / "helper")
        (directory / "helper").chmod(0o4755 if request.param else 0o755)
        for each in (directory, directory / "etc"):
            each.chmod(0o755)
        os.chown(directory, NOBODY, NOBODY)
        script = (
            f"mknod -m 666 {directory}/tun c 10 200; mount --bind {directory}/tun /dev/net/tun; "  # as hosts have it
            f"mount --bind {directory}/helper {helper}; mkdir -p /etc/qemu; mount --bind {directory}/etc /etc/qemu; "
            f"export XDG_RUNTIME_DIR={directory} HOME={directory}; "
            f'exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "$@"'
        )
        within = (*namespace.within, "sh", "-ec", script, "sh")
        with corrald.running(directory, within=within) as running:
            yield running, bool(request.param)


async def test_a_card_on_a_bridge(daemon: tuple[corrald.Daemon, bool], namespace: Namespace) -> None:
    """Refused with what to do; with QEMU's helper there, a tap on the bridge that it allows, gone with the machine."""
    running, helped = daemon
    async with connect(f"qemu+unix:///session?socket={running.socket}") as host:
        if not helped:
            with pytest.raises(CorralError, match=r"qemu-bridge-helper: .*let root run: chmod u\+s"):
                await host.create(on_bridge("br0"))
            assert namespace.links() == {*netns.LINKS, "br1"}
            return
        vm = await host.create(on_bridge("br0"))
        (tap,) = namespace.links() - {*netns.LINKS, "br1"}
        assert f"<target dev='{tap}'/>" in await vm.xml()
        assert f"master {netns.BRIDGE}" in namespace.ip(f"link show {tap}")
        await vm.destroy()
        assert namespace.links() == {*netns.LINKS, "br1"}
        with pytest.raises(CorralError, match=r"qemu-bridge-helper: access denied by acl file.*allow br1"):
            await host.create(on_bridge("br1"))


async def test_what_only_root_can(daemon: tuple[corrald.Daemon, bool], namespace: Namespace) -> None:
    running, _ = daemon
    refused = [
        (on_bridge("br0", "<driver queues='2'/>"), "Unable to open /dev/net/tun"),
        (on_bridge("br0", "<target dev='mine'/>"), "Unable to open /dev/net/tun"),
        (document("<interface type='ethernet'/>"), "Unable to open /dev/net/tun"),
        (
            document("<interface type='direct'><source dev='veth0'/></interface>"),
            "no right to change",
        ),
        (on_bridge("nosuch"), "there is no bridge 'nosuch' on this host"),
    ]
    async with connect(f"qemu+unix:///session?socket={running.socket}") as host:
        for text, message in refused:
            with pytest.raises(CorralError, match=message):
                await host.create(text)
        vm = await host.create(document("<interface type='user'><model type='virtio'/></interface>"))
        await vm.destroy()
    assert namespace.links() == {*netns.LINKS, "br1"}
