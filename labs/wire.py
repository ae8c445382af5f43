"""A blocking client of the wire, as small as can be, for Corral and libvirtd alike; it is no part of the product."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

from corral.errors import CorralError, from_wire
from corral.protocol.codec import codec
from corral.protocol.procedures import Procedure, procedure

HEADER = struct.Struct(">IIIiiIi")  # length, program, version, procedure, type, serial, status
CALL, REPLY, MESSAGE = 0, 1, 2
OK, ERROR = 0, 1


class Wire:
    """One connection; `call` waits for its answer, `call_all` sends many calls before it does."""

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
            data = self.socket.recv(1 << 16)
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


def decode_error(body: bytes) -> CorralError:
    """The error in the body of an answer."""
    error = codec("remote_error").decode(body)
    return from_wire(error.code, error.domain, error.message or "")
