"""Calls, streams and events against a daemon that answers as the test says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.client.peer import LATER, Peer, serving, serving_thread

from corral.client import connect, listening
from corral.client import stream as client_stream
from corral.constants import DomainEventType
from corral.errors import (
    AgentUnresponsive,
    AuthFailed,
    CorralError,
    InvalidArgument,
    InvalidConnection,
    InvalidStream,
    NoConnect,
    NoDomain,
    NoSupport,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
)


async def test_pipelined_calls_may_be_answered_in_any_order(short_path: Path) -> None:
    peer = Peer("a", "b")
    held: list[Any] = []

    def later(session: Any, args: Any) -> Any:
        held.append(session.current)
        return LATER

    peer.answers["connect_get_type"] = later
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        calls = [asyncio.create_task(host.call("connect_get_type")) for _ in range(100)]
        state = await (await host.domain("a")).state()  # overtakes them all
        assert (state.name, state.active) == ("shutoff", False)
        assert len(held) == 100
        session = peer.sessions[0]
        for number, call in reversed(list(enumerate(held))):
            session.wire.send_reply(call.serial, call.procedure, {"type": str(number)})
        session.flush()
        answers = await asyncio.gather(*calls)
        assert [answer.type for answer in answers] == [str(number) for number in range(100)]


async def test_a_cancelled_call_harms_no_other(short_path: Path) -> None:
    peer = Peer("a")
    peer.answers["domain_shutdown"] = lambda session, args: LATER
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        domain = await host.domain("a")
        task = asyncio.create_task(domain.shutdown())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        session = peer.sessions[0]
        call = session.calls[-1]
        session.wire.send_reply(call.serial, call.procedure)  # comes too late, and is dropped
        session.flush()
        assert (await host.call("connect_get_type")).type == "QEMU"


async def test_a_call_has_a_deadline(short_path: Path) -> None:
    peer = Peer()
    peer.answers["connect_get_type"] = lambda session, args: LATER
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        with pytest.raises(OperationTimeout, match=r"connect_get_type within 0\.05 s"):
            await host.connection.call("connect_get_type", timeout=0.05)


async def test_errors_are_the_daemons(short_path: Path) -> None:
    async with serving(Peer("a"), short_path / "s") as uri, connect(uri) as host:
        with pytest.raises(NoDomain, match="Domain not found: no domain with matching name 'x'"):
            await host.domain("x")
        with pytest.raises(OperationInvalid, match="domain is not running"):
            await (await host.domain("a")).destroy()
        with pytest.raises(NoSupport):
            await (await host.domain("a")).set_autostart(True)


async def test_a_domain_is_found_by_name_uuid_and_id(short_path: Path) -> None:
    peer = Peer("a", "12")
    peer.add("b", running=True)
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        b = await host.domain("b")
        assert b.id == 1
        assert await host.domain(str(b.uuid)) == b
        assert await host.domain(b.uuid) == b
        assert await host.domain("1") == b
        assert await host.domain(1) == b
        assert (await host.domain("12")).name == "12"  # a name before an id
        with pytest.raises(NoDomain, match="'99999999999999'"):
            await host.domain("99999999999999")
        assert [domain.name for domain in await host.domains()] == ["12", "a", "b"]


async def test_when_the_daemon_goes_every_waiter_learns(short_path: Path) -> None:
    peer = Peer("a")
    peer.answers["connect_get_type"] = lambda session, args: LATER
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        call = asyncio.create_task(host.call("connect_get_type"))
        events = host.events("lifecycle")
        await events.open()
        listening = asyncio.create_task(anext(events))
        await asyncio.sleep(0.02)
        transport = peer.sessions[0].transport
        assert transport
        transport.abort()
        for task in (call, listening):
            with pytest.raises(InvalidConnection):
                await asyncio.wait_for(task, 30)
        with pytest.raises(InvalidConnection):
            await host.call("connect_get_type")


async def test_nobody_listens(short_path: Path) -> None:
    with pytest.raises(NoConnect, match=f"no daemon listens at {short_path}/none"):
        async with connect(f"corral+unix:///session?socket={short_path}/none"):
            pass


@pytest.mark.parametrize(("types", "complaint"), [([1], "SASL"), ([2], "polkit refused")])
async def test_authentication_that_fails_says_what_to_do(short_path: Path, types: list[int], complaint: str) -> None:
    peer = Peer()
    peer.answers["auth_list"] = lambda session, args: {"types": types}
    async with serving(peer, short_path / "s") as uri:
        with pytest.raises(AuthFailed, match=complaint) as caught:
            async with connect(uri):
                pass
    assert caught.value.hint


async def test_polkit_that_agrees(short_path: Path) -> None:
    peer = Peer()
    peer.answers["auth_list"] = lambda session, args: {"types": [2]}
    peer.answers["auth_polkit"] = lambda session, args: {"complete": 1}
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        assert (await host.call("connect_get_type")).type == "QEMU"


async def test_keepalive_notices_a_silent_daemon(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.client.connection.KEEPALIVE_INTERVAL", 0.05)
    peer = Peer()
    peer.answers["connect_get_type"] = lambda session, args: LATER
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        transport = peer.sessions[0].transport
        assert transport
        transport.pause_reading()  # as a stopped process would
        with pytest.raises(InvalidConnection, match="keepalive"):
            await host.connection.call("connect_get_type", timeout=10)


async def test_events_that_come_with_the_registration_are_kept(short_path: Path) -> None:
    peer = Peer("a")

    def register(session: Any, args: Any) -> Any:
        call = session.current
        session.wire.send_reply(call.serial, call.procedure, {"callbackID": 4})
        dom = peer.reference(peer.domains["a"])
        for detail in (0, 1):
            msg = {"dom": dom, "event": DomainEventType.SUSPENDED, "detail": detail}
            session.event("domain_event_callback_lifecycle", callbackID=4, msg=msg)
        return LATER

    peer.answers["connect_domain_event_callback_register_any"] = register
    async with serving(peer, short_path / "s") as uri, connect(uri) as host, host.events("lifecycle") as events:
        first, second = await anext(events), await anext(events)
        assert str(first) == "suspended (paused)"
        assert second.details() == {"event": "suspended", "detail": "migrated"}
        assert first.domain.name == "a"


async def test_an_event_the_daemon_does_not_know_is_left_out_unless_asked_for(short_path: Path) -> None:
    peer = Peer("a")

    def register(session: Any, args: Any) -> Any:
        if args.eventID == 27:
            raise InvalidArgument("unsupported event ID 27")
        return {"callbackID": args.eventID}

    peer.answers["connect_domain_event_callback_register_any"] = register
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        async with host.events():
            pass
        with pytest.raises(InvalidArgument, match="27"):
            async with host.events("nic-mac-change"):
                pass
        with pytest.raises(InvalidArgument, match="event kind 'lifecicle'"):
            host.events("lifecicle")


async def test_a_reader_that_is_too_slow_is_told(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "QUEUE_LIMIT", 3)
    peer = Peer("a")
    async with serving(peer, short_path / "s") as uri, connect(uri) as host, host.events("lifecycle") as events:
        for _ in range(5):
            peer.lifecycle(peer.domains["a"], DomainEventType.RESUMED)
        await host.call("connect_get_type")
        with pytest.raises(OperationFailed, match="some were lost"):
            await anext(events)
        assert str(await anext(events)) == "resumed (unpaused)"


async def test_wait_for(short_path: Path) -> None:
    peer = Peer()
    peer.add("a", running=True)
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        domain = await host.domain("a")
        await domain.shutdown()
        assert str(await domain.wait_for("shutoff", timeout=30)) == "shutoff (destroyed)"
        with pytest.raises(OperationTimeout, match=r"a is not running after 0\.05 s"):
            await domain.wait_for("running", timeout=0.05)
        peer.domains.clear()
        assert (await domain.wait_for("gone")).name == "gone"


async def test_wait_for_agent(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    peer.add("a", running=True)
    peer.agent_connected = False
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        domain = await host.domain("a")
        with pytest.raises(AgentUnresponsive, match=r"within 0\.05 s"):
            await domain.wait_for_agent(0.05)
        monkeypatch.setattr("corral.client.domain._AGENT_PAUSE", 1000)
        waiting = asyncio.create_task(domain.wait_for_agent(10))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        peer.agent_connected = True
        dom = peer.reference(peer.domains["a"])
        peer.sessions[0].event("domain_event_callback_agent_lifecycle", callbackID=118, dom=dom, state=1, reason=2)
        await asyncio.wait_for(waiting, 30)


async def test_an_agent_that_wakes_up_without_a_word(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port was announced while it was too slow to answer: it is asked again."""
    monkeypatch.setattr("corral.client.domain._AGENT_PAUSE", 0.01)
    peer = Peer()
    peer.add("a", running=True)
    peer.agent_connected = False
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        waiting = asyncio.create_task((await host.domain("a")).wait_for_agent(30))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        peer.agent_connected = True
        await waiting


