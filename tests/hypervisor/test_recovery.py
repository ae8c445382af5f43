"""The daemon killed by SIGKILL at every step of every change: the next one finishes it or undoes it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.waiting import until

from corral.constants import DomainCreateFlags, DomainXMLFlags
from corral.hypervisor import events
from corral.hypervisor.domain import Domain
from corral.hypervisor.hypervisor import Hypervisor
from labs import corrald

from .life import PANIC, POWER_OFF, document, opened, settings

pytestmark = pytest.mark.qemu

PAUSED = DomainCreateFlags.START_PAUSED


async def kill_at(directory: Path, call: str, point: str) -> bool:
    """Run `call` in a daemon that dies at `point`; whether the call was acknowledged before."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.hypervisor.victim",
        str(directory),
        str(settings(directory).cache),
        call,
        point,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == -signal.SIGKILL, f"{call} did not come to {point}"
    return b"acknowledged" in output


def outline(hypervisor: Hypervisor) -> tuple[bool, bool, tuple[int, int]] | None:
    """(defined, active, (state, reason)) of domain `a`; None when there is none."""
    domains = hypervisor.domains()
    if not domains:
        return None
    (domain,) = domains
    return domain.persistent, domain.active, tuple(domain.state())


DEFINED_OFF = (True, False)
RUNNING = (1, 1)
# A start up to the row that says `running`, and after it.
EARLY = (
    "before Store.add_live",
    "after Store.add_live",
    "before Process.spawn",
    "after Process.spawn",
    "after Machine.start",
    "before Store.update_live",
)
LATE = ("after Store.update_live", "before Machine.cont", "after Machine.cont", "before EventBus.emit")
NEVER = "before Store.close"


@pytest.mark.parametrize("point", EARLY)
@pytest.mark.parametrize("call", ["create", "create defined"])
async def test_a_start_that_was_not_complete_is_undone(directory: Path, call: str, point: str) -> None:
    assert not await kill_at(directory, call, point)
    async with opened(directory) as (hypervisor, heard):
        assert corrald.machines(directory) == []
        found = outline(hypervisor)
        assert found is None if call == "create" else found and found[:2] == DEFINED_OFF
        assert heard == [], "nobody was told of it, nobody is told of its end"
        assert list((directory / "run").iterdir()) == []
        if found:
            await hypervisor.lookup_by_name("a").create(PAUSED)


@pytest.mark.parametrize("point", LATE)
@pytest.mark.parametrize("call", ["create", "create defined"])
async def test_a_start_that_was_complete_is_carried_through(directory: Path, call: str, point: str) -> None:
    assert not await kill_at(directory, call, point)
    async with opened(directory) as (hypervisor, _):
        found = outline(hypervisor)
        assert found == (call != "create", True, RUNNING)
        assert "running" in await hypervisor.lookup_by_name("a").monitor_command("info status", 1)
        assert len(corrald.machines(directory)) == 1


@pytest.mark.parametrize(
    "point",
    [
        "before Store.update_live",
        "after Store.update_live",
        "before Process.terminate",
        "after Process.terminate",
        "before Store.remove_live",
        "after Store.remove_live",
        NEVER,
    ],
)
@pytest.mark.parametrize("call", ["destroy", "destroy defined"])
async def test_a_destroy_that_was_begun_is_finished(directory: Path, call: str, point: str) -> None:
    acknowledged = await kill_at(directory, call, point)
    assert acknowledged == (point == NEVER)
    async with opened(directory) as (hypervisor, heard):
        found = outline(hypervisor)
        if point == "before Store.update_live":  # nothing had happened yet
            assert found == (call != "destroy", True, RUNNING)
            return
        assert corrald.machines(directory) == []
        assert found is None if call == "destroy" else found == (*DEFINED_OFF, (5, 2))
        if point not in (NEVER, "after Store.remove_live"):
            assert heard.lifecycle()[-1] == ("stopped", 1), "told to those who listen later"


