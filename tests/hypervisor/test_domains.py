"""Domains with a real QEMU: what each call does, to the process, to the state, and in events."""

# ruff: noqa: ASYNC240 (a test may wait for the disk)

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.waiting import until

from corral.constants import (
    ConnectListAllDomainsFlags,
    DomainCreateFlags,
    DomainMetadataType,
    DomainModificationImpact,
    DomainUndefineFlags,
    DomainXMLFlags,
)
from corral.errors import (
    ArgumentUnsupported,
    ConfigUnsupported,
    DomainExists,
    HostError,
    InternalError,
    InvalidArgument,
    NoDomain,
    NoDomainMetadata,
    OperationFailed,
    OperationInvalid,
    ResourceBusy,
    XMLError,
)
from corral.hypervisor import events
from corral.hypervisor.domain import Domain
from corral.hypervisor.hypervisor import Hypervisor
from labs import corrald

from .life import PANIC, POWER_OFF, RESET, Heard, document, opened, press

pytestmark = pytest.mark.qemu

A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"
PAUSED = DomainCreateFlags.START_PAUSED
STARTED = [("resumed", 0), ("started", 0)]
STARTED_PAUSED = [("started", 0), ("suspended", 0)]
DESTROYED = [("shutdown", 2), ("stopped", 1)]


@pytest.fixture
async def both(directory: Path) -> AsyncIterator[tuple[Hypervisor, Heard]]:
    async with opened(directory) as pair:
        yield pair


@pytest.fixture
def hypervisor(both: tuple[Hypervisor, Heard]) -> Hypervisor:
    return both[0]


@pytest.fixture
def heard(both: tuple[Hypervisor, Heard]) -> Heard:
    return both[1]


# Definitions, without a process.


async def test_defining_twice_updates_and_conflicts_are_libvirts(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.define(document("a", uuid=A))
    assert await hypervisor.define(document("a", uuid=A, extra="<title>x</title>")) is domain
    assert heard.lifecycle() == [("defined", 0), ("defined", 1)]
    assert domain.metadata(DomainMetadataType.TITLE) == "x"
    with pytest.raises(DomainExists, match=rf"^operation failed: domain 'a' already exists with uuid {A}$"):
        await hypervisor.define(document("a", uuid=B))
    with pytest.raises(DomainExists, match=f"domain 'a' already exists with uuid {A}"):
        await hypervisor.define(document("a"))
    with pytest.raises(DomainExists, match=f"domain 'a' is already defined with uuid {A}"):
        await hypervisor.define(document("b", uuid=A))
    assert [each.name for each in hypervisor.domains()] == ["a"]


async def test_definitions_race_and_one_wins(hypervisor: Hypervisor) -> None:
    results = await asyncio.gather(*(hypervisor.define(document("a")) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Domain) for result in results) == 1
    assert sum(isinstance(result, DomainExists) for result in results) == 4


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ("<domain", XMLError, "at line 1"),
        (document("a/b"), XMLError, "name a/b cannot contain '/'"),
        (document("a", extra="<nonsense/>"), XMLError, "/domain"),
        (document("a", memory=0), XMLError, "Memory size must be specified"),
        (document("a").replace("q35", "nope"), ConfigUnsupported, "nope"),
        (document("a", extra="<on_poweroff>preserve</on_poweroff>"), ConfigUnsupported, "'preserve'"),
        (document("a", extra="<cpu><model>NoSuchCPU</model></cpu>"), ConfigUnsupported, "NoSuchCPU"),
    ],
)
async def test_a_bad_document_changes_nothing(
    hypervisor: Hypervisor, heard: Heard, bad: str, error: type[Exception], words: str
) -> None:
    for attempt in (hypervisor.define, hypervisor.create_xml):
        with pytest.raises(error, match=re.escape(words)):
            await attempt(bad)
    assert hypervisor.domains() == []
    assert heard == []


