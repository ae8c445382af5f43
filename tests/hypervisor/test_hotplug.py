"""Plugging and unplugging: QEMU, the documents and the store agree, whatever is refused and whoever dies.

The machine has no operating system here: what asks a guest (PCI devices) is in tests/guests/test_hotplug.py.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.hypervisor import life, plugs
from tests.hypervisor.life import Heard
from tests.waiting import until

from corral.constants import DomainDeviceModifyFlags as Flags
from corral.constants import DomainXMLFlags
from corral.errors import (
    ConfigUnsupported,
    CorralError,
    DeviceMissing,
    HostError,
    InternalError,
    NoSecret,
    OperationTimeout,
    OperationUnsupported,
    ResourceBusy,
    XMLError,
)
from corral.hypervisor.domain import Domain
from corral.hypervisor.events import DeviceAdded, DeviceRemoved, TrayChange
from corral.hypervisor.hotplug import hotplug, unplug
from corral.hypervisor.hypervisor import Hypervisor
from corral.qemu.machine import Machine
from corral.qemu.monitor import Monitor, MonitorCommandFailed

pytestmark = pytest.mark.qemu

LIVE, CONFIG = Flags.LIVE, Flags.CONFIG
BOTH = LIVE | CONFIG
DEVICES = (
    "<controller type='scsi' model='virtio-scsi'/><controller type='virtio-serial'/>"
    "<controller type='usb' model='qemu-xhci' ports='15'/>"
)


class Host:
    """A hypervisor with a running machine, its events, and an image to plug."""

    def __init__(self, hypervisor: Hypervisor, heard: Heard, directory: Path) -> None:
        self.hypervisor = hypervisor
        self.heard = heard
        self.image = directory / "disk.img"
        self.image.write_bytes(b"\0" * (1 << 20))

    @property
    def domain(self) -> Domain:
        return self.hypervisor.lookup_by_name("a")

    async def device(self, kind: str) -> str:
        """A device of that kind; skips where this QEMU has none, which the daemon itself would say."""
        binary = await self.hypervisor.offer.binary(self.domain.require_run().live.document.devices.emulator)
        if kind == "virtio sound" and not binary.has_device("virtio-sound-pci"):
            pytest.skip(f"'{binary.path}' has no virtio sound card (QEMU 8.2 brought it)")
        plugs.need_host(kind)
        return plugs.kinds(self.image)[kind]

    def added(self) -> list[str]:
        return [event.dev_alias for event in self.heard if isinstance(event, DeviceAdded)]

    def removed(self) -> list[str]:
        return [event.dev_alias for event in self.heard if isinstance(event, DeviceRemoved)]


def machine(more: str = "") -> str:
    text = life.document("a", devices=DEVICES + more).replace("<controller type='usb' model='none'/>", "")
    text = text.replace("<memory ", "<maxMemory slots='2' unit='MiB'>256</maxMemory><memory ", 1)
    return text.replace("machine='q35'", "machine='pc'")


@pytest.fixture
async def host(short_path: Path) -> AsyncIterator[Host]:
    try:
        async with life.opened(short_path) as (hypervisor, heard):
            found = Host(hypervisor, heard, short_path)
            await hypervisor.define(machine())
            await found.domain.create()
            yield found
    finally:
        life.end_machines(short_path)
        Path(f"/dev/shm/{plugs.SHARED}").unlink(missing_ok=True)  # noqa: ASYNC240 (QEMU leaves it)


async def documents(domain: Domain) -> tuple[str, str, str, Any]:
    """The live document, the one it was started from, the definition; and the same as the store has them."""
    run = domain.require_run()
    definitions, rows = await domain.hypervisor.store.load()
    stored = (rows[0].xml, rows[0].base_xml, definitions[0].xml, await domain.hypervisor.store.plug(run.id))
    assert domain.config is not None
    return run.live.secure_xml, run.base.secure_xml, domain.config.secure_xml, stored


@pytest.mark.parametrize("kind", plugs.kinds(Path("x")))
async def test_every_kind(host: Host, kind: str) -> None:
    """Plugged live and for good: in QEMU, in the documents, told; a new start has it again, and at the same place."""
    domain, xml = host.domain, await host.device(kind)
    before = await plugs.view(domain)
    await hotplug.attach(domain, xml, BOTH)
    after = await plugs.view(domain)
    alias = host.added()[-1]
    assert alias in after["devices"] and alias not in before["devices"]
    live, base, config, stored = await documents(domain)
    assert f"<alias name='{alias}'/>" in live and "<alias" not in config + base
    assert stored == (live, base, config, None)
    places = re.findall(r"<address type=[^>]*>", config)
    assert places == re.findall(r"<address type=[^>]*>", base)
    assert places == re.findall(r"<address type=[^>]*>", re.sub(r" base='\w*'", "", live))  # where a module came to lie
    await domain.destroy()
    await domain.create()
    assert set((await plugs.view(domain))["devices"]) == set(after["devices"])


QUICK = (
    "scsi disk",
    "limited disk",
    "transient disk",
    "usb disk",
    "cdrom",
    "channel",
    "channel on a pty",
    "virtio console",
    "tablet",
    "usb sound",
    "redirected usb",
    "hub",
)


@pytest.mark.parametrize("kind", QUICK)
async def test_there_and_back(host: Host, kind: str) -> None:
    """What needs no guest's consent is gone without a trace, by description and by alias."""
    domain, xml = host.domain, plugs.kinds(host.image)[kind]
    before, documents_before = await plugs.view(domain), await documents(domain)
    await hotplug.attach(domain, xml, BOTH)
    await hotplug.detach(domain, xml, BOTH)
    assert await plugs.view(domain) == before
    assert await documents(domain) == documents_before
    await hotplug.attach(domain, xml, LIVE)
    await hotplug.detach_alias(domain, host.added()[-1], LIVE)
    assert await plugs.view(domain) == before
    assert await documents(domain) == documents_before
    assert host.added() == host.removed() and len(host.added()) == 2