@pytest.mark.parametrize("point", ["before Store.define", "after Store.define", NEVER])
async def test_a_definition_is_there_or_not(directory: Path, point: str) -> None:
    acknowledged = await kill_at(directory, "define", point)
    async with opened(directory) as (hypervisor, _):
        names = [domain.name for domain in hypervisor.domains()]
        assert names == ([] if point == "before Store.define" else ["a"])
        assert acknowledged == (point == NEVER)


@pytest.mark.parametrize("point", ["before Store.undefine", "after Store.undefine", NEVER])
async def test_an_undefinition_of_a_running_domain_leaves_it_running(directory: Path, point: str) -> None:
    await kill_at(directory, "undefine defined", point)
    async with opened(directory) as (hypervisor, _):
        assert outline(hypervisor) == (point == "before Store.undefine", True, RUNNING)
        domain = hypervisor.lookup_by_name("a")
        await domain.destroy()
        assert hypervisor.domains() == ([domain] if domain.persistent else [])


@pytest.mark.parametrize(
    ("call", "point", "expected"),
    [
        ("suspend", "before Machine.stop", [(1, 1)]),
        ("suspend", "after Machine.stop", [(3, 1), (3, 0)]),  # the reason may not be written down yet
        ("suspend", NEVER, [(3, 1)]),
        ("resume", "before Machine.cont", [(3, 1)]),
        ("resume", "after Machine.cont", [(1, 5), (1, 0)]),
        ("resume", NEVER, [(1, 5)]),
    ],
)
async def test_pausing_is_where_qemu_is(
    directory: Path, call: str, point: str, expected: list[tuple[int, int]]
) -> None:
    await kill_at(directory, call, point)
    async with opened(directory) as (hypervisor, _):
        assert outline(hypervisor) in [(False, True, state) for state in expected]


@pytest.mark.parametrize("point", [*EARLY, *LATE, NEVER])
async def test_what_a_client_owned_ends_with_the_daemon_that_knew_it(directory: Path, point: str) -> None:
    await kill_at(directory, "autodestroy", point)
    async with opened(directory) as (hypervisor, _):
        assert hypervisor.domains() == []
        assert corrald.machines(directory) == []


async def test_what_is_paused_and_reset_stays_paused(directory: Path) -> None:
    """QEMU calls it prelaunch then, as it does a machine whose start was not complete."""
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.create_xml(document("a"))
        await domain.suspend()
        await domain.reset()
        assert await domain.require_run().require_machine().status() == "prelaunch"
    async with opened(directory) as (hypervisor, _):
        assert outline(hypervisor) == (False, True, (3, 1))
        await hypervisor.lookup_by_name("a").resume()


async def test_started_paused_stays_paused(directory: Path) -> None:
    assert await kill_at(directory, "paused", NEVER)
    async with opened(directory) as (hypervisor, _):
        assert outline(hypervisor) == (False, True, (3, 1))


async def test_a_daemon_with_other_directories_finds_what_the_last_one_started(directory: Path) -> None:
    async with opened(directory) as (hypervisor, _):
        await hypervisor.create_xml(document("a"))
    (directory / "o").mkdir()
    elsewhere = replace(settings(directory), run=directory / "o", log=directory / "o")
    hypervisor = await Hypervisor.open(elsewhere)
    try:
        domain = hypervisor.lookup_by_name("a")
        assert "running" in await domain.monitor_command("info status", 1)
        await domain.destroy()
        assert list((directory / "run").iterdir()) == [], "its sockets go with it"
    finally:
        await hypervisor.close()


AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