async def test_lookups_and_their_texts(hypervisor: Hypervisor) -> None:
    domain = await hypervisor.define(document("a", uuid=A))
    assert hypervisor.lookup_by_name("a") is hypervisor.lookup_by_uuid(domain.uuid) is domain
    with pytest.raises(NoDomain, match=r"^Domain not found: no domain with matching name 'b'$"):
        hypervisor.lookup_by_name("b")
    with pytest.raises(NoDomain, match="no domain with matching id 1"):
        hypervisor.lookup_by_id(1)
    await domain.undefine()
    with pytest.raises(NoDomain, match=f"no domain with matching uuid '{A}'"):
        hypervisor.lookup_by_uuid(domain.uuid)


async def test_renaming(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.define(document("a"))
    await hypervisor.define(document("b"))
    heard.clear()
    await domain.rename("c")
    assert heard.lifecycle("a") == [("undefined", 1)]
    assert heard.lifecycle("c") == [("defined", 2)]
    assert "<name>c</name>" in domain.xml()
    assert hypervisor.lookup_by_name("c") is domain
    with pytest.raises(NoDomain):
        hypervisor.lookup_by_name("a")
    for name, error, words in (
        ("c", OperationInvalid, "Can't rename domain to itself"),
        ("b", OperationInvalid, "domain with name 'b' already exists"),
        ("x/y", XMLError, "name x/y cannot contain '/'"),
        ("", InvalidArgument, "new_name"),
    ):
        with pytest.raises(error, match=words):
            await domain.rename(name)
    assert sorted(each.name for each in hypervisor.domains()) == ["b", "c"]


async def test_metadata_of_a_definition(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.define(document("a"))
    element, uri = DomainMetadataType.ELEMENT, "http://example.org/x"
    await domain.set_metadata(DomainMetadataType.TITLE, "A title", None, None)
    await domain.set_metadata(element, "<owner>me</owner>", "x", uri)
    assert domain.metadata(DomainMetadataType.TITLE) == "A title"
    assert "me" in domain.metadata(element, uri)
    assert "http://example.org/x" in domain.xml()
    await domain.set_metadata(element, None, "x", uri)
    with pytest.raises(NoDomainMetadata, match=r"^metadata not found: Requested metadata element is not present$"):
        domain.metadata(element, uri)
    assert "<metadata>" not in domain.xml()
    with pytest.raises(InvalidArgument, match="metadata title can't contain newlines"):
        await domain.set_metadata(DomainMetadataType.TITLE, "a\nb", None, None)
    with pytest.raises(XMLError):
        await domain.set_metadata(element, "<owner>", "x", uri)
    with pytest.raises(OperationInvalid, match="domain is not running"):
        await domain.set_metadata(DomainMetadataType.TITLE, "x", None, None, DomainModificationImpact.LIVE)
    changes = [event for event in heard if isinstance(event, events.MetadataChange)]
    assert [(change.type, change.nsuri) for change in changes] == [(1, None), (2, uri), (2, uri)]


async def test_everything_of_a_definition_survives_the_daemon(directory: Path) -> None:
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(document("a", uuid=A))
        await domain.set_autostart(True)
        await domain.set_metadata(DomainMetadataType.DESCRIPTION, "described", None, None)
        await domain.rename("b")
        before = domain.xml(DomainXMLFlags.SECURE)
    async with opened(directory) as (hypervisor, _):
        domain = hypervisor.lookup_by_name("b")
        assert domain.xml(DomainXMLFlags.SECURE) == before
        assert (str(domain.uuid), domain.autostart, domain.persistent, domain.active) == (A, True, True, False)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("suspend", ()),
        ("resume", ()),
        ("destroy", ()),
        ("shutdown", ()),
        ("reboot", ()),
        ("reset", ()),
        ("inject_nmi", ()),
        ("screenshot", ()),
        ("open_console", ()),
        ("open_channel", ()),
        ("send_key", (0, 0, [30])),
        ("monitor_command", ("info status", 1)),
        ("agent_command", ("{}", -1)),
        ("hostname", ()),
    ],
)
async def test_what_needs_a_process_says_that_there_is_none(
    hypervisor: Hypervisor, call: str, arguments: tuple[object, ...]
) -> None:
    domain = await hypervisor.define(document("a"))
    with pytest.raises(OperationInvalid, match=r"^Requested operation is not valid: domain is not running$"):
        await getattr(domain, call)(*arguments)


