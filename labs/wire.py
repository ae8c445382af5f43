"""A blocking client of the wire, as small as can be: the same one measures Corral and libvirtd.

It is no part of the product. Calls are encoded beforehand, answers are only counted, so that what is measured is the
daemon and not the client.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.errors import CorralError, from_wire
from corral.protocol.codec import codec
from corral.protocol.procedures import Procedure, procedure

HEADER = struct.Struct(">IIIiiIi")  # length, program, version, procedure, type, serial, status
CALL, REPLY, MESSAGE = 0, 1, 2
OK, ERROR = 0, 1


class Wire:
    """One connection; `call` waits for its answer, `throughput` keeps a window of calls under way."""

    def __init__(self, path: Path, driver: str, *, read_only: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.serial = 0
        self.received = bytearray()
        self.events: list[tuple[int, int, bytes]] = []
        self.call("auth_list")
        self.call("connect_open", name=driver, flags=1 if read_only else 0)

    def close(self) -> None:
        """Drop the connection without a word, as a crashed client would."""
        self.socket.close()

    def message(self, target: Procedure, arguments: dict[str, Any]) -> bytes:
        """One whole CALL message with the next serial."""
        self.serial += 1
        body = codec(target.args).encode(arguments) if target.args else b""
        head = HEADER.pack(28 + len(body), target.program, target.version, target.number, CALL, self.serial, OK)
        return head + body

    def send(self, name: str, /, **arguments: Any) -> tuple[int, Procedure]:
        """Send a call and return its serial without waiting."""
        target = procedure(name)
        self.socket.sendall(self.message(target, arguments))
        return self.serial, target

    def call(self, procedure_name: str, /, **arguments: Any) -> Any:
        """Call and return the decoded answer, or raise what the daemon reported."""
        serial, target = self.send(procedure_name, **arguments)
        return self.answer(serial, target)

    def answer(self, serial: int, target: Procedure) -> Any:
        """Wait for the answer to one call; events that arrive meanwhile are kept in `events`."""
        while True:
            header, body = self.read()
            _, program, _, number, kind, got, status = header
            if kind == MESSAGE:
                self.events.append((program, number, body))
            elif kind == REPLY and got == serial:
                if status == ERROR:
                    raise decode_error(body)
                return codec(target.ret).decode(body) if target.ret else None

    def read(self) -> tuple[tuple[int, ...], bytes]:
        """The next message: its header fields and its body."""
        while True:
            if len(self.received) >= 4:
                length = int.from_bytes(self.received[:4], "big")
                if len(self.received) >= length:
                    message = bytes(self.received[:length])
                    del self.received[:length]
                    return HEADER.unpack_from(message), message[28:]
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the daemon closed the connection")
            self.received += data

    def call_all(self, name: str, arguments: list[dict[str, Any]]) -> None:
        """Send every call at once, then wait for all the answers, in whatever order they come."""
        target = procedure(name)
        messages = [self.message(target, each) for each in arguments]
        self.socket.sendall(b"".join(messages))
        for _ in messages:
            header, body = self.read()
            while header[4] != REPLY:
                header, body = self.read()
            if header[6] == ERROR:
                raise decode_error(body)


@dataclass
class _Flow:
    """One connection under load: what it sends, what it has under way, what it received of an answer."""

    wire: Wire
    batch: bytes
    burst: int
    pending: int = 0
    received: bytearray = field(default_factory=bytearray)

    def send(self, window: int) -> None:
        while self.pending + self.burst <= window:
            self.wire.socket.sendall(self.batch)
            self.pending += self.burst

    def receive(self) -> int:
        """Read what is there and return how many whole answers it held."""
        self.received += self.wire.socket.recv(1 << 18)
        buffer, position, answered = self.received, 0, 0
        while len(buffer) - position >= 28:
            length = int.from_bytes(buffer[position : position + 4], "big")
            if len(buffer) - position < length:
                break
            if buffer[position + 27] != OK:
                raise decode_error(bytes(buffer[position + 28 : position + length]))
            position += length
            answered += 1
        del buffer[:position]
        self.pending -= answered
        return answered


def throughput(wires: list[Wire], name: str, arguments: dict[str, Any], *, seconds: float, window: int) -> float:
    """Calls answered per second over all connections, with `window` calls under way on each."""
    burst = max(1, window // 2)
    target = procedure(name)
    flows = [_Flow(wire, b"".join(wire.message(target, arguments) for _ in range(burst)), burst) for wire in wires]
    answered = 0
    with selectors.DefaultSelector() as selector:
        for flow in flows:
            selector.register(flow.wire.socket, selectors.EVENT_READ, flow)
        begin = time.perf_counter()
        end = begin + seconds
        for flow in flows:
            flow.send(window)
        while any(flow.pending for flow in flows):
            for key, _ in selector.select(60):
                answered += key.data.receive()
                if time.perf_counter() < end:
                    key.data.send(window)
        return answered / (time.perf_counter() - begin)


def decode_error(body: bytes) -> CorralError:
    """The error in the body of an answer."""
    error = codec("remote_error").decode(body)
    return from_wire(error.code, error.domain, error.message or "")
