"""Calls as fast as the answers come: one client for every daemon, and for the bare socket that is their floor.

The calls are encoded beforehand and the answers only counted, with as few system calls as there can be: what a client
takes for itself it takes from every daemon's figure alike, and hides the difference.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from corral.protocol.procedures import procedure
from labs.wire import HEADER, OK, Wire, decode_error

#: How many calls are under way on each connection, and what that is called.
MANNERS = {1: "one at a time", 32: "pipelined"}
#: How many connections are measured.
CONNECTIONS = (1, 10)
#: Seconds within which an answer must come.
PATIENCE = 60
#: Bytes read at a time: a buffer that the allocator has at hand; one of 128 KiB would be mapped anew for each call.
_READ = 1 << 16
_TIMEVAL = struct.Struct("ll")
#: Where the last byte of the status stands, the only one that is not 0 in an answer that tells of a failure.
_STATUS = HEADER.size - 1


@dataclass
class Flow:
    """One connection under load: what it sends, what it has under way, the beginning of an answer."""

    socket: socket.socket
    batch: bytes
    burst: int
    pending: int = 0
    rest: bytes = b""

    def send(self, window: int) -> None:
        """Have `window` calls under way, or as many as whole bursts allow."""
        while self.pending + self.burst <= window:
            self.socket.sendall(self.batch)
            self.pending += self.burst

    def receive(self) -> int:
        """Read what is there, or wait for it, and return how many whole answers it completed."""
        data = self.socket.recv(_READ)
        if not data:
            raise ConnectionError("the daemon closed the connection")
        if self.rest:
            data = self.rest + data
        position, answered, end = 0, 0, len(data)
        while end - position >= HEADER.size:
            stop = position + int.from_bytes(data[position : position + 4], "big")
            if stop > end:
                break
            if data[position + _STATUS] != OK:
                raise decode_error(data[position + HEADER.size : stop])
            position = stop
            answered += 1
        self.rest = data[position:]
        self.pending -= answered
        return answered


def burst_of(window: int) -> int:
    """How many calls are sent in one piece where `window` may be under way."""
    return max(1, window // 2)


def throughput(wires: list[Wire], name: str, arguments: dict[str, Any], *, seconds: float, window: int) -> float:
    """Calls answered per second over all connections, with `window` calls under way on each."""
    burst = burst_of(window)
    target = procedure(name)
    batches = [b"".join(wire.message(target, arguments) for _ in range(burst)) for wire in wires]
    flows = [Flow(wire.socket, batch, burst) for wire, batch in zip(wires, batches, strict=True)]
    return rate(flows, seconds=seconds, window=window)


def rate(flows: list[Flow], *, seconds: float, window: int) -> float:
    """Answers per second over all flows: one is read by waiting in it, several by asking which has something."""
    for flow in flows:
        # Not Python's own time-out, which would ask the kernel before each read and each write.
        flow.socket.setblocking(True)
        flow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(PATIENCE, 0))
    begin = time.perf_counter()
    for flow in flows:
        flow.send(window)
    load = _alone if len(flows) == 1 else _together
    return load(flows, begin + seconds, window) / (time.perf_counter() - begin)


def _alone(flows: list[Flow], end: float, window: int) -> int:
    (flow,) = flows
    answered = 0
    while flow.pending:
        answered += flow.receive()
        if time.perf_counter() < end:
            flow.send(window)
    return answered


def _together(flows: list[Flow], end: float, window: int) -> int:
    answered = 0
    by_descriptor = {flow.socket.fileno(): flow for flow in flows}
    with select.epoll() as poll:
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        under_way = len(flows)
        while under_way:
            ready = poll.poll(PATIENCE)
            if not ready:
                raise TimeoutError(f"no answer within {PATIENCE} s")
            for descriptor, _ in ready:
                flow = by_descriptor[descriptor]
                answered += flow.receive()
                if time.perf_counter() < end:
                    flow.send(window)
                elif not flow.pending:
                    under_way -= 1
    return answered