# A life.


async def test_the_life_of_a_defined_domain(hypervisor: Hypervisor, heard: Heard, directory: Path) -> None:
    domain = await hypervisor.define(document("a"))
    offline = domain.xml()
    heard.clear()
    await domain.create()
    assert heard.lifecycle() == STARTED
    assert (domain.state(), domain.id, domain.active) == ((1, 1), 1, True)
    assert len(corrald.machines(directory)) == 1
    assert hypervisor.lookup_by_id(1) is domain
    live = domain.xml()
    assert live.startswith("<domain type='qemu' id='1'>")
    assert "<alias name='serial0'/>" in live and "/dev/pts/" in live
    assert domain.xml(DomainXMLFlags.INACTIVE) == offline
    with pytest.raises(OperationInvalid, match="domain is already running"):
        await domain.create()
    with pytest.raises(OperationInvalid, match="domain is already running"):
        await domain.resume()
    with pytest.raises(OperationInvalid, match="cannot rename active domain"):
        await domain.rename("b")
    heard.clear()
    await domain.suspend()
    assert domain.state() == (3, 1)
    await domain.suspend()
    with pytest.raises(OperationInvalid, match="domain is not running"):
        await domain.shutdown()
    await domain.resume()
    assert domain.state() == (1, 5)
    assert heard.lifecycle() == [("suspended", 0), ("resumed", 0)]
    await domain.reset()
    await until(lambda: "Reboot" in heard.other())
    heard.clear()
    await domain.destroy()
    assert heard.lifecycle() == DESTROYED
    assert [event.dom.id for event in heard if isinstance(event, events.Lifecycle)] == [1, -1]
    assert (domain.state(), domain.id, domain.active) == ((5, 2), -1, False)
    assert corrald.machines(directory) == []
    assert domain.xml() == offline
    await domain.create(PAUSED)
    assert (domain.id, domain.state()) == (2, (3, 1))
    assert heard.lifecycle()[2:] == STARTED_PAUSED


