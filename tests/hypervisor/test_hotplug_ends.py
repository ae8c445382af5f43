"""Plugging what has an end on the host (cards, directories, LUNs of targets): of a refusal nothing is left there.

In a network namespace of the test's own, with an iSCSI target and a vhost-user backend in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.guests.vhost_user import Backend
from tests.hypervisor import life, plugs
from tests.hypervisor.test_hotplug import BOTH, LIVE, Host, documents, killed, machine, refuse_one, taken_out
from tests.waiting import until

from corral.errors import ConfigUnsupported, CorralError, HostError, NoSecret
from corral.hypervisor.domain import Domain
from corral.hypervisor.hotplug import hotplug
from corral.qemu.devices.interface import can_reconnect
from labs import corrald, netns, tgt, virtiofsd
from labs.netns import Namespace

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing())),
    pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed (scripts/setup.sh test)"),
    pytest.mark.skipif(tgt.missing() is not None, reason=str(tgt.missing())),
]

SECRET = "00000000-0000-4000-8000-0000000000c4"
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
SHARING = machine().replace("<os>", f"{SHARED}<os>", 1)
PASSWORD = b"twelve-letters"
TOO_OLD = "too old for vhost-user cards in software emulation"
PASST, VIRTIOFS = "<backend type='passt'/>", "<driver type='virtiofs'/>"
KINDS = (
    "user card with passt",
    "card on a tap",
    "card on a bridge",
    "limited card on a bridge",
    "macvtap",
    "vhost-user card",
    "listening card",
    "connecting card",
    "multicast card",
    "udp card",
    "directory",
    "iscsi disk",
    "iscsi lun",
    "guarded iscsi lun",
    "iscsi host device",
)

# A guarded LUN needs a secret that the daemon to be killed has not, and memory can be let go of only by a guest.
DEEDS = [
    (call, kind)
    for kind in (*plugs.kinds(Path("x")), *KINDS)
    for call in ("plug", "unplug")
    if kind != "guarded iscsi lun" and (call, kind) != ("unplug", "memory")
]


@dataclass(frozen=True)
class Ends:
    """The host's side: where everything is, and the port of a listener."""

    namespace: Namespace
    target: tgt.Target
    guarded: str
    backend: Path
    directory: Path
    port: int

    def card(self, kind: str, source: str = "", more: str = "") -> str:
        head = f"<interface type='{kind}'><mac address='52:54:00:00:00:01'/>{source}"
        return f"{head}<model type='virtio'/>{more}</interface>"

    def lun(self, device: str, *, guarded: bool = False) -> str:
        name = self.guarded if guarded else tgt.IQN
        auth = f"<auth username='corral'><secret type='iscsi' uuid='{SECRET}'/></auth>" if guarded else ""
        return (
            f"<disk type='network' device='{device}'><driver name='qemu' type='raw'/>"
            f"<source protocol='iscsi' name='{name}/1'><host name='127.0.0.1' port='{self.target.port}'/>{auth}"
            "</source><target dev='sdb' bus='scsi'/></disk>"
        )

    def kinds(self) -> dict[str, str]:
        bridge = f"<source bridge='{netns.BRIDGE}'/>"
        limits = "<bandwidth><inbound average='1000'/><outbound average='500'/></bandwidth>"
        forward = "<portForward proto='tcp'><range start='2022' to='22'/></portForward>"
        local = "<local address='127.0.0.1' port='5562'/>"
        directory = f"<binary path='{virtiofsd.program()}'><sandbox mode='chroot'/></binary>"
        hostdev = f"<source protocol='iscsi' name='{tgt.IQN}/1'><host name='127.0.0.1' port='{self.target.port}'/>"
        cards = (
            self.card("user", PASST, forward),
            self.card("ethernet", "<target dev='tap7'/>"),
            self.card("bridge", bridge),
            self.card("bridge", bridge, limits),
            self.card("direct", f"<source dev='{netns.PARENT}' mode='bridge'/>"),
            self.card("vhostuser", f"<source type='unix' path='{self.backend}' mode='client'/>"),
            self.card("server", "<source address='127.0.0.1' port='5559'/>"),
            self.card("client", f"<source address='127.0.0.1' port='{self.port}'/>"),
            self.card("mcast", "<source address='230.0.0.1' port='5558'/>"),
            self.card("udp", f"<source address='127.0.0.1' port='5561'>{local}</source>"),
        )
        others = (
            f"<filesystem>{VIRTIOFS}{directory}<source dir='{self.directory}'/><target dir='late'/></filesystem>",
            self.lun("disk"),
            self.lun("lun"),
            self.lun("lun", guarded=True),
            f"<hostdev mode='subsystem' type='scsi'>{hostdev}</source></hostdev>",
        )
        return dict(zip(KINDS, (*cards, *others), strict=True))


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    """All of it, with this thread, and those that it starts, in the namespace."""
    if virtiofsd.program() is None:
        pytest.skip("there is no virtiofsd (scripts/setup.sh test)")
    images = [tmp_path_factory.mktemp("luns") / f"{number}.img" for number in (1, 2)]
    for image in images:
        image.write_bytes(b"\0" * (1 << 20))
    place = tmp_path_factory.mktemp("shared")
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(netns.made(f"corral-p{os.getpid()}"))
        stack.enter_context(netns.entered(namespace))
        target = stack.enter_context(tgt.running(images[0]))
        guarded = target.add_guarded(images[1], "corral", PASSWORD.decode())
        backend = Path(f"/tmp/cvu{os.getpid()}.sock")
        stack.enter_context(Backend(backend))
        backend.chmod(0o777)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        yield Ends(namespace, target, guarded, backend, place, listener.getsockname()[1])


