"""The daemon killed with SIGKILL at random points of the life of ten domains: nothing acknowledged is lost.

Each round sends calls for a few domains at once, kills the daemon some random moment later, starts the next daemon on
the same state, and compares every domain with what the acknowledged calls made of it. A call that was under way when
the daemon died may have happened or not, but nothing in between; and no QEMU may run that no domain owns.
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from corral.constants import DomainState
from corral.errors import CorralError
from labs import corrald
from labs.wire import Wire

DOMAINS = 10
START_PAUSED = 1
METADATA_TITLE = 1
AFFECT_CONFIG = 2
IMPACT_CURRENT = 0

DOCUMENT = """\
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><controller type='usb' model='none'/><serial type='pty'/></devices>
</domain>
"""


@dataclass(frozen=True)
class Expected:
    """What a domain is, as far as the acknowledged calls tell."""

    defined: bool = False
    state: int = DomainState.SHUTOFF
    autostart: bool = False
    title: str | None = None

    @property
    def active(self) -> bool:
        return self.state != DomainState.SHUTOFF


ABSENT = Expected()


@dataclass
class Subject:
    """One of the ten domains: its reference on the wire, what it is, and what the next call could make of it."""

    number: int
    expected: Expected = ABSENT
    live: tuple[int, str] | None = None  # id and XML while it runs undisturbed

    @property
    def name(self) -> str:
        return f"victim-{self.number}"

    @property
    def uuid(self) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_OID, self.name)

    @property
    def reference(self) -> dict[str, object]:
        return {"name": self.name, "uuid": self.uuid.bytes, "id": -1}

    @property
    def document(self) -> str:
        return DOCUMENT.format(name=self.name, uuid=self.uuid)


Call = tuple[str, dict[str, object], Expected]


def _gone(expected: Expected) -> Expected:
    """What is left when a machine ends: its definition, or nothing."""
    return replace(expected, state=DomainState.SHUTOFF) if expected.defined else ABSENT


def possible_calls(subject: Subject, chance: random.Random) -> list[Call]:
    """The calls that make sense now, each with what the domain is once it is acknowledged."""
    now, dom = subject.expected, subject.reference
    calls: list[Call] = []
    if not now.defined:
        calls.append(("domain_define_xml", {"xml": subject.document}, replace(now, defined=True)))
    else:
        flag = not now.autostart
        title = f"title {chance.randrange(1000)}"
        calls += [
            ("domain_undefine", {"dom": dom}, replace(now, defined=False, autostart=False, title=None)),
            ("domain_set_autostart", {"dom": dom, "autostart": int(flag)}, replace(now, autostart=flag)),
            (
                "domain_set_metadata",
                {"dom": dom, "type": METADATA_TITLE, "metadata": title, "key": None, "uri": None, "flags": 2},
                replace(now, title=title),
            ),
        ]
        if not now.active:
            calls += [("domain_create", {"dom": dom}, replace(now, state=DomainState.RUNNING))] * 3
    if not now.defined and not now.active:
        calls.append(
            (
                "domain_create_xml",
                {"xml_desc": subject.document, "flags": START_PAUSED},
                replace(now, state=DomainState.PAUSED),
            )
        )
    if now.active:
        calls += [("domain_destroy", {"dom": dom}, _gone(now))] * 2
    if now.state == DomainState.RUNNING:
        calls.append(("domain_suspend", {"dom": dom}, replace(now, state=DomainState.PAUSED)))
    if now.state == DomainState.PAUSED:
        calls.append(("domain_resume", {"dom": dom}, replace(now, state=DomainState.RUNNING)))
    return calls


def observe(wire: Wire, subject: Subject) -> tuple[Expected, tuple[int, str] | None]:
    """What the daemon says of a domain now."""
    try:
        dom = wire.call("domain_lookup_by_uuid", uuid=subject.uuid.bytes).dom
    except CorralError:
        return ABSENT, None
    state = wire.call("domain_get_state", dom=dom, flags=0).state
    defined = bool(wire.call("domain_is_persistent", dom=dom).persistent)
    title = None
    if defined:
        try:
            answer = wire.call("domain_get_metadata", dom=dom, type=METADATA_TITLE, uri=None, flags=AFFECT_CONFIG)
            title = answer.metadata
        except CorralError:
            title = None
    autostart = bool(wire.call("domain_get_autostart", dom=dom).autostart) if defined else False
    live = None
    if state != DomainState.SHUTOFF:
        live = (dom.id, wire.call("domain_get_xml_desc", dom=dom, flags=0).xml)
    return Expected(defined, state, autostart, title), live


def carry_out(wire: Wire, calls: dict[int, tuple[Subject, Call]], kill: Callable[[], None], delay: float) -> set[int]:
    """Send the calls at once, kill the daemon `delay` seconds later; the serials that were acknowledged."""
    begin = time.monotonic()
    acknowledged: set[int] = set()
    wire.socket.settimeout(0.001)
    killed = False
    while True:
        if not killed and time.monotonic() - begin >= delay:
            kill()
            killed = True
        try:
            header, body = wire.read()
        except TimeoutError:
            continue
        except OSError:
            return acknowledged
        if header[4] == 1 and header[5] in calls:
            subject, call = calls[header[5]]
            assert header[6] == 0, f"{call[0]} of {subject.name} failed: {body!r}"
            acknowledged.add(header[5])


def run_rounds(home: Path, rounds: int, seed: int) -> int:
    """Kill the daemon `rounds` times; returns how many calls were under way at the moment of a kill."""
    chance = random.Random(seed)
    subjects = [Subject(number) for number in range(DOMAINS)]
    daemon = corrald.start(home)
    caught = 0
    try:
        for turn in range(rounds):
            wire = Wire(daemon.socket, "qemu:///system" if os.geteuid() == 0 else "qemu:///session")
            under_way: dict[int, tuple[Subject, Call]] = {}
            for subject in chance.sample(subjects, chance.randint(1, 5)):
                call = chance.choice(possible_calls(subject, chance))
                serial, _ = wire.send(call[0], **call[1])
                under_way[serial] = (subject, call)
            pid = daemon.pid
            acknowledged = carry_out(
                wire, under_way, lambda pid=pid: os.kill(pid, signal.SIGKILL), chance.random() ** 2 * 0.25
            )
            daemon.process.wait()
            wire.close()
            daemon = corrald.start(home)
            caught += len(under_way) - len(acknowledged)
            settle(daemon, subjects, under_way, acknowledged, turn)
    finally:
        corrald.stop(daemon)
    return caught


def settle(
    daemon: corrald.Daemon,
    subjects: list[Subject],
    under_way: dict[int, tuple[Subject, Call]],
    acknowledged: set[int],
    turn: int,
) -> None:
    """Compare every domain with what it may be, and take over what it turned out to be."""
    wire = Wire(daemon.socket, "qemu:///system" if os.geteuid() == 0 else "qemu:///session")
    touched = {subject.number: (serial, call) for serial, (subject, call) in under_way.items()}
    active = 0
    for subject in subjects:
        seen, live = observe(wire, subject)
        allowed = [subject.expected]
        if subject.number in touched:
            serial, call = touched[subject.number]
            allowed = [call[2]] if serial in acknowledged else [subject.expected, call[2]]
        assert seen in allowed, f"round {turn}: {subject.name} is {seen}, may be {allowed}"
        if live and subject.live and subject.number not in touched:
            assert live == subject.live, f"round {turn}: {subject.name} changed its id or XML while it ran on"
        subject.expected, subject.live = seen, live
        active += seen.active
    machines = corrald.machines(daemon.state)
    assert len(machines) == active, f"round {turn}: {active} domains are active and {len(machines)} QEMUs run"
    wire.close()


@pytest.mark.qemu
@pytest.mark.timeout(300)
def test_twenty_kills_lose_nothing(short_path: Path) -> None:
    assert run_rounds(short_path, 20, seed=1) > 0, "no kill ever caught a call under way"


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(short_path: Path) -> None:
    rounds = int(os.environ.get("CORRAL_KILLS", "250"))
    caught = run_rounds(short_path, rounds, seed=int(os.environ.get("CORRAL_SEED", "20")))
    print(f"{rounds} SIGKILLs, {caught} calls were under way when the daemon died")
    assert caught >= rounds // 2
