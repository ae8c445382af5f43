"""Events reach those who registered, in the form they registered for, and nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.daemon.fake import Client, FakeHypervisor, ref
from tests.waiting import until

from corral.constants import DomainEventID, ErrorNumber
from corral.daemon.server import Server
from corral.daemon.subscriptions import EVENT_IDS, FORMS
from corral.errors import InternalError
from corral.hypervisor import events
from corral.hypervisor.events import Identity
from corral.protocol.events import Message
from corral.protocol.procedures import procedure

WEB = Identity("web", UUID("c7a5fdbd-cdaf-9455-926a-d65c16db1809"), 3)
ADDRESS = events.GraphicsAddress(0, "127.0.0.1", "5900")

SAMPLES: list[events.Event] = [
    events.Lifecycle(WEB, 2, 1),
    events.Reboot(WEB),
    events.RTCChange(WEB, -3600),
    events.Watchdog(WEB, 1),
    events.IOError(WEB, "/disk", "virtio-disk0", 1),
    events.IOErrorReason(WEB, "/disk", "virtio-disk0", 1, "enospc"),
    events.Graphics(WEB, 0, ADDRESS, ADDRESS, "none", (("x509dname", "me"),)),
    events.ControlError(WEB),
    events.TrayChange(WEB, "sata0-0-0", 1),
    events.PMWakeup(WEB),
    events.PMSuspend(WEB),
    events.PMSuspendDisk(WEB),
    events.BalloonChange(WEB, 1 << 19),
    events.MemoryDeviceSizeChange(WEB, "virtiomem0", 1 << 18),
    events.DeviceAdded(WEB, "net1"),
    events.DeviceRemoved(WEB, "net1"),
    events.DeviceRemovalFailed(WEB, "net1"),
    events.AgentLifecycle(WEB, 1, 2),
    events.MetadataChange(WEB, 2, "http://example.org/x"),
    events.MetadataChange(WEB, 0, None),
    events.MemoryFailure(WEB, 0, 1, 2),
    events.DiskChange(WEB, "/gone.iso", None, "sata0-0-0", 0),
    events.BlockThreshold(WEB, "vda[1]", "/disk", 1 << 20, 512),
    events.Tunable(WEB, (("cputune.vcpupin0", 7, "0-1"),)),
]


async def message(client: Client, timeout: float = 2.0) -> Message:
    event = await client.until(lambda e: isinstance(e, Message), timeout)
    assert isinstance(event, Message)
    return event


def test_there_is_a_sample_of_every_event() -> None:
    assert {type(sample) for sample in SAMPLES} == set(FORMS)
    assert EVENT_IDS == 28


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
async def test_every_event_in_both_forms(client: Client, hypervisor: FakeHypervisor, sample: events.Event) -> None:
    form = FORMS[type(sample)]
    answer = await client.call("connect_domain_event_callback_register_any", eventID=sample.event_id, dom=None)
    if form.plain is not None:
        await client.call("connect_domain_event_register_any", eventID=sample.event_id)
    hypervisor.events.emit(sample)
    if form.plain is not None:
        plain = await message(client)
        assert plain.procedure.name == form.plain
        assert plain.msg().dom.uuid == WEB.uuid.bytes
    wrapped = await message(client)
    assert wrapped.procedure.name == form.callback
    body = wrapped.msg()
    assert body.callbackID == answer.callbackID
    dom = body.msg.dom if form.nested else body.dom
    assert (dom.name, dom.uuid, dom.id) == ("web", WEB.uuid.bytes, 3)


async def test_one_domain_or_all(client: Client, hypervisor: FakeHypervisor) -> None:
    web, db = hypervisor.add("web"), hypervisor.add("db")
    everything = (await client.call("connect_domain_event_callback_register_any", eventID=0, dom=None)).callbackID
    only_web = (await client.call("connect_domain_event_callback_register_any", eventID=0, dom=ref(web))).callbackID
    await client.call("domain_create", dom=ref(db))
    await client.call("domain_create", dom=ref(web))
    seen = [(m.msg().callbackID, m.msg().msg.dom.name) for m in [await message(client) for _ in range(3)]]
    assert seen == [(everything, "db"), (everything, "web"), (only_web, "web")]
    await client.call("connect_domain_event_callback_deregister_any", callbackID=everything)
    await client.call("domain_destroy", dom=ref(db))
    await client.call("domain_destroy", dom=ref(web))
    assert (await message(client)).msg().callbackID == only_web
    assert client.events == []


async def test_the_event_of_a_change_comes_before_its_answer(client: Client, hypervisor: FakeHypervisor) -> None:
    web = hypervisor.add("web")
    await client.call("connect_domain_event_callback_register_any", eventID=0, dom=None)
    await client.call("domain_create", dom=ref(web))
    assert [type(event) for event in client.events] == [Message]


async def test_the_oldest_registration(client: Client, hypervisor: FakeHypervisor) -> None:
    assert (await client.call("connect_domain_event_register")).cb_registered == 1
    await client.call("domain_create", dom=ref(hypervisor.add("web")))
    event = await message(client)
    assert event.procedure is procedure("domain_event_lifecycle") and event.msg().event == 2
    assert (await client.call("connect_domain_event_deregister")).cb_registered == 0
    assert isinstance(await client.error("connect_domain_event_deregister"), InternalError)


async def test_every_kind_can_be_registered_and_no_other(client: Client) -> None:
    for event_id in range(EVENT_IDS):
        await client.call("connect_domain_event_callback_register_any", eventID=event_id, dom=None)
    for event_id in (-1, EVENT_IDS):
        error = await client.error("connect_domain_event_callback_register_any", eventID=event_id, dom=None)
        assert f"unsupported event ID {event_id}" in str(error)
    error = await client.error("connect_domain_event_callback_deregister_any", callbackID=999)
    assert "999" in str(error)


async def test_a_domain_nobody_knows_cannot_be_watched(client: Client) -> None:
    stranger = {"name": "x", "uuid": uuid4().bytes, "id": -1}
    error = await client.error("connect_domain_event_callback_register_any", eventID=0, dom=stranger)
    assert "no domain with matching uuid" in str(error)


async def test_monitor_events_by_name_and_pattern(client: Client, hypervisor: FakeHypervisor) -> None:
    async def register(event: str | None, flags: int) -> int:
        answer = await client.call("qemu.connect_domain_monitor_event_register", dom=None, event=event, flags=flags)
        return int(answer.callbackID)

    every, exact, nocase, regex = (
        await register(None, 0),
        await register("SHUTDOWN", 0),
        await register("shutdown", 2),
        await register("^RES", 1),
    )
    hypervisor.events.emit(events.MonitorEvent(WEB, "SHUTDOWN", 12, 34, '{"guest":true}'))
    hypervisor.events.emit(events.MonitorEvent(WEB, "RESUME", 12, 35, None))
    got = [(m.msg().callbackID, m.msg().event) for m in [await message(client) for _ in range(5)]]
    assert got == [(every, "SHUTDOWN"), (exact, "SHUTDOWN"), (nocase, "SHUTDOWN"), (every, "RESUME"), (regex, "RESUME")]
    error = await client.error("qemu.connect_domain_monitor_event_register", dom=None, event="(", flags=1)
    assert "failed to analyze regex" in str(error)
    await client.call("qemu.connect_domain_monitor_event_deregister", callbackID=every)


async def test_what_happened_without_a_daemon_is_told(client: Client, hypervisor: FakeHypervisor) -> None:
    hypervisor.missed_events = (events.Lifecycle(WEB, 5, 2),)
    answer = await client.call("connect_domain_event_callback_register_any", eventID=0, dom=None)
    event = await message(client)
    assert event.msg().callbackID == answer.callbackID
    assert (event.msg().msg.event, event.msg().msg.detail) == (5, 2)
    await client.call("connect_domain_event_callback_register_any", eventID=DomainEventID.REBOOT, dom=None)
    await asyncio.sleep(0.02)
    assert client.events == []


async def test_the_close_callback(client: Client) -> None:
    await client.call("connect_register_close_callback")
    assert isinstance(await client.error("connect_register_close_callback"), InternalError)
    await client.call("connect_unregister_close_callback")


async def test_nobody_listens_any_more_after_leaving(
    client: Client, served: tuple[Server, Path], hypervisor: FakeHypervisor
) -> None:
    await client.call("connect_domain_event_callback_register_any", eventID=0, dom=None)
    assert len(hypervisor.events._subscribers) == 1
    client.close()
    await until(lambda: not hypervisor.events._subscribers)


async def test_a_pattern_without_measure_is_refused(client: Client) -> None:
    name = "qemu.connect_domain_monitor_event_register"
    assert (await client.error(name, dom=None, event="A" * 600, flags=1)).code == ErrorNumber.INVALID_ARG
    assert (await client.call(name, dom=None, event="BLOCK_.*|SPICE_.*", flags=1)).callbackID >= 0