async def test_a_console_both_ways(short_path: Path) -> None:
    peer = Peer()
    peer.add("a", running=True)

    def echo(session: Any, event: Any) -> None:
        session.wire.send_stream_data(event.serial, event.procedure, event.data.upper())

    peer.on_stream = echo
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        async with await (await host.domain("a")).console() as stream:
            await stream.write(b"login: ")
            assert await stream.read(3) == b"LOG"
            assert await stream.read() == b"IN: "
            big = b"x" * 600_000
            await stream.write(big)
            got = b""
            while len(got) < len(big):
                got += await stream.read()
            assert got == big.upper()
        with pytest.raises(InvalidStream):
            await stream.write(b"late")
        assert await stream.read() == b""
        assert (await host.call("connect_get_type")).type == "QEMU"


async def test_a_stream_that_cannot_be_opened(short_path: Path) -> None:
    async with serving(Peer("a"), short_path / "s") as uri, connect(uri) as host:
        with pytest.raises(OperationInvalid, match="not running"):
            await (await host.domain("a")).console()


async def test_a_stream_that_the_daemon_aborts(short_path: Path) -> None:
    peer = Peer()
    peer.add("a", running=True)

    def abort(session: Any, event: Any) -> None:
        session.wire.send_stream_data(event.serial, event.procedure, b"last")
        session.wire.send_stream_abort(event.serial, event.procedure, OperationFailed("taken by another"))

    peer.on_stream = abort
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        stream = await (await host.domain("a")).console()
        await stream.write(b"x")
        assert await stream.read() == b"last"
        with pytest.raises(CorralError, match="taken by another"):
            await stream.read()


async def test_a_slow_reader_holds_the_daemon_back(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_stream, "BUFFER_LIMIT", 1 << 20)
    peer = Peer()
    peer.add("a", running=True)
    total = 12 << 20

    def flood(session: Any, event: Any) -> None:
        for _ in range(total // 131072):
            session.wire.send_stream_data(event.serial, event.procedure, b"y" * 131072)
        session.wire.send_stream_end(event.serial, event.procedure)

    peer.on_stream = flood
    async with serving(peer, short_path / "s") as uri, connect(uri) as host:
        stream = await (await host.domain("a")).console()
        await stream.write(b"go")
        await asyncio.sleep(0.2)
        assert stream._buffered < 3 << 20
        assert len(await stream.read_all()) == total


def test_on_another_loop_than_asyncios(short_path: Path) -> None:
    """uvloop's transports do not say that they are asyncio's."""

    async def body(uri: str) -> str:
        async with connect(uri) as host:
            return (await (await host.domain("a")).state()).name

    with serving_thread(Peer("a"), short_path / "s") as uri:
        assert uvloop.run(body(uri)) == "shutoff"