@pytest.fixture
async def host(short_path: Path, ends: Ends) -> AsyncIterator[Host]:
    try:
        async with life.opened(short_path) as (hypervisor, heard):
            found = Host(hypervisor, heard, short_path)
            secret = await hypervisor.secrets.define(
                f"<secret ephemeral='yes'><uuid>{SECRET}</uuid>"
                "<usage type='iscsi'><target>lun</target></usage></secret>"
            )
            await hypervisor.secrets.set_value(secret, PASSWORD)
            await hypervisor.define(SHARING)
            await found.domain.create()
            yield found
    finally:
        life.end_machines(short_path)


async def unchanged(ends: Ends, host: Host, before: object) -> None:
    """Wait until the host has what it had, and say what it has instead."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: left(ends, host) == before)
    assert left(ends, host) == before
    assert not host.domain.require_run().servers


def left(ends: Ends, host: Host) -> tuple[set[str], list[str], str, list[str]]:
    """What a plug may leave on the host: links, files of the machine, sessions with the target, programs beside it."""
    run = host.domain.require_run()
    sessions = ends.target.admin("--op", "show", "--mode", "conn", "--tid", "1")
    files = sorted(path.name for path in run.directory.iterdir())
    return ends.namespace.links(), files, sessions, programs()


def programs() -> list[str]:
    """The programs of this network namespace that serve machines: passt, with the ports that it forwards, virtiofsd."""
    ours, found = Path("/proc/thread-self/ns/net").readlink(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name.startswith(("passt", "virtiofsd")) and (process / "ns/net").readlink() == ours:
                found.append(name)
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_refused_at_each_step(host: Host, ends: Ends, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU refuses each step of a plug in turn: no link, server, file or session stays. Then it is plugged."""
    xml, before = ends.kinds()[kind], left(ends, host)
    binary = await host.hypervisor.offer.binary(host.domain.require_run().live.document.devices.emulator)
    if kind == "vhost-user card" and not can_reconnect(binary):
        with pytest.raises(ConfigUnsupported, match=TOO_OLD):
            await hotplug.attach(host.domain, xml, BOTH)
        await unchanged(ends, host, before)
        return
    step = 0
    while await refuse_one(host, xml, step, monkeypatch):
        await unchanged(ends, host, before)
        step += 1
    assert step >= 1
    live, base, config, stored = await documents(host.domain)
    (alias,) = host.added()
    assert f"<alias name='{alias}'/>" in live and stored == (live, base, config, None)
    assert alias in (await plugs.view(host.domain))["devices"]
    await taken_out(host.domain, xml, BOTH)
    await unchanged(ends, host, before)


async def test_the_hosts_own_refusals(host: Host, ends: Ends) -> None:
    """What the host has not: said before QEMU is asked, and nothing changes."""
    kinds = ends.kinds()
    before, view, written = left(ends, host), await plugs.view(host.domain), await documents(host.domain)
    secret = SECRET.replace("c4", "c5")
    for xml, error, text in (
        (kinds["card on a bridge"].replace(netns.BRIDGE, "nobridge"), CorralError, "nobridge"),
        (kinds["macvtap"].replace(netns.PARENT, "nolink"), CorralError, "nolink"),
        (kinds["directory"].replace(str(ends.directory), "/none"), HostError, "'/none', which .* is no directory"),
        (kinds["guarded iscsi lun"].replace(SECRET, secret), NoSecret, f"no secret with matching uuid '{secret}'"),
        (kinds["iscsi lun"].replace(f"{tgt.IQN}/1", f"{tgt.IQN}/7"), CorralError, "LUN"),
        (kinds["vhost-user card"].replace(str(ends.backend), "/none.sock"), CorralError, f"none.sock|{TOO_OLD}"),
        ("<hostdev mode='subsystem' type='usb'><source><address bus='9' device='99'/></source></hostdev>",
         CorralError, "this host has no USB device"),
        ("<hostdev mode='subsystem' type='pci' managed='yes'><source>"
         "<address domain='0' bus='254' slot='31' function='7'/></source></hostdev>", CorralError,
         re.escape("this host has no PCI device 0000:fe:1f.7")),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            await hotplug.attach(host.domain, xml, BOTH)
        assert await plugs.view(host.domain) == view, xml
        assert await documents(host.domain) == written
        await unchanged(ends, host, before)
    assert not host.added()


async def test_a_name_that_is_taken(host: Host, ends: Ends) -> None:
    """A macvtap that cannot be made because another card has its name: that one stays what it is."""
    source = f"<source dev='{netns.PARENT}' mode='bridge'/><target dev='mine'/>"
    first = ends.card("direct", source)
    await hotplug.attach(host.domain, first, LIVE)
    before, written = left(ends, host), await documents(host.domain)
    with pytest.raises(HostError, match="'mine' is there already"):
        await hotplug.attach(host.domain, first.replace("00:01", "00:02"), LIVE)
    await unchanged(ends, host, before)
    assert await documents(host.domain) == written and "mine" in ends.namespace.links()
    await taken_out(host.domain, first, LIVE)
    assert "mine" not in ends.namespace.links()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("call", "kind"), DEEDS)
