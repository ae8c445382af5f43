"""A guest's side in memory: it asks a device what a guest asks, through the protocol, without QEMU."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from corral.usb import packets as p
from corral.usb.connection import Connection
from corral.usb.packets import Packet, Status
from corral.usb.redirection import Redirection
from corral.usb.transfer import Job, Target


@dataclass
class Desk:
    """A device behind a redirection, and the guest's connection to it; `hold` keeps jobs back."""

    device: Target
    hold: bool = False
    now: float = 0.0
    news: list[Packet] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.redirection = Redirection(self.device)
        self.guest = Connection("guest")
        self._ids = count(1)
        self.move()

    def move(self) -> list[Packet]:
        """Let bytes flow until nobody has any more; what the guest received."""
        received: list[Packet] = []
        while True:
            outwards, inwards = self.guest.data_to_send(), self.redirection.data_to_send()
            self.jobs += self.redirection.take_jobs()
            jobs = [] if self.hold else self.jobs
            if not (outwards or inwards or jobs):
                self.news += received
                return received
            if outwards:
                self.redirection.receive_data(outwards, self.now)
            if inwards:
                received += self.guest.receive_data(inwards)
            if jobs:
                self.jobs = []
            for job in jobs:
                self.redirection.settle(job, job.attempt(), self.now)

    def pass_time(self, seconds: float) -> list[Packet]:
        self.now += seconds
        self.redirection.tick(self.now)
        return self.move()

    def ask(self, packet: Any) -> Any:
        """Send a request; its answer, or None when it waits."""
        packet.id = next(self._ids)
        self.guest.send(packet)
        return next((each for each in self.move() if each.id == packet.id), None)  # type: ignore[attr-defined]

    def control(self, type: int, request: int, value: int = 0, index: int = 0, what: int | bytes = 0) -> Any:
        """A control transfer: `what` is the data, or how much of it is wanted."""
        data = what if isinstance(what, bytes) else b""
        length = len(what) if isinstance(what, bytes) else what
        return self.ask(p.ControlPacket(type & 0x80, request, type, 0, value, index, length, 0, data))

    def write(self, endpoint: int, data: bytes) -> Any:
        return self.ask(p.BulkPacket(endpoint, 0, len(data), 0, 0, data))

    def read(self, endpoint: int, length: int) -> Any:
        return self.ask(p.BulkPacket(endpoint, 0, length))


@dataclass
class Host(Desk):
    """A desk that speaks bulk-only transport to a stick."""

    tag: int = 0

    def scsi(self, command: bytes, what: int | bytes = 0, piece: int = 16384) -> tuple[int, bytes, int]:
        """A command with its data: the status, what was read, the residue."""
        self.tag += 1
        inwards = isinstance(what, int)
        length = what if isinstance(what, int) else len(what)
        wrapper = struct.pack(
            "<4sIIBBB16s", b"USBC", self.tag, length, 0x80 if inwards else 0, 0, len(command), command
        )
        assert self.write(2, wrapper).status == Status.SUCCESS
        got = b""
        if inwards:
            while len(got) < length:
                wanted = min(piece, length - len(got))
                answer = self.read(0x81, wanted)
                assert answer.status == Status.SUCCESS
                got += answer.data
                if answer.length < wanted:
                    break
        elif isinstance(what, bytes):
            for at in range(0, length, piece):
                assert self.write(2, what[at : at + piece]).status == Status.SUCCESS
        status = self.read(0x81, 13)
        magic, tag, residue, result = struct.unpack("<4sIIB", status.data)
        assert (magic, tag) == (b"USBS", self.tag)
        return result, got, residue

    def sense(self) -> tuple[int, int, int]:
        """Sense key, code and qualifier of the last failure."""
        result, data, _ = self.scsi(bytes((3, 0, 0, 0, 18, 0)), 18)
        assert result == 0
        return data[2], data[12], data[13]
