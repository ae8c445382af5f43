"""QEMU's monitor: replies, errors, events, and what happens when it does not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.errors import InvalidArgument, OperationTimeout
from corral.qemu import monitor
from corral.qemu.monitor import Monitor, MonitorClosed, MonitorCommandFailed, MonitorEvent

GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""}, "capabilities": ["oob"]}}

Answer = Callable[[dict[str, object], asyncio.StreamWriter], Awaitable[None]]


def say(writer: asyncio.StreamWriter, message: object) -> None:
    writer.write(json.dumps(message).encode() + b"\r\n")


@asynccontextmanager
async def fake_qemu(path: Path, answer: Answer) -> AsyncIterator[None]:
    """A monitor that negotiates, then does with each command what the test wants."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        say(writer, GREETING)
        text = ""
        while received := await reader.read(65536):
            text += received.decode()
            while text:  # as QEMU: objects one after another, no newline needed
                message, end = json.JSONDecoder().raw_decode(text)
                text = text[end:].lstrip()
                if message.get("execute") == "qmp_capabilities":
                    say(writer, {"return": {}})
                else:
                    await answer(message, writer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()


async def echo(message: dict[str, object], writer: asyncio.StreamWriter) -> None:
    say(writer, {"return": {"ran": message.get("execute")}, "id": message["id"]})


async def test_replies_and_version(short_path: Path) -> None:
    async with fake_qemu(short_path / "m", echo):
        qmp = await Monitor.connect(short_path / "m", name="web")
        assert qmp.version == (10, 0, 2)
        replies = await asyncio.gather(*(qmp.execute(f"query-{n}") for n in range(20)))
        assert replies == [{"ran": f"query-{n}"} for n in range(20)]
        await qmp.close()
        assert qmp.closed.done()
        with pytest.raises(MonitorClosed):
            await qmp.execute("query-status")


async def test_an_error_of_qemu_keeps_its_class(short_path: Path) -> None:
    async def refuse(message: dict[str, object], writer: asyncio.StreamWriter) -> None:
        error = {"class": "DeviceNotFound", "desc": "Device 'x' not found"}
        say(writer, {"error": error, "id": message["id"]})

    async with fake_qemu(short_path / "m", refuse):
        qmp = await Monitor.connect(short_path / "m", name="web")
        with pytest.raises(MonitorCommandFailed) as caught:
            await qmp.execute("device_del", {"id": "x"})
        assert caught.value.error_class == "DeviceNotFound"
        expected = "internal error: unable to execute QEMU command 'device_del': Device 'x' not found"
        assert str(caught.value) == expected
        await qmp.close()


async def test_events_come_in_order_with_replies_and_a_bad_receiver_harms_nothing(short_path: Path) -> None:
    async def answer(message: dict[str, object], writer: asyncio.StreamWriter) -> None:
        stamp = {"seconds": 5, "microseconds": 7}
        say(writer, {"event": "STOP", "timestamp": stamp})
        say(writer, {"event": "BAD", "data": {"a": 1}, "timestamp": stamp})
        say(writer, {"return": {}, "id": message["id"]})

    heard: list[MonitorEvent] = []

    def receive(event: MonitorEvent) -> None:
        heard.append(event)
        if event.name == "BAD":
            raise RuntimeError("a receiver's fault")

    async with fake_qemu(short_path / "m", answer):
        qmp = await Monitor.connect(short_path / "m", name="web", on_event=receive)
        await qmp.execute("stop")
        assert heard == [MonitorEvent("STOP", {}, 5, 7), MonitorEvent("BAD", {"a": 1}, 5, 7)]
        await qmp.execute("stop")
        assert len(heard) == 4
        await qmp.close()


async def test_a_silent_monitor_makes_one_call_fail(short_path: Path) -> None:
    late: list[tuple[dict[str, object], asyncio.StreamWriter]] = []

    async def answer(message: dict[str, object], writer: asyncio.StreamWriter) -> None:
        if message["execute"] == "stuck":
            late.append((message, writer))
        else:
            await echo(message, writer)

    async with fake_qemu(short_path / "m", answer):
        qmp = await Monitor.connect(short_path / "m", name="web")
        with pytest.raises(OperationTimeout, match=r"monitor of 'web' did not answer 'stuck' in 0.05 s"):
            await qmp.execute("stuck", timeout=0.05)
        await echo(*late[0])  # the late answer is nobody's
        assert await qmp.execute("query-status") == {"ran": "query-status"}
        await qmp.close()


async def test_commands_to_a_stuck_monitor_do_not_pile_up(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "PENDING_LIMIT", 2)

    async def silent(_message: dict[str, object], _writer: asyncio.StreamWriter) -> None:
        return

    async with fake_qemu(short_path / "m", silent):
        qmp = await Monitor.connect(short_path / "m", name="web")
        waiting = [asyncio.create_task(qmp.execute("a", timeout=0.3)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(OperationTimeout, match="has not answered the last 2 commands"):
            await qmp.execute("b")
        assert all(isinstance(r, OperationTimeout) for r in await asyncio.gather(*waiting, return_exceptions=True))
        await qmp.close()


async def test_a_lost_connection_ends_the_call_at_once(short_path: Path) -> None:
    async def hang_up(_message: dict[str, object], writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with fake_qemu(short_path / "m", hang_up):
        qmp = await Monitor.connect(short_path / "m", name="web")
        async with asyncio.timeout(20):
            with pytest.raises(MonitorClosed, match="closed while 'cont' ran"):
                await qmp.execute("cont")
            await qmp.closed


@pytest.mark.parametrize(
    "junk", [b"not json\r\n", b"[1]\r\n", b'{"return": 1}' * 3 + b"\r\n", b"[" * 100_000 + b"\r\n"]
)
async def test_junk_from_qemu_closes_the_monitor(short_path: Path, junk: bytes) -> None:
    async def answer(_message: dict[str, object], writer: asyncio.StreamWriter) -> None:
        writer.write(junk)

    async with fake_qemu(short_path / "m", answer):
        qmp = await Monitor.connect(short_path / "m", name="web")
        async with asyncio.timeout(20):
            with pytest.raises(MonitorClosed):
                await qmp.execute("query-status")


async def test_nobody_there_and_nobody_speaking(short_path: Path) -> None:
    with pytest.raises(MonitorClosed, match="No such file"):
        await Monitor.connect(short_path / "none", name="web")

    held = []

    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)  # Python 3.13 closes what nobody holds

    server = await asyncio.start_unix_server(mute, short_path / "m")
    with pytest.raises(OperationTimeout, match=r"did not answer in 0.05 s"):
        await Monitor.connect(short_path / "m", name="web", timeout=0.05)
    server.close()


async def test_passthrough_gives_qemus_own_reply(short_path: Path) -> None:
    async def answer(message: dict[str, object], writer: asyncio.StreamWriter) -> None:
        if message["execute"] == "bad":
            say(writer, {"error": {"class": "CommandNotFound", "desc": "no"}, "id": message["id"]})
        else:
            await echo(message, writer)

    async with fake_qemu(short_path / "m", answer):
        qmp = await Monitor.connect(short_path / "m", name="web")
        assert json.loads(await qmp.passthrough('{"execute":"query-x","id":"mine"}')) == {
            "return": {"ran": "query-x"},
            "id": "mine",
        }
        assert json.loads(await qmp.passthrough('{"execute":"bad"}')) == {
            "error": {"class": "CommandNotFound", "desc": "no"},
            "id": "libvirt-2",
        }
        assert await qmp.passthrough('{"execute":"x"}') == '{"return":{"ran":"x"},"id":"libvirt-3"}'
        for text in ("", "{", "[]", '{"arguments":{}}', '{"execute":1}', "[" * 100_000):
            with pytest.raises(InvalidArgument):
                await qmp.passthrough(text)
        await qmp.close()