@pytest.mark.parametrize("kind", plugs.kinds(Path("x")))
async def test_refused_at_each_step(host: Host, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU refuses each command of a plug in turn; afterwards nothing has changed anywhere."""
    xml = await host.device(kind)
    if " and its controller" in kind:
        monkeypatch.setattr(unplug, "UNDO_TIMEOUT", 0.1)
    step = 0
    while await refuse_one(host, xml, step, monkeypatch):
        step += 1
    assert step >= 1


REFUSE = "refuse-me"
WRONG = {"add-fd": {"fdset-id": -1}, "getfd": {"fdname": "1"}}
"""Arguments for which QEMU refuses a command: those that it has not, or with a descriptor at hand those it dislikes."""
ADDING = (
    "add-fd",
    "getfd",
    "blockdev-add",
    "object-add",
    "netdev_add",
    "chardev-add",
    "device_add",
    "set_link",
    "set-action",
    "block_set_io_throttle",
)


async def refuse_one(host: Host, xml: str, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have QEMU refuse one step of a plug and compare; False when there is no such step, or only a guest could undo."""
    domain, execute = host.domain, Monitor.execute
    view, written = await plugs.view(domain), await documents(domain)
    count, refused = 0, False

    async def refusing(self: Monitor, command: str, arguments: Any = None, **options: Any) -> Any:
        nonlocal count, refused
        if command in ADDING:
            count += 1
            if count == step + 1:
                refused = True
                arguments = {**arguments, **WRONG.get(command, {REFUSE: True})}
        return await execute(self, command, arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "execute", refusing)
        try:
            await hotplug.attach(domain, xml, BOTH)
        except MonitorCommandFailed as error:
            assert REFUSE in str(error) or "non-negative" in str(error) or "starting with a digit" in str(error)
    if not refused:
        return False
    after = await plugs.view(domain)
    if _guest_has_it(after, view):
        return False
    assert after == view, f"after step {step + 1}"
    assert await documents(domain) == written
    assert not host.added()
    return True


def _guest_has_it(after: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a PCI device is left, which QEMU takes out when the guest allows it: there is none here."""
    return set(after["devices"]) > set(before["devices"])


async def test_qemu_itself_refuses(host: Host) -> None:
    """Names that are taken in QEMU behind our back: the first refusal is told, the rest taken back."""
    domain = host.domain
    ask = domain.require_run().require_machine().monitor.execute
    await ask("object-add", {"qom-type": "rng-builtin", "id": "objrng0"})
    await ask("chardev-add", {"id": "charchannel0", "backend": {"type": "null", "data": {}}})
    await ask("blockdev-add", {"driver": "null-co", "node-name": "libvirt-1-storage"})
    before = await plugs.view(domain)
    for kind in ("random numbers", "channel", "scsi disk"):
        with pytest.raises(MonitorCommandFailed):
            await hotplug.attach(domain, plugs.kinds(host.image)[kind], BOTH)
        assert await plugs.view(domain) == before
    assert not host.added()


async def test_the_store_fails(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the store: what QEMU had taken is taken back."""
    domain = host.domain
    before, written = await plugs.view(domain), await documents(domain)

    async def full(*_args: Any, **_columns: Any) -> None:
        raise HostError("cannot write to the store: disk full")

    with monkeypatch.context() as patch:
        patch.setattr(host.hypervisor.store, "end_plug", full)
        with pytest.raises(HostError, match="disk full"):
            await hotplug.attach(domain, plugs.kinds(host.image)["scsi disk"], BOTH)
    assert await plugs.view(domain) == before
    await hotplug.attach(domain, plugs.kinds(host.image)["tablet"], LIVE)  # and the note of it is no obstacle
    await hotplug.detach(domain, plugs.kinds(host.image)["tablet"], LIVE)
    assert await documents(domain) == written


async def test_many_at_once(host: Host) -> None:
    """Changes of one machine go one after the other and do not take each other's places."""
    domain = host.domain
    cards = [plugs.CARD.replace("00:01'", f"01:{number:02x}'") for number in range(8)]
    tablets = ["<input type='tablet' bus='usb'/>"] * 3
    await asyncio.gather(*(hotplug.attach(domain, xml, BOTH) for xml in (*cards, *tablets)))
    places = [str(each.address) for each in domain.require_run().live.document.devices.interfaces]
    assert len(set(places)) == 8
    assert len(host.added()) == 11 == len(set(host.added()))
    await asyncio.gather(*(hotplug.detach(domain, tablets[0], BOTH) for _ in tablets))
    with pytest.raises(DeviceMissing, match="matching input device not found"):
        await hotplug.detach(domain, tablets[0], BOTH)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
async def test_an_encrypted_image(host: Host, short_path: Path, kind: str) -> None:
    """Opened with the secret's value, refused in QEMU's words with another, and without one before QEMU is asked."""
    passphrase, image, uuid = short_path / "passphrase", short_path / "image", "00000000-0000-4000-8000-0000000000d1"
    passphrase.write_text("open sesame")
    options = ["-f", "luks", "-o", "key-secret=s,iter-time=10"]
    if kind == "qcow2":
        options = ["-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    words = ["qemu-img", "create", "-q", "--object", f"secret,id=s,file={passphrase}", *options, str(image), "1M"]
    await asyncio.to_thread(subprocess.run, words, check=True, timeout=60)
    secret = f"<encryption format='luks'><secret type='passphrase' uuid='{uuid}'/></encryption>"
    xml = plugs.disk(image, "sdb", "scsi", kind=kind).replace(f"'{image}'/>", f"'{image}'>{secret}</source>")
    domain, secrets = host.domain, host.hypervisor.secrets
    before, written = await plugs.view(domain), await documents(domain)
    with pytest.raises(NoSecret, match="no secret with matching uuid"):
        await hotplug.attach(domain, xml, BOTH)
    usage = f"<usage type='volume'><volume>{image}</volume></usage>"
    known = await secrets.define(f"<secret ephemeral='yes'><uuid>{uuid}</uuid>{usage}</secret>")
    await secrets.set_value(known, b"let me in")
    with pytest.raises(MonitorCommandFailed, match="Invalid password, cannot unlock any keyslot"):
        await hotplug.attach(domain, xml, BOTH)
    assert await plugs.view(domain) == before and await documents(domain) == written
    await secrets.set_value(known, b"open sesame")
    await hotplug.attach(domain, xml, BOTH)
    nodes = await domain.require_run().require_machine().monitor.execute("query-named-block-nodes", {"flat": True})
    assert any(node["encrypted"] and node["node-name"].endswith("-format") for node in nodes)
    assert "open sesame" not in domain.xml(DomainXMLFlags.SECURE)
    assert not [path for path in domain.require_run().directory.iterdir() if "passphrase" in path.name]
    await hotplug.detach(domain, xml, LIVE)
    assert await plugs.view(domain) == before
    await domain.destroy()
    await domain.create()  # and from a cold start


async def test_two_at_once_of_which_one_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken back of the one is nothing of the other's, in whichever order they come."""
    domain, execute, kinds = host.domain, Monitor.execute, plugs.kinds(host.image)

    async def refusing(self: Monitor, command: str, arguments: Any = None, **options: Any) -> Any:
        if command == "device_add" and arguments["driver"] == "scsi-hd":
            arguments = {**arguments, REFUSE: True}
        return await execute(self, command, arguments, **options)

    await hotplug.attach(domain, kinds["channel"], BOTH)
    with_channel, written = await plugs.view(domain), await documents(domain)
    await hotplug.detach(domain, kinds["channel"], BOTH)
    monkeypatch.setattr(Monitor, "execute", refusing)
    for one, two in (("channel", "scsi disk"), ("scsi disk", "channel")):
        deeds = [asyncio.ensure_future(hotplug.attach(domain, kinds[kind], BOTH)) for kind in (one, two)]
        done = dict(zip((one, two), await asyncio.gather(*deeds, return_exceptions=True), strict=True))
        assert done["channel"] is None and isinstance(done["scsi disk"], MonitorCommandFailed)
        assert await plugs.view(domain) == with_channel and await documents(domain) == written
        await hotplug.detach(domain, kinds["channel"], BOTH)
    plug, unplugged = hotplug.attach(domain, kinds["tablet"], BOTH), hotplug.detach(domain, kinds["tablet"], BOTH)
    before = await documents(domain)
    await asyncio.gather(plug, unplugged)  # in the order in which they were asked for
    assert await documents(domain) == before


async def test_refusals(host: Host, tmp_path: Path) -> None:
    """What cannot be plugged, with libvirt's words."""
    domain = host.domain
    await hotplug.attach(domain, plugs.disk(host.image, "vda"), LIVE)

    async def refused(error: type[CorralError], text: str, call: Any) -> None:
        before = await plugs.view(domain)
        with pytest.raises(error, match=re.escape(text)):
            await call
        assert await plugs.view(domain) == before

    attach, detach = hotplug.attach, hotplug.detach
    text = f"target 'vda' duplicated for disk sources '{host.image}' and '{host.image}'"
    await refused(XMLError, text, attach(domain, plugs.disk(host.image, "vda"), LIVE))
    await refused(
        OperationUnsupported,
        "disk bus 'sata' cannot be hotplugged",
        attach(domain, plugs.disk(host.image, "sdz", "sata"), 1),
    )
    await refused(
        OperationUnsupported, "live attach of device 'memballoon'", attach(domain, "<memballoon model='virtio'/>", 1)
    )
    await refused(OperationUnsupported, "live attach of device 'graphics'", attach(domain, "<graphics type='vnc'/>", 1))
    await refused(
        OperationUnsupported, "Hotplug unsupported for char device", attach(domain, "<serial type='pty'/>", 1)
    )
    await refused(
        OperationUnsupported, "on bus 'ps2' cannot be hot plugged", attach(domain, "<input type='mouse'/>", 1)
    )
    await refused(HostError, "No such file", attach(domain, plugs.disk(tmp_path / "none", "vdb"), LIVE))
    await refused(ConfigUnsupported, "unknown device type 'nonsense'", attach(domain, "<nonsense/>", LIVE))
    await refused(DeviceMissing, "disk vdx not found", detach(domain, plugs.disk(host.image, "vdx"), LIVE))
    await refused(DeviceMissing, "no target device vdx", detach(domain, plugs.disk(host.image, "vdx"), CONFIG))
    await refused(InternalError, "no device found with alias", hotplug.detach_alias(domain, "ua-none", LIVE))
    await refused(
        ConfigUnsupported,
        "disk source can be changed only in removable drives",
        hotplug.update(domain, plugs.disk(tmp_path / "other", "vda"), LIVE),
    )


async def test_an_image_in_use(host: Host, short_path: Path) -> None:
    """An image that another machine writes is not plugged; after an unplug another may have it."""
    other = life.document("b", devices=plugs.disk(host.image, "vda"))
    await host.hypervisor.define(other)
    await host.hypervisor.lookup_by_name("b").create()
    with pytest.raises(ResourceBusy, match="in use by running domain 'b'"):
        await hotplug.attach(host.domain, plugs.disk(host.image, "sdb", "scsi"), LIVE)
    await host.hypervisor.lookup_by_name("b").destroy()
    await hotplug.attach(host.domain, plugs.disk(host.image, "sdb", "scsi"), LIVE)
    with pytest.raises(ResourceBusy, match="in use by running domain 'a'"):
        await host.hypervisor.lookup_by_name("b").create()
    await hotplug.detach(host.domain, plugs.disk(host.image, "sdb", "scsi"), LIVE)
    await host.hypervisor.lookup_by_name("b").create()


async def test_no_guest_answers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a guest a PCI device stays: said so, kept, to be tried again; and it goes when the guest is reset."""
    monkeypatch.setattr(unplug, "UNPLUG_TIMEOUT", 0.2)
    domain = host.domain
    await hotplug.attach(domain, plugs.CARD, BOTH)
    view, written = await plugs.view(domain), await documents(domain)
    for _ in range(2):
        with pytest.raises(OperationTimeout, match=r"the guest has not let go of device 'net0' in 0\.2 s"):
            await hotplug.detach(domain, plugs.CARD, BOTH)
        assert await plugs.view(domain) == view
        assert await documents(domain) == written
    await domain.reset()  # QEMU takes out at a reset what was asked for before
    await until(lambda: host.removed() == ["net0"])
    assert "net0" not in str(await plugs.view(domain))
    live, base, config, stored = await documents(domain)
    assert "<interface" not in live + base and "<interface" in config
    assert stored[0] == live


async def test_a_silent_qemu_does_not_stretch_an_unplug(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a USB controller QEMU is asked whether it is gone, in the time that is left; of others it tells by itself."""
    domain, ask, asked = host.domain, unplug.peripherals, 0
    process = domain.require_run().require_machine().process
    monkeypatch.setattr(unplug, "UNPLUG_TIMEOUT", 0.6)
    monkeypatch.setattr(unplug, "LOOK", 0.1)

    async def silenced(machine: Machine, *, timeout: float) -> frozenset[str]:
        nonlocal asked
        asked += 1
        os.kill(process.pid, signal.SIGSTOP)
        return await ask(machine, timeout=timeout)

    monkeypatch.setattr(unplug, "peripherals", silenced)
    for kind, expected in (("interface", 0), ("usb controller", 1)):
        await hotplug.attach(domain, plugs.kinds(host.image)[kind], LIVE)
        try:
            async with asyncio.timeout(20):  # a command's own patience is 30 s
                with pytest.raises(OperationTimeout, match=r"has not let go of device '\w+' in 0\.6 s"):
                    await hotplug.detach_alias(domain, host.added()[-1], LIVE)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert asked == expected


async def test_while_the_machine_is_paused(host: Host) -> None:
    """An image that came and went then is closed at the latest when the machine runs; its number is not given again."""
    domain, xml = host.domain, plugs.disk(host.image, "sdb", "scsi")
    before = await plugs.view(domain)
    await domain.suspend()
    numbers = []
    for _ in range(2):
        await hotplug.attach(domain, xml, LIVE)
        numbers += [disk.source.index for disk in domain.require_run().live.document.devices.disks if disk.source]
        await hotplug.detach(domain, xml, LIVE)
    assert len(set(numbers)) == 2
    assert await plugs.resumed(domain) == before


async def test_config_only(host: Host) -> None:
    """The definition alone changes; the machine does not notice."""
    domain = host.domain
    before, live = await plugs.view(domain), domain.xml()
    await hotplug.attach(domain, plugs.CARD, CONFIG)
    await hotplug.attach(domain, "<serial type='null'/>", CONFIG)
    await hotplug.update(domain, plugs.CARD.replace("</int", "<link state='down'/></int"), CONFIG)
    assert await plugs.view(domain) == before and domain.xml() == live
    assert domain.config is not None and "<link state='down'/>" in domain.config.secure_xml
    await hotplug.detach(domain, plugs.CARD, CONFIG)
    assert "<interface" not in domain.config.secure_xml


async def test_link(host: Host) -> None:
    """A cable pulled and plugged, live and for good."""
    domain = host.domain
    await hotplug.attach(domain, plugs.CARD, BOTH)
    down = plugs.CARD.replace("</interface>", "<link state='down'/></interface>")
    await hotplug.update(domain, down, BOTH)
    live, base, config, _ = await documents(domain)
    assert all("<link state='down'/>" in each for each in (live, base, config))
    await hotplug.update(domain, plugs.CARD, LIVE)
    live, base, config, _ = await documents(domain)
    assert "<link" not in live and "<link" not in base and "<link state='down'/>" in config
    with pytest.raises(OperationUnsupported, match="cannot modify network device model from virtio to e1000"):
        await hotplug.update(domain, plugs.CARD.replace("type='virtio'", "type='e1000'"), LIVE)
    with pytest.raises(DeviceMissing, match="matching MAC address '52:54:00:00:00:09'"):
        await hotplug.update(domain, plugs.CARD.replace("00:01", "00:09"), LIVE)


async def test_media(host: Host, short_path: Path) -> None:
    """A medium changed, taken out, put in, refused; the tray's events, and no image left open."""
    await host.domain.suspend()  # firmware that scans the bus closes trays
    domain = host.domain
    one, two = short_path / "one.iso", short_path / "two.iso"
    one.write_bytes(b"1" * 4096)
    two.write_bytes(b"2" * 8192)
    await hotplug.attach(domain, plugs.drive(one), BOTH)
    with_one = await plugs.view(domain)
    await hotplug.update(domain, plugs.drive(two), BOTH)
    live, _base, config, stored = await documents(domain)
    assert str(two) in live and str(two) in config and str(one) not in live + config
    assert stored[0] == live and stored[3] is None
    assert len((await plugs.view(domain))["nodes"]) == len(with_one["nodes"])
    with pytest.raises(HostError, match="No such file"):
        await hotplug.update(domain, plugs.drive(short_path / "none.iso"), BOTH)
    assert (await documents(domain))[:3] == (live, _base, config)
    await hotplug.update(domain, plugs.drive(None), LIVE)
    assert "tray=" not in domain.xml() and str(two) not in domain.xml()
    assert len((await plugs.view(domain))["nodes"]) == len(with_one["nodes"]) - 1
    await hotplug.attach(domain, plugs.drive(one), LIVE)  # as virsh attach-disk --type cdrom does
    assert "tray=" not in domain.xml() and str(one) in domain.xml()
    assert [event.reason for event in host.heard if isinstance(event, TrayChange)] == [0, 1] * 3
    await hotplug.detach(domain, plugs.drive(one), BOTH)
    assert not (await plugs.view(domain))["nodes"]


async def test_a_tray_that_stays_open(host: Host, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the drive is exchanged before the tray closes: the documents and the nodes follow it."""
    await host.domain.suspend()
    domain, execute = host.domain, Monitor.execute
    one, two = short_path / "one.iso", short_path / "two.iso"
    for path in (one, two):
        path.write_bytes(b"1" * 4096)

    async def refusing(self: Monitor, command: str, arguments: Any = None, **options: Any) -> Any:
        more = {REFUSE: True} if command == "blockdev-close-tray" else {}
        return await execute(self, command, {**(arguments or {}), **more}, **options)

    await hotplug.attach(domain, plugs.drive(one), BOTH)
    nodes = len((await plugs.view(domain))["nodes"])
    for medium in (two, None):
        with monkeypatch.context() as patch:
            patch.setattr(Monitor, "execute", refusing)
            await hotplug.update(domain, plugs.drive(medium), BOTH)
        live, _base, config, _stored = await documents(domain)
        assert "tray='open'" in live and str(one) not in live + config
        assert (str(two) in live and str(two) in config) == (medium is two)
        assert len((await plugs.view(domain))["nodes"]) == (nodes if medium else nodes - 1)
    await hotplug.update(domain, plugs.drive(one), BOTH)
    assert "tray=" not in domain.xml() and str(one) in domain.xml()


async def test_a_medium_that_cannot_be_written_down(
    host: Host, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk under the store: the drive has again what it had, be that a medium or none."""
    await host.domain.suspend()
    domain = host.domain
    one, two = short_path / "one.iso", short_path / "two.iso"
    for path in (one, two):
        path.write_bytes(b"1" * 4096)

    async def full(*_args: Any, **_columns: Any) -> None:
        raise HostError("cannot write to the store: disk full")

    await hotplug.attach(domain, plugs.drive(one), BOTH)
    for there, wanted in ((one, two), (one, None), (None, two)):
        if there is None:
            await hotplug.update(domain, plugs.drive(None), BOTH)
        before, written = await plugs.view(domain), await documents(domain)
        with monkeypatch.context() as patch:
            patch.setattr(host.hypervisor.store, "end_plug", full)
            with pytest.raises(HostError, match="disk full"):
                await hotplug.update(domain, plugs.drive(wanted), BOTH)
        assert await plugs.view(domain) == before
        assert (await documents(domain))[:3] == written[:3]
    await hotplug.update(domain, plugs.drive(two), BOTH)
    assert str(two) in domain.xml() and (await documents(domain))[3][3] is None


async def test_what_is_no_iso(host: Host, short_path: Path) -> None:
    """An image of a wrong format is refused before the tray moves."""
    domain = host.domain
    good, bad = short_path / "good.iso", short_path / "bad.qcow2"
    good.write_bytes(b"1" * 4096)
    bad.write_bytes(b"no qcow2" * 512)
    await hotplug.attach(domain, plugs.drive(good), LIVE)
    before = domain.xml()
    with pytest.raises(CorralError):
        await hotplug.update(
            domain, plugs.drive(bad).replace("<source", "<driver name='qemu' type='qcow2'/><source"), LIVE
        )
    assert domain.xml() == before
    assert not [event for event in host.heard if isinstance(event, TrayChange)]


async def taken_out(domain: Domain, xml: str, flags: int) -> None:
    """Unplug, with the guest's part done as the ACPI tables of a `pc` do it: slots told at 0xae04, ejected at 0xae08.

    Not by a reset, at which QEMU, too, takes out what it has asked for: 10.0 ends there if that is a serial port.
    """
    monitor = domain.require_run().require_machine().monitor
    going = asyncio.ensure_future(hotplug.detach(domain, xml, flags))
    while not going.done():
        slots = (await monitor.human("i /wx 0xae04")).split("=")[1].strip()
        if int(slots, 16):
            await monitor.human(f"o /w 0xae08 {slots}")
        await asyncio.wait([going], timeout=0.05)
    await going


MODULES = {"memory": "dimm0", "growing memory": "virtiomem0"}


async def killed(directory: Path, call: str, step: int, device: str, machine: str) -> bool:
    """Have a daemon start the machine and die at a step of what it does with the device; whether it came to the end."""
    directory.mkdir()  # noqa: ASYNC240
    (directory / "other.img").write_bytes(b"\1" * 65536)
    (directory / "machine.xml").write_text(machine)
    (directory / "device.xml").write_text(device)
    victim = Path(__file__).with_name("plug_victim.py")
    command = [sys.executable, str(victim), str(directory), life.cache().name, call, str(step)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return "acknowledged" in done.stdout


@pytest.mark.parametrize(
    "call",
    [
        "plug scsi disk",
        "unplug scsi disk",
        "plug channel",
        "unplug channel",
        "plug memory",
        "refused memory",
        pytest.param("plug growing memory", marks=pytest.mark.slow),
        pytest.param("refused growing memory", marks=pytest.mark.slow),
        "media cdrom",
    ],
)
async def test_a_daemon_killed(call: str, short_path: Path) -> None:
    """A daemon that dies by SIGKILL at any command: the next one's documents are what QEMU has, and all goes on."""
    deaths = 0
    image = short_path / "disk.img"
    image.write_bytes(b"\0" * 65536)
    deed, kind = call.split(maxsplit=1)
    device = {**plugs.kinds(image), "cdrom": plugs.drive(image)}[kind]
    try:
        for step in range(1, 30):
            directory = short_path / str(step)
            acknowledged = await killed(directory, deed, step, device, machine())
            await _check_after(directory, call, acknowledged)
            life.end_machines(directory)
            if acknowledged:
                break
            deaths += 1
    finally:
        life.end_machines(short_path)
    assert acknowledged and deaths >= 3


async def _check_after(directory: Path, call: str, acknowledged: bool) -> None:
    async with life.opened(directory) as (hypervisor, _):
        domain = hypervisor.lookup_by_name("a")
        view = await plugs.resumed(domain)
        live, base, _config, stored = await documents(domain)
        assert stored[0] == live and stored[1] == base and stored[3] is None
        devices = domain.require_run().live.document.devices
        disks = {disk.alias.name: disk for disk in devices.disks if disk.alias}
        assert {name for name in view["devices"] if "scsi0-0-0" in name} == set(disks)
        channels = {channel.alias.name for channel in devices.channels if channel.alias}
        assert {name for name in view["devices"] if name.startswith("channel")} == channels
        assert {name for name in view["chardevs"] if name.startswith("charchannel")} == {f"char{c}" for c in channels}
        nodes = {f"libvirt-{disk.source.index}-storage" for disk in disks.values() if disk.source}
        assert set(view["nodes"]) == nodes
        assert set(view["files"]) == {disk.source.index for disk in disks.values() if disk.source}
        modules = {each.alias.name for each in devices.memories if each.alias}
        assert {name for name in view["devices"] if name.startswith(("dimm", "virtiomem"))} == modules
        assert {name for name in view["objects"] if name.startswith("mem")} == {f"mem{name}" for name in modules}
        assert domain.info().memory == (96 if "dimm0" in modules else 32) << 10
        if acknowledged:
            done = {"plug scsi disk": "sdb" in live, "unplug scsi disk": "sdb" not in live}
            done |= {f"plug {kind}": alias in modules for kind, alias in MODULES.items()}
            done |= {f"refused {kind}": alias in modules for kind, alias in MODULES.items()}
            assert done.get(call, True)
        image = directory / "spare.img"
        image.write_bytes(b"\0" * 65536)
        await hotplug.attach(domain, plugs.disk(image, "sdc", "scsi"), LIVE)
        await hotplug.detach(domain, plugs.disk(image, "sdc", "scsi"), LIVE)
        assert await plugs.view(domain) == view


async def test_a_session_ends_with_its_device(host: Host) -> None:
    """Who has a channel open that is unplugged, or a console, reads their end; the next one may be opened."""
    domain, run = host.domain, host.domain.require_run()
    channel = "<channel type='unix'><target type='virtio' name='org.example.talk'/></channel>"
    port = "<serial type='pty'><target type='usb-serial'/></serial>"
    for xml in (channel, channel, port, port):
        await hotplug.attach(domain, xml, LIVE)
        (alias,) = host.added()[-1:]
        opened = domain.open_channel("org.example.talk") if xml is channel else domain.open_console(alias)
        session = await opened
        assert list(run.sessions) == [alias]
        with pytest.raises(CorralError):
            await hotplug.detach(domain, plugs.CARD, LIVE)  # of which there is none: nobody's session ends
        assert list(run.sessions) == [alias]
        await hotplug.detach_alias(domain, alias, LIVE)
        async with asyncio.timeout(30):
            assert await session.read() == b""
        assert not run.sessions
    console = await domain.open_console()
    assert list(run.sessions) == ["serial0"]
    with pytest.raises(CorralError, match="Active console session exists"):
        await domain.open_console("serial0")
    console.close()
    assert not run.sessions
