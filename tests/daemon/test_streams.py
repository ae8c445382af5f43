"""Consoles and pictures: bytes both ways, ends from either side, and clients that do not take what they asked for."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from tests.daemon.fake import Client, FakeDomain, FakeHypervisor, ref
from tests.waiting import until

from corral.daemon.server import Server
from corral.errors import OperationInvalid
from corral.protocol.events import Reply, StreamAbort, StreamData, StreamEnd, StreamEOF
from corral.protocol.procedures import procedure

CONSOLE = procedure("domain_open_console")
SCREENSHOT = procedure("domain_screenshot")


@pytest.fixture
async def web(hypervisor: FakeHypervisor) -> FakeDomain:
    web = hypervisor.add("web")
    await web.create()
    return web


async def open_console(client: Client, web: FakeDomain) -> int:
    serial = client.connection.call(CONSOLE, {"dom": ref(web), "dev_name": None, "flags": 0})
    await client.send()
    await client.answer(serial)
    return serial


def of(serial: int, kind: type) -> object:
    return lambda event: isinstance(event, kind) and event.serial == serial


async def test_a_console_talks_both_ways(client: Client, web: FakeDomain) -> None:
    serial = await open_console(client, web)
    client.connection.send_stream_data(serial, CONSOLE, b"uname\n")
    await client.send()
    data = await client.until(of(serial, StreamData))
    assert data.data == b"uname\n"
    client.connection.send_stream_end(serial, CONSOLE)
    await client.send()
    await client.until(of(serial, StreamEnd))
    assert web.console.closed
    assert (await client.call("connect_get_type")).type == "QEMU"


async def test_a_console_that_ends_by_itself(client: Client, web: FakeDomain) -> None:
    serial = await open_console(client, web)
    client.connection.send_stream_data(serial, CONSOLE, b"end")
    await client.send()
    await client.until(of(serial, StreamEOF))
    client.connection.send_stream_end(serial, CONSOLE)
    await client.send()
    await client.until(of(serial, StreamEnd))
    assert web.console.closed


async def test_breaking_a_console_off(client: Client, web: FakeDomain) -> None:
    serial = await open_console(client, web)
    client.connection.send_stream_abort(serial, CONSOLE)
    await client.send()
    await client.until(of(serial, StreamEnd))
    assert web.console.closed


async def test_a_client_that_leaves_lets_go_of_the_console(client: Client, web: FakeDomain) -> None:
    await open_console(client, web)
    client.close()
    await until(lambda: web.console.closed)


async def test_data_may_come_before_the_answer(client: Client, web: FakeDomain) -> None:
    serial = client.connection.call(CONSOLE, {"dom": ref(web), "dev_name": None, "flags": 0})
    data = struct.pack(">I12sIII", 28 + 5, CONSOLE.wire, 3, serial, 2) + b"early"  # type STREAM, status CONTINUE
    await asyncio.get_running_loop().sock_sendall(client.sock, client.connection.data_to_send() + data)
    await client.answer(serial)
    assert (await client.until(of(serial, StreamData))).data == b"early"


async def test_a_console_that_cannot_be_opened(client: Client, hypervisor: FakeHypervisor) -> None:
    serial = client.connection.call(CONSOLE, {"dom": ref(hypervisor.add("off")), "dev_name": None, "flags": 0})
    await client.send()
    with pytest.raises(OperationInvalid, match="domain is not running"):
        await client.answer(serial)


async def test_a_picture_comes_whole(client: Client, web: FakeDomain) -> None:
    serial = client.connection.call(SCREENSHOT, {"dom": ref(web), "screen": 0, "flags": 0})
    await client.send()
    reply = await client.until(of(serial, Reply))
    assert reply.ret().mime == "image/png"
    size = 0
    while size < 400_000:
        size += len((await client.until(of(serial, StreamData))).data)
    await client.until(of(serial, StreamEOF))
    assert size == 400_000


async def test_a_slow_console_stops_its_writer_only(
    client: Client, served: tuple[Server, Path], web: FakeDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def write(data: bytes) -> None:
        await gate.wait()

    monkeypatch.setattr(web.console, "write", write)
    serial = await open_console(client, web)
    for _ in range(64):
        client.connection.send_stream_data(serial, CONSOLE, b"x" * 200_000)
    sender = asyncio.create_task(client.send())
    await asyncio.sleep(0.2)
    assert not sender.done()
    (session,) = served[0].sessions
    assert sum(stream._size for stream in session._streams.values()) < 3 << 20
    other = await Client.connect(served[1])
    assert (await other.call("connect_get_type")).type == "QEMU"
    other.close()
    gate.set()
    await sender


async def test_a_console_that_breaks(client: Client, web: FakeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(limit: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(web.console, "read", read)
    serial = await open_console(client, web)
    abort = await client.until(of(serial, StreamAbort))
    assert "Input/output error" in str(abort.error)