async def test_a_daemon_killed(kind: str, call: str, short_path: Path, ends: Ends) -> None:
    """A daemon that dies at any step: the next knows the device or has nothing of it, and goes on from there."""
    plugs.need_host(kind)
    image = short_path / "disk.img"
    image.write_bytes(b"\0" * 65536)
    xml = {**plugs.kinds(image), **ends.kinds()}[kind]
    removable = kind != "memory"  # from which only a guest can part
    try:
        for step in range(1, 40):
            directory = short_path / str(step)
            acknowledged = await killed(directory, call, step, xml, SHARING)
            await _goes_on(directory, xml, ends, removable, "plugged" if acknowledged and call == "plug" else call)
            life.end_machines(directory)
            if acknowledged:
                break
    finally:
        life.end_machines(short_path)
    assert acknowledged and step > 3


@pytest.mark.slow
async def test_a_daemon_killed_while_it_starts_a_machine(short_path: Path, ends: Ends) -> None:
    """A machine that a passt and a virtiofsd serve: it runs with them, or there is nothing of the three."""
    kinds, alone = ends.kinds(), 0
    machine = SHARING.replace("</devices>", f"{kinds['user card with passt']}{kinds['directory']}</devices>")
    try:
        for step in range(1, 60):
            directory = short_path / str(step)
            acknowledged = await killed(directory, "start", step, "", machine)
            alone += bool(programs()) and not corrald.machines(directory)
            async with life.opened(directory) as (hypervisor, _):
                domain = hypervisor.lookup_by_name("a")
                assert domain.active or not acknowledged
                if not domain.active:
                    await until(lambda: not programs())
                    assert not [*life.settings(directory).run.glob("d[0-9]*")]
                    await domain.create()
                assert {name.split(".")[0] for name in programs()} == {"passt", "virtiofsd"}
                await domain.destroy()
                await until(lambda: not programs())
            if acknowledged:
                break
    finally:
        life.end_machines(short_path)
    assert acknowledged and alone >= 2


def controllers(domain: Domain) -> set[str]:
    """The aliases of the controllers that the running machine's document has."""
    return {each.alias.name for each in domain.require_run().live.document.devices.controllers if each.alias}


async def _goes_on(directory: Path, xml: str, ends: Ends, removable: bool, deed: str) -> None:
    """The documents are what QEMU has; what is there can be taken out, what is not can be plugged; no end stays.

    A controller that a device brought along comes with it or not at all, and stays when it goes.
    """
    before = json.loads((directory / "before.json").read_text())

    def added(things: Iterable[str], what: str) -> set[str]:
        return set(things) - set(before[what])

    async with life.opened(directory) as (hypervisor, heard):
        host = Host(hypervisor, heard, directory)
        domain = host.domain
        live, base, _config, stored = await documents(domain)
        assert stored[0] == live and stored[1] == base and stored[3] is None
        view = await plugs.resumed(domain)
        plugged = {name for name in added(view["devices"], "devices") if not name.endswith(plugs.INSIDE)}
        assert plugged == added(plugs.ALIAS.findall(live), "aliases")
        brought = plugged & controllers(domain) if "<controller" not in xml else set()
        there = plugged != brought
        assert there or deed != "plugged"
        if not there:
            assert not brought or deed == "unplug"
            assert view == {**before["view"], "devices": sorted({*before["devices"], *brought})}
            await unchanged(ends, host, (netns.LINKS, before["files"], "", []))
            await hotplug.attach(domain, xml, LIVE)
        assert bool(programs()) == (PASST in xml or VIRTIOFS in xml)
        if removable:
            await taken_out(domain, xml, LIVE)
            brought = added(controllers(domain), "aliases")
            view = await plugs.view(domain)
            assert brought == added(view["devices"], "devices") == added(plugs.ALIAS.findall(domain.xml()), "aliases")
            assert view == {**before["view"], "devices": view["devices"]}
            assert not brought or "<controller" not in xml
            await unchanged(ends, host, (netns.LINKS, before["files"], "", []))
