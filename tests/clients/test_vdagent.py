"""SPICE's guest agent: the channel, and what a document allows on it, between spice-glib and an agent of our own.

The agent speaks the protocol of spice/vd_agent.h (vd_agent(7) has no more of it): packets of the VDI port with messages
in them, little endian. It runs here; two `cat`s in the guest carry its bytes between SPICE's port and one of ours.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("asyncvnc", reason="asyncvnc is not installed")
pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from tests.clients.desk import HERE, NAME, Desk, booted

import corral
from corral.client.stream import Stream

pytestmark = [pytest.mark.clients, pytest.mark.guest, pytest.mark.timeout(300)]

DEVICES = """
<graphics type='spice' autoport='yes' passwd='sesame'>{policy}</graphics>
<video><model type='vga'/></video>
<channel type='spicevmc'><target type='virtio'/></channel>
<channel type='unix'><target type='virtio' name='test.relay'/></channel>
"""
YES = "<mouse mode='client'/><clipboard copypaste='yes'/><filetransfer enable='yes'/>"
NO = "<mouse mode='server'/><clipboard copypaste='no'/><filetransfer enable='no'/>"
#: A port can be opened once only, and reads as ended while nobody has its other end.
RELAY = """exec 3<>/dev/virtio-ports/com.redhat.spice.0 4<>/dev/virtio-ports/test.relay
cat <&3 >&4 & cat <&4 >&3; kill $!"""

CHUNK, MESSAGE = struct.Struct("<II"), struct.Struct("<IIQI")
MONITORS, CLIPBOARD, CAPABILITIES, GRAB, REQUEST = 2, 4, 6, 7, 8
FILE_START, FILE_STATUS, FILE_DATA = 10, 11, 12
#: Mouse, monitors, reply, clipboard on demand with selections.
CAN = sum(1 << bit for bit in (0, 1, 2, 5, 6))
SELECTION = bytes(4)
TEXT = 1
GO_ON, DONE = 0, 3
FILE = bytes(range(256)) * 300
SERVER_MOUSE, CLIENT_MOUSE = 1, 2


@dataclass
class Agent:
    """The guest's agent: takes all that it is offered, and offers a text when it has the viewer's."""

    stream: Stream
    heard: list[int] = field(default_factory=list)
    """The types of the messages that came."""
    text: str = ""
    file: bytes = b""
    _size: int = 0
    _chunks: bytearray = field(default_factory=bytearray)
    _bytes: bytearray = field(default_factory=bytearray)

    async def serve(self, until: Callable[[], bool]) -> None:
        while not until():
            kind, data = await self._message()
            self.heard.append(kind)
            await self._answer(kind, data)

    @property
    def has_file(self) -> bool:
        return FILE_START in self.heard and len(self.file) == self._size

    async def _answer(self, kind: int, data: bytes) -> None:
        clip = SELECTION + struct.pack("<I", TEXT)
        if kind == CAPABILITIES and data[0]:
            await self._send(CAPABILITIES, struct.pack("<II", 0, CAN))
        elif kind == GRAB:
            await self._send(REQUEST, clip)
        elif kind == CLIPBOARD:
            self.text = data[len(clip) :].decode()
            await self._send(GRAB, clip)
        elif kind == REQUEST:
            await self._send(CLIPBOARD, clip + b"from the guest")
        elif kind == FILE_START:
            self._size = int(data.split(b"size=")[1].split(b"\n")[0])
            await self._send(FILE_STATUS, data[:4] + struct.pack("<I", GO_ON))
        elif kind == FILE_DATA:
            self.file += data[12:]
            if self.has_file:
                await self._send(FILE_STATUS, data[:4] + struct.pack("<I", DONE))

    async def _send(self, kind: int, data: bytes) -> None:
        whole = MESSAGE.pack(1, kind, 0, len(data)) + data
        await self.stream.write(CHUNK.pack(1, len(whole)) + whole)

    async def _message(self) -> tuple[int, bytes]:
        await self._fill(MESSAGE.size)
        protocol, kind, _, size = MESSAGE.unpack_from(self._bytes)
        assert protocol == 1
        await self._fill(MESSAGE.size + size)
        data = bytes(self._bytes[MESSAGE.size : MESSAGE.size + size])
        del self._bytes[: MESSAGE.size + size]
        return kind, data

    async def _fill(self, count: int) -> None:
        """Have so many bytes of messages, out of the chunks that they come in."""
        while len(self._bytes) < count:
            whole = CHUNK.size
            while len(self._chunks) < whole:
                data = await self.stream.read()
                assert data, "the channel has ended"
                self._chunks += data
                if len(self._chunks) >= CHUNK.size:
                    whole = CHUNK.size + CHUNK.unpack_from(self._chunks)[1]
            whole = CHUNK.size + CHUNK.unpack_from(self._chunks)[1]
            if len(self._chunks) >= whole:
                self._bytes += self._chunks[CHUNK.size : whole]
                del self._chunks[:whole]


async def session(desk: Desk, until: Callable[[Agent], bool], taken: bool) -> tuple[Agent, dict[str, Any]]:
    """A viewer that offers clipboard and file to our agent; what each of them saw."""
    offer = desk.directory / "offer.bin"
    offer.write_bytes(FILE)
    wanted = {
        "uri": desk.display("spice").split("?")[0],
        "password": "sesame",
        "agent": {"offer": "from the viewer", "file": str(offer)},
    }
    async with corral.connect(desk.daemon.uri) as host, asyncio.timeout(60):
        vm = await host.domain(NAME)
        agent = Agent(await vm.channel("test.relay"))
        await vm.exec(["sh", "-c", f"({RELAY}) >/dev/null 2>&1 </dev/null &"])
        viewer = await asyncio.create_subprocess_exec(
            *("/usr/bin/python3", str(HERE / "spice_viewer.py"), json.dumps(wanted)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await agent.serve(lambda: until(agent))
            assert viewer.stdout is not None
            if taken:
                assert await viewer.stdout.readline() == b"taken\n"
            seen, _ = await viewer.communicate(b"")
        finally:
            if viewer.returncode is None:
                viewer.kill()
                await viewer.wait()
            agent.stream.abort()
    return agent, json.loads(seen)


@pytest.fixture(scope="module", params=[YES, NO], ids=["all allowed", "nothing allowed"])
def desk(request: pytest.FixtureRequest) -> Iterator[tuple[Desk, bool]]:
    with booted(DEVICES.format(policy=request.param)) as desk:
        yield desk, request.param == YES


async def test_what_a_document_allows_between_viewer_and_agent(desk: tuple[Desk, bool]) -> None:
    """What the viewer sends comes in its order: behind clipboard and file it asks for a size of the screen."""
    there, allowed = desk
    if allowed:
        last = {MONITORS, REQUEST}
        agent, seen = await session(there, lambda agent: agent.has_file and last <= set(agent.heard), taken=True)
        assert (agent.text, agent.file == FILE) == ("from the viewer", True)
        assert (seen["clipboard"], seen["file"], seen["mouse"]) == ("from the guest", "sent", CLIENT_MOUSE)
    else:
        agent, seen = await session(there, lambda agent: MONITORS in agent.heard, taken=False)
        assert not {GRAB, CLIPBOARD, FILE_START} & set(agent.heard)
        assert (seen["copypaste"], seen["filetransfer"], seen["mouse"]) == (False, False, SERVER_MOUSE)
        assert seen["file"] != "sent"
    assert seen["events"] == ["opened"]