async def test_a_machine_found_again_is_the_same(directory: Path) -> None:
    """Same id, XML, process; console, events, figures and every call work on."""
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.create_xml(
            document("a", devices=AGENT + "<graphics type='vnc' autoport='yes' passwd='secret'/>")
        )
        before = (domain.id, domain.uuid, domain.xml(DomainXMLFlags.SECURE), domain.xml(DomainXMLFlags.INACTIVE))
        machines = corrald.machines(directory)
    assert corrald.machines(directory) == machines, "a daemon that stops touches no machine"
    async with opened(directory) as (hypervisor, heard):
        domain = hypervisor.lookup_by_id(before[0])
        assert before == (
            domain.id,
            domain.uuid,
            domain.xml(DomainXMLFlags.SECURE),
            domain.xml(DomainXMLFlags.INACTIVE),
        )
        assert heard == []
        assert domain.state() == (1, 1)
        console = await domain.open_console()
        await domain.monitor_command("o /b 0x3f8 0x43", 1)
        assert b"C" in await asyncio.wait_for(console.read(), 5)
        assert domain.run and domain.run.agent is not None
        assert domain.info().cpu_time > 0
        second = await hypervisor.create_xml(document("b", devices="<graphics type='vnc' autoport='yes'/>"), PAUSED)
        assert second.id == before[0] + 1, "an id is never used twice"
        await domain.suspend()
        await domain.resume()
        assert heard.lifecycle("a") == [("suspended", 0), ("resumed", 0)]
        await domain.destroy()
        assert heard.lifecycle("a")[-1] == ("stopped", 1)
        assert len(corrald.machines(directory)) == 1


async def running(directory: Path, xml: str) -> int:
    """Start a defined domain and let the daemon go; the machine's process id."""
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(xml)
        await domain.create()
        assert domain.run and domain.run.process
        return domain.run.process.pid


async def gone(pid: int) -> None:
    """Wait until a process is gone, or is a zombie of ours."""

    def is_gone() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:
            return True

    await until(is_gone)


@pytest.mark.parametrize(
    ("number", "state", "told"),
    [(signal.SIGKILL, (5, 3), ("stopped", 5)), (signal.SIGTERM, (5, 1), ("stopped", 0))],
)
async def test_what_ended_meanwhile_has_the_right_reason(
    directory: Path, number: int, state: tuple[int, int], told: tuple[str, int]
) -> None:
    pid = await running(directory, document("a"))
    os.kill(pid, number)
    await gone(pid)
    async with opened(directory) as (hypervisor, heard):
        assert outline(hypervisor) == (*DEFINED_OFF, state)
        assert heard.lifecycle() == [told]
        assert [event.dom.id for event in heard if isinstance(event, events.Lifecycle)] == [1]
        assert list((directory / "run").iterdir()) == []
    async with opened(directory) as (hypervisor, heard):
        assert outline(hypervisor) == (*DEFINED_OFF, state), "the reason is still known"
        assert heard == [], "and told once"


async def test_another_process_with_the_same_number_is_not_taken_for_the_machine(directory: Path) -> None:
    pid = await running(directory, document("a"))
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    store_file = settings(directory).store
    import sqlite3

    with sqlite3.connect(store_file) as connection:
        connection.execute("UPDATE live SET pid = ?", (stranger.pid,))
    connection.close()
    async with opened(directory) as (hypervisor, _):
        assert outline(hypervisor) == (*DEFINED_OFF, (5, 3))
    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()


async def monitor(directory: Path, command: str) -> None:
    """Send a line to the machine's human monitor while no daemon is there."""
    (path,) = (directory / "run").glob("d*/monitor.sock")
    reader, writer = await asyncio.open_unix_connection(str(path))
    import json

    for message in (
        {"execute": "qmp_capabilities"},
        {"execute": "human-monitor-command", "arguments": {"command-line": command}},
    ):
        writer.write(json.dumps(message).encode() + b"\n")
        while b'"return"' not in await asyncio.wait_for(reader.readline(), 5):
            pass
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("extra", "command", "expected", "told"),
    [
        ("", POWER_OFF, (*DEFINED_OFF, (5, 1)), [("shutdown", 1), ("stopped", 0)]),
        ("<on_poweroff>restart</on_poweroff>", POWER_OFF, (True, True, (1, 1)), []),
        ("", PANIC, (*DEFINED_OFF, (5, 3)), [("suspended", 0), ("crashed", 0), ("stopped", 2)]),
        ("<on_crash>preserve</on_crash>", PANIC, (True, True, (6, 1)), [("suspended", 0), ("crashed", 0)]),
        ("", "stop", (True, True, (3, 0)), []),
    ],
    ids=["power off", "power off, restart", "panic", "panic, preserve", "stop"],
)
async def test_what_the_guest_did_meanwhile_is_acted_upon(
    directory: Path, extra: str, command: str, expected: tuple[object, ...], told: list[tuple[str, int]]
) -> None:
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(document("a", extra=extra, devices="<panic model='isa'/>"))
        await domain.create()
        if command == POWER_OFF:
            async with asyncio.timeout(60):  # the firmware sets up the port first; until then nothing answers there
                while "0xffffffff" in await domain.monitor_command("i /w 0x600", 1):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    await monitor(directory, command)
    async with opened(directory) as (hypervisor, heard):
        await until(lambda: outline(hypervisor) == expected)
        assert [event for event in heard.lifecycle() if event != ("shutdown", 2)] == told