async def test_a_transient_domain_vanishes(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.create_xml(document("t", uuid=A))
    assert (domain.persistent, domain.autostart) == (False, False)
    with pytest.raises(OperationInvalid, match="cannot set autostart for transient domain"):
        await domain.set_autostart(True)
    with pytest.raises(OperationInvalid, match="cannot undefine transient domain"):
        await domain.undefine()
    with pytest.raises(OperationInvalid, match="transient domains do not have any persistent config"):
        await domain.set_metadata(DomainMetadataType.TITLE, "x", None, None, DomainModificationImpact.CONFIG)
    with pytest.raises(OperationInvalid, match="domain 't' is already active"):
        await hypervisor.create_xml(document("t", uuid=A))
    with pytest.raises(DomainExists):
        await hypervisor.create_xml(document("t", uuid=B))
    assert domain.xml(DomainXMLFlags.INACTIVE).startswith("<domain type='qemu'>")
    assert "<alias" not in domain.xml(DomainXMLFlags.INACTIVE)
    generation = domain.generation
    await domain.destroy()
    assert domain.generation != generation
    assert heard.lifecycle() == STARTED + DESTROYED
    assert hypervisor.domains() == []


async def test_a_definition_comes_and_goes_while_it_runs(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.create_xml(document("a", uuid=A, extra="<title>live</title>"), PAUSED)
    heard.clear()
    await hypervisor.define(document("a", uuid=A, extra="<title>next</title>"))
    assert heard.lifecycle() == [("defined", 1)]
    assert domain.persistent
    title, impact = DomainMetadataType.TITLE, DomainModificationImpact
    assert domain.metadata(title) == domain.metadata(title, None, impact.LIVE) == "live"
    assert domain.metadata(title, None, impact.CONFIG) == "next"
    await domain.set_metadata(title, "both", None, None, impact.LIVE | impact.CONFIG)
    assert "<title>both</title>" in domain.xml() and "<title>both</title>" in domain.xml(DomainXMLFlags.INACTIVE)
    await domain.set_metadata(title, "live again", None, None)
    assert domain.metadata(title, None, impact.CONFIG) == "both"
    await domain.undefine()
    assert (domain.persistent, domain.active) == (False, True)
    assert heard.lifecycle() == [("defined", 1), ("undefined", 0)]
    await domain.destroy()
    assert hypervisor.domains() == []


async def test_another_document_for_one_run(hypervisor: Hypervisor) -> None:
    defined = await hypervisor.define(document("a", uuid=A))
    running = await hypervisor.create_xml(document("a", uuid=A, extra="<title>once</title>"), PAUSED)
    assert running is defined and running.persistent
    assert "once" in running.xml() and "once" not in running.xml(DomainXMLFlags.INACTIVE)
    await running.destroy()
    assert hypervisor.domains() == [defined]
    assert "once" not in defined.xml()


async def test_lists_by_every_filter(hypervisor: Hypervisor) -> None:
    await hypervisor.define(document("off"))
    auto = await hypervisor.define(document("auto"))
    await auto.set_autostart(True)
    await auto.create(PAUSED)
    await hypervisor.create_xml(document("transient"))
    flags = ConnectListAllDomainsFlags

    def names(*wanted: int) -> str:
        return " ".join(domain.name for domain in hypervisor.domains(sum(wanted)))

    assert names() == "auto off transient"
    assert names(flags.ACTIVE) == "auto transient"
    assert names(flags.INACTIVE) == names(flags.SHUTOFF) == "off"
    assert names(flags.ACTIVE, flags.INACTIVE) == "auto off transient"
    assert names(flags.PERSISTENT) == "auto off"
    assert names(flags.TRANSIENT) == "transient"
    assert names(flags.RUNNING) == "transient"
    assert names(flags.PAUSED) == names(flags.AUTOSTART) == "auto"
    assert names(flags.RUNNING, flags.PAUSED) == "auto transient"
    assert names(flags.NO_AUTOSTART, flags.ACTIVE) == "transient"
    assert names(flags.OTHER) == names(flags.MANAGEDSAVE) == names(flags.HAS_SNAPSHOT) == ""
    assert names(flags.NO_MANAGEDSAVE, flags.NO_SNAPSHOT, flags.NO_CHECKPOINT) == "auto off transient"


# Ends.


async def test_a_machine_killed_from_outside_has_crashed_within_100_ms(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.define(document("a"))
    delays = list[float]()
    while len(delays) < 10 and not (delays and delays[-1] < 0.1):  # other programs may keep this machine busy
        await domain.create()
        heard.clear()
        assert domain.run and domain.run.process
        begin = time.monotonic()
        os.kill(domain.run.process.pid, signal.SIGKILL)
        await until(lambda: heard.lifecycle())
        delays.append(time.monotonic() - begin)
        assert domain.state() == (5, 3)
        assert heard.lifecycle() == [("stopped", 5)]
    assert min(delays) < 0.1


async def test_a_machine_terminated_from_outside_was_shut_down(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.create_xml(document("a"))
    heard.clear()
    assert domain.run and domain.run.process
    os.kill(domain.run.process.pid, signal.SIGTERM)
    await until(lambda: not domain.active)
    assert heard.lifecycle() == [("shutdown", 2), ("stopped", 0)]
    assert domain.state() == (5, 1)
    assert hypervisor.domains() == []


async def test_a_guest_that_powers_off(hypervisor: Hypervisor, heard: Heard, directory: Path) -> None:
    domain = await hypervisor.define(document("a"))
    await domain.create()
    await press(domain, POWER_OFF, lambda: not domain.active)
    assert heard.lifecycle()[-2:] == [("shutdown", 1), ("stopped", 0)]
    assert domain.state() == (5, 1)
    assert corrald.machines(directory) == []


async def test_on_poweroff_restart_boots_again_in_silence(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.create_xml(document("a", extra="<on_poweroff>restart</on_poweroff>"))
    heard.clear()
    pid = domain.run and domain.run.process and domain.run.process.pid
    await press(domain, POWER_OFF, lambda: "Reboot" in heard.other())
    await until(lambda: domain.run and not domain.run.booting_again)
    assert domain.run and domain.run.process and domain.run.process.pid == pid
    assert domain.state() == (1, 1)
    assert heard.lifecycle() == []
    assert "running" in await domain.monitor_command("info status", 1)


async def test_on_reboot_destroy_ends_a_guest_that_resets_itself(hypervisor: Hypervisor, heard: Heard) -> None:
    domain = await hypervisor.create_xml(document("a", extra="<on_reboot>destroy</on_reboot>"))
    heard.clear()
    await press(domain, RESET, lambda: not domain.active)
    assert heard.lifecycle() == [("shutdown", 1), ("stopped", 0)]


@pytest.mark.parametrize(
    ("action", "state", "told"),
    [
        ("destroy", (5, 3), [("shutdown", 2), ("stopped", 2)]),
        ("preserve", (6, 1), []),
        ("restart", (1, 9), [("resumed", 0)]),
        ("coredump-destroy", (5, 3), [("shutdown", 2), ("stopped", 2)]),
    ],
)
async def test_a_panic(
    hypervisor: Hypervisor, heard: Heard, directory: Path, action: str, state: tuple[int, int], told: list[object]
) -> None:
    domain = await hypervisor.define(
        document("a", extra=f"<on_crash>{action}</on_crash>", devices="<panic model='isa'/>")
    )
    await domain.create()
    heard.clear()
    await domain.monitor_command(PANIC, 1)
    crashed = [("suspended", 0), ("crashed", 0)]
    await until(lambda: domain.state() == state and domain.jobs.holder is None)
    await until(lambda: heard.lifecycle() == crashed + told)
    assert len(list(directory.glob("dump/*.core"))) == (action == "coredump-destroy")
    if action == "preserve":
        await domain.reset()
        assert domain.state() == (3, 10)


async def test_what_a_client_owns_goes_with_it(hypervisor: Hypervisor, heard: Heard) -> None:
    client, other = object(), object()
    autodestroy = DomainCreateFlags.START_AUTODESTROY
    persistent = await hypervisor.define(document("p"))
    await persistent.create(autodestroy | PAUSED, owner=client)
    await hypervisor.create_xml(document("t"), autodestroy | PAUSED, owner=client)
    theirs = await hypervisor.create_xml(document("o"), autodestroy | PAUSED, owner=other)
    stays = await hypervisor.create_xml(document("s"), PAUSED, owner=client)
    await hypervisor.owner_closed(client)
    assert set(hypervisor.domains()) == {persistent, theirs, stays}
    assert not persistent.active and theirs.active and stays.active
    assert heard.lifecycle("t")[-1] == ("stopped", 1)


async def test_a_start_may_follow_the_event_of_an_end_at_once(hypervisor: Hypervisor, heard: Heard) -> None:
    starts = []

    def again(event: events.Event) -> None:
        if isinstance(event, events.Lifecycle) and event.event == 5 and len(starts) < 3:
            starts.append(asyncio.create_task(hypervisor.create_xml(document("a", uuid=A, devices=vnc))))

    vnc = "<graphics type='vnc' autoport='yes'/>"
    hypervisor.events.subscribe(again)
    domain = await hypervisor.create_xml(document("a", uuid=A, devices=vnc))
    for number in range(3):
        await domain.destroy()
        domain = await starts[number]
        assert domain.active
    _, live = await hypervisor.store.load()
    assert [row.id for row in live] == [domain.id]


async def test_a_frozen_machine_is_destroyed_all_the_same(
    hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.hypervisor.ending.TERMINATE_TIMEOUT", 0.2)
    domain = await hypervisor.define(document("a"))
    await domain.create()
    assert domain.run and domain.run.process
    os.kill(domain.run.process.pid, signal.SIGSTOP)
    stuck = asyncio.create_task(domain.suspend())
    await until(lambda: domain.control_info().state == 1)  # a job
    assert domain.state() == (1, 1) and "<name>a</name>" in domain.xml()  # a query never waits
    with pytest.raises(HostError, match="Failed to terminate process"):
        await domain.destroy(1)
    assert domain.active
    await domain.destroy()
    assert domain.state() == (5, 2)
    with pytest.raises(OperationFailed):
        await stuck


async def test_a_start_is_ended_by_destroy(
    hypervisor: Hypervisor, heard: Heard, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corral.qemu.machine import Machine

    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: Machine) -> None:
        reached.set()
        await go_on.wait()

    monkeypatch.setattr(Machine, "cont", slow)
    domain = await hypervisor.create_xml(document("x"), PAUSED)
    await domain.destroy()
    heard.clear()
    domain = await hypervisor.define(document("a"))
    start = asyncio.create_task(domain.create())
    await reached.wait()
    assert domain.state() == (3, 11) and domain.job_info().operation == 1
    await domain.destroy()
    with pytest.raises(Exception, match="destroyed while it was being started"):
        await start
    assert not domain.active
    assert corrald.machines(directory) == []
    assert heard.lifecycle() == [("defined", 0)]


# Starts that fail leave nothing.


@pytest.mark.parametrize("transient", [True, False])
async def test_a_start_that_fails_is_undone_and_tells_qemus_words(
    hypervisor: Hypervisor, heard: Heard, directory: Path, transient: bool
) -> None:
    bad = document("a", extra="").replace("</os>", "<kernel>/no/such/kernel</kernel></os>")
    with pytest.raises((InternalError, HostError), match="/no/such/kernel"):
        if transient:
            await hypervisor.create_xml(bad)
        else:
            await (await hypervisor.define(bad)).create()
    assert corrald.machines(directory) == []
    assert list((directory / "run").iterdir()) == []
    assert [domain.state() for domain in hypervisor.domains()] == ([] if transient else [(5, 6)])
    assert heard.lifecycle() == ([] if transient else [("defined", 0)])
    _, live = await hypervisor.store.load()
    assert live == []


def disk(path: Path, more: str = "", image_format: str = "raw") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{image_format}'/><source file='{path}'/>"
        f"<target dev='vda' bus='virtio'/>{more}</disk>"
    )


async def test_missing_and_busy_images(hypervisor: Hypervisor, directory: Path) -> None:
    image = directory / "disk.raw"
    with pytest.raises(HostError, match=f"Cannot access storage file '{image}': No such file or directory"):
        await hypervisor.create_xml(document("a", devices=disk(image)))
    image.write_bytes(bytes(1 << 20))
    first = await hypervisor.create_xml(document("a", devices=disk(image)), PAUSED)
    link = directory / "link.raw"
    link.symlink_to(image)
    with pytest.raises(ResourceBusy, match=f"disk image '{image}' of domain 'b' is in use by running domain 'a'"):
        await hypervisor.create_xml(document("b", devices=disk(link)))
    assert hypervisor.domains() == [first]
    await first.destroy()
    shared = "<shareable/>"
    await hypervisor.create_xml(document("c", devices=disk(image, shared)), PAUSED)
    await hypervisor.create_xml(document("d", devices=disk(image, shared)), PAUSED)


async def test_ports_of_displays_do_not_collide(hypervisor: Hypervisor) -> None:
    vnc = "<graphics type='vnc' port='-1' autoport='yes' passwd='secret'/>"
    domains = await asyncio.gather(
        *(hypervisor.create_xml(document(f"v{number}", devices=vnc), PAUSED) for number in range(3))
    )
    ports = [int(re.findall(r"<graphics type='vnc' port='(\d+)'", domain.xml())[0]) for domain in domains]
    assert len(set(ports)) == 3 and min(ports) >= 5900
    assert all("secret" not in domain.xml() for domain in domains)
    assert all("passwd='secret'" in domain.xml(DomainXMLFlags.SECURE) for domain in domains)
    picture = await domains[0].screenshot()
    assert picture.mime in ("image/png", "image/x-portable-pixmap") and len(picture.data) > 100
    with pytest.raises(OperationInvalid, match="no such screen ID: 7"):
        await domains[0].screenshot(7)


# The guest's ends.


async def test_the_console_is_one_clients_at_a_time(hypervisor: Hypervisor) -> None:
    domain = await hypervisor.create_xml(document("a", extra="<on_poweroff>destroy</on_poweroff>"))
    first = await domain.open_console()
    with pytest.raises(OperationFailed, match="Active console session exists for this domain"):
        await domain.open_console("serial0")
    waiting = asyncio.create_task(first.read())
    await asyncio.sleep(0)
    second = await domain.open_console(None, 1)
    await asyncio.wait_for(waiting, 30)
    assert await first.read() == b""
    # What goes out of the guest's serial port arrives: QEMU writes to COM1's data register on our behalf.
    await domain.monitor_command("o /b 0x3f8 0x43", 1)
    assert await asyncio.wait_for(second.read(), 30) == b"C"
    await second.write(b"x")
    second.close()
    third = await domain.open_console()
    with pytest.raises(InternalError, match="cannot find character device serial7"):
        await domain.open_console("serial7")
    await domain.destroy()
    assert await asyncio.wait_for(third.read(), 1) == b""


async def test_without_devices_the_texts_say_so(hypervisor: Hypervisor) -> None:
    bare = document("a").replace("<serial type='pty'/>", "")
    domain = await hypervisor.create_xml(bare, PAUSED)
    with pytest.raises(InternalError, match="cannot find character device <null>"):
        await domain.open_console()
    with pytest.raises(InternalError, match="cannot find channel <null>"):
        await domain.open_channel()
    with pytest.raises(OperationInvalid, match="no screens to take screenshot from"):
        await domain.screenshot()
    await domain.resume()
    for call in (domain.agent_command("{}", -1), domain.hostname(), domain.shutdown(2), domain.reboot(2)):
        with pytest.raises(ArgumentUnsupported, match=r"^argument unsupported: QEMU guest agent is not configured$"):
            await call
    await domain.send_key(0, 0, [30, 48])
    await domain.inject_nmi()
    await domain.shutdown()


async def test_figures(hypervisor: Hypervisor, directory: Path) -> None:
    image = directory / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    domain = await hypervisor.define(document("a", devices=disk(image)))
    assert domain.info().cpu_time == 0
    await domain.create()
    info = domain.info()
    assert (info.state, info.max_memory, info.memory, info.vcpus) == (1, 32768, 32768, 1)
    await until(lambda: domain.info().cpu_time > 0)
    stats = {name: value for name, _, value in await domain.stats()}
    assert stats["state.state"] == 1
    assert stats["cpu.time"] > 0
    assert stats["balloon.current"] == 32768
    assert (stats["vcpu.current"], stats["vcpu.maximum"], stats["vcpu.0.state"]) == (1, 1, 1)
    assert (stats["block.count"], stats["block.0.name"], stats["block.0.path"]) == (1, "vda", str(image))
    assert stats["block.0.capacity"] == 1 << 20
    assert "block.0.rd.bytes" in stats


async def test_firmware_variables_belong_to_the_domain(hypervisor: Hypervisor) -> None:
    efi = document("a").replace("<os>", "<os firmware='efi'>")
    try:
        domain = await hypervisor.define(efi)
    except ConfigUnsupported as error:
        pytest.skip(f"no UEFI firmware here: {error}")
    variables = Path(re.findall(r"<nvram[^>]*>([^<]+)</nvram>", domain.xml())[0])
    await domain.create(PAUSED)
    assert variables.exists()
    await domain.destroy()
    with pytest.raises(OperationInvalid, match="cannot undefine domain with nvram"):
        await domain.undefine()
    await domain.undefine(DomainUndefineFlags.NVRAM)
    assert not variables.exists()


async def test_the_log_is_qemus_own(hypervisor: Hypervisor) -> None:
    domain = await hypervisor.create_xml(document("a"), PAUSED)
    assert domain.run and domain.run.process
    os.kill(domain.run.process.pid, signal.SIGTERM)
    await until(lambda: not domain.active)
    assert "terminating on signal 15" in await domain.log_text(1)
    other = await hypervisor.define(document("a"))
    assert await other.log_text() == "", "an earlier machine's log is not its own"
    await other.create(PAUSED)
    assert "terminating" not in await other.log_text()
    await other.destroy()
    ended = await other.log_text()
    assert "terminating on signal 15" in ended
    await other.create(PAUSED)
    assert (await other.log_text()).startswith(ended)