async def test_a_machine_that_does_not_answer_holds_up_nobody(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.hypervisor.reattach.REATTACH_TIMEOUT", 0.5)
    monkeypatch.setattr("corral.hypervisor.ending.TERMINATE_TIMEOUT", 0.2)
    pid = await running(directory, document("a"))
    os.kill(pid, signal.SIGSTOP)
    async with opened(directory) as (hypervisor, heard):
        domain = hypervisor.lookup_by_name("a")
        assert domain.active and domain.state() == (1, 1)
        assert (domain.control_info().state, domain.control_info().details) == (3, 2)
        with pytest.raises(Exception, match="does not answer"):
            await domain.suspend()
        await domain.stats()
        other = await hypervisor.create_xml(document("b"), PAUSED)
        os.kill(pid, signal.SIGCONT)
        await until(lambda: domain.control_info().state == 0)
        await domain.suspend()
        assert domain.state() == (3, 1)
        os.kill(pid, signal.SIGSTOP)
        await domain.destroy()
        assert domain.state() == (5, 2)
        assert heard.lifecycle("a") == [("suspended", 0), ("stopped", 1)]
        assert other.active


async def test_a_monitor_that_hangs_up_is_connected_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.hypervisor.reattach.GRACE", 0.1)
    async with opened(directory) as (hypervisor, heard):
        domain = await hypervisor.create_xml(document("a"))
        assert domain.run and domain.run.machine
        await domain.run.machine.monitor.close()
        await until(lambda: "ControlError" in heard.other())
        await until(lambda: domain.control_info().state == 0)
        await domain.suspend()
        assert heard.lifecycle()[-1] == ("suspended", 0)
        assert domain.run.process
        os.kill(domain.run.process.pid, signal.SIGKILL)
        await until(lambda: not hypervisor.domains())
        assert heard.lifecycle()[-1] == ("stopped", 5)


async def test_autostart_once_a_boot_and_never_against_its_user(directory: Path) -> None:
    async def names() -> list[str]:
        async with opened(directory) as (hypervisor, _):
            await hypervisor.autostart()
            return [domain.name for domain in hypervisor.domains(1)]

    async with opened(directory) as (hypervisor, _):
        await hypervisor.autostart()
        for name in ("never ran", "was stopped", "is manual"):
            domain: Domain = await hypervisor.define(document(name))
            await domain.set_autostart(name != "is manual")
        stopped = hypervisor.lookup_by_name("was stopped")
        await stopped.create(PAUSED)
        await stopped.destroy()
    assert await names() == ["never ran"]
    assert await names() == ["never ran"]


async def test_a_stopped_daemon_lets_a_change_end_first(directory: Path) -> None:
    async with opened(directory) as (hypervisor, _):
        start = asyncio.create_task(hypervisor.create_xml(document("a"), PAUSED))
        await asyncio.sleep(0.005)
    assert (await start).name == "a"
    async with opened(directory) as (hypervisor, _):
        assert outline(hypervisor) == (False, True, (3, 1))
