"""Mutated conversations into both roles: no uncaught exception, no hang, no growth.

50,000 sequences in `make test`; a million with `pytest -m slow tests/protocol`. Prints sequences per second (`-s`).
"""

from __future__ import annotations

import gc
import random
import resource
import struct
import time

import pytest
from tests.protocol.invention import invent

from corral.errors import CorralError
from corral.protocol import (
    Call,
    Connection,
    ConnectionLost,
    Event,
    Message,
    Procedure,
    Reply,
    StreamData,
    StreamEnd,
    StreamHole,
    all_procedures,
    codec,
)
from corral.protocol.compiler import resolve
from corral.protocol.fault import encode_error

CALL, REPLY, MESSAGE, STREAM, CALL_FDS, REPLY_FDS, HOLE = range(7)
OUTGOING_MAX = 1 << 20
SECONDS_MAX = 10  # one sequence; a hang would take for ever
GROWTH_MAX = 16 << 10  # KiB of resident memory after warming up


def packet(row: Procedure, kind: int, serial: int, status: int, body: bytes) -> bytes:
    return struct.pack(">I12sIII", 28 + len(body), row.wire, kind, serial, status) + body


def stream(row: Procedure, serial: int, rng: random.Random) -> list[bytes]:
    """Packets of one stream, in an order that makes sense or not."""
    hole = codec("virNetStreamHole").encode({"length": 4096, "flags": 0})
    packets = [packet(row, STREAM, serial, 2, rng.randbytes(rng.randrange(64))), packet(row, HOLE, serial, 2, hole)]
    packets += [packet(row, STREAM, serial, status, b"") for status in rng.sample([0, 1, 2], 2)]
    if rng.random() < 0.3:
        rng.shuffle(packets)
    return packets


def corpus(role: str, rng: random.Random) -> list[list[bytes]]:
    """Well-formed packets of every kind that a role receives; those of a stream stay together."""
    talks = [[struct.pack(">IIIiIII", 28, 0x6B656570, 1, number, MESSAGE, 0, 0)] for number in (1, 2)]
    for row in all_procedures():
        name = row.args if role == "server" else row.ret or row.msg
        body = codec(name).encode(invent(resolve(name), rng)) if name else b""
        kind = CALL if role == "server" else MESSAGE if row.msg else REPLY
        talks.append([packet(row, kind, rng.randrange(1, 64), 0, body)])
        if row.stream:
            for serial in range(100, 110):
                talks.append([packet(row, kind, serial, 0, body), *stream(row, serial, rng)])
    talks.append([packet(row, CALL_FDS if role == "server" else REPLY_FDS, 1, 0, struct.pack(">I", 1)) + b"\0"])
    return talks


def answers(connection: Connection, bodies: dict[str, bytes], rng: random.Random) -> list[bytes]:
    """Right answers to some calls that a client has outstanding, in any order."""
    packets = []
    for serial, row in rng.sample(list(connection._calls.items()), min(3, connection.outstanding)):
        if rng.random() < 0.1:
            packets.append(packet(row, REPLY, serial, 1, encode_error(CorralError("text"))))
        else:
            packets.append(packet(row, REPLY, serial, 0, bodies[row.name]))
            packets += stream(row, serial, rng) if row.stream else []
    return packets


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The packet with something wrong with it, more often inside than in the length."""
    changed = bytearray(data)
    first = 28 if rng.random() < 0.9 else 0  # where the damage begins: mostly behind the header
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        at = rng.randrange(first, len(changed)) if len(changed) > first else len(changed)
        match rng.randrange(7):
            case 0:
                changed[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 1:
                del changed[at : at + rng.randrange(1, 9)]
            case 2 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 3:
                at &= ~3
                changed[at : at + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\x10\0"]
                )
            case 4 if len(changed) >= 28:
                field = rng.randrange(3, 7)
                changed[4 * field : 4 * field + 4] = struct.pack(">I", rng.choice([0, 1, 2, 3, 4, 5, 6, 107, 201]))
            case 5:
                changed += rng.randbytes(rng.randrange(40))
            case _:
                del changed[at:]
    if len(changed) >= 4 and rng.random() < 0.98:
        struct.pack_into(">I", changed, 0, len(changed))
    return bytes(changed)


def use(connection: Connection, event: Event) -> None:
    """Do with an event what a daemon or a client would."""
    try:
        match event:
            case Call(serial=serial, procedure=row):
                if row.ret is None:
                    event.args()
                    connection.send_reply(serial, row)
                else:
                    event.args()
                    connection.send_reply_bytes(serial, row, b"")
            case Reply():
                event.ret()
            case Message():
                event.msg()
            case StreamData(serial=serial, procedure=row, data=data):
                connection.send_stream_data(serial, row, data)
            case StreamHole(serial=serial, procedure=row, length=length):
                connection.send_stream_hole(serial, row, length)
            case StreamEnd(serial=serial, procedure=row):
                connection.send_stream_end(serial, row)
    except CorralError as error:
        if isinstance(event, Call):
            connection.send_error(event.serial, event.procedure, error)


def fuzz(role: str, sequences: int, seed: int) -> float:
    """Feed that many mutated sequences; sequences per second."""
    rng = random.Random(seed)
    talks = corpus(role, rng)
    rows = [row for row in all_procedures() if row.args is None or row.stream]
    bodies = {row.name: codec(row.ret).encode(invent(resolve(row.ret), rng)) if row.ret else b"" for row in rows}
    connection = Connection("server")
    handled = 0
    now = 0.0
    warm = 0
    started = time.perf_counter()
    for number in range(sequences):
        if connection.lost is not None or number % 64 == 0:
            connection = Connection("server" if role == "server" else "client", max_outgoing=OUTGOING_MAX)
            if role == "client":
                for row in rng.sample(rows, 20):
                    name = row.args
                    connection.call(row, invent(resolve(name), rng) if name else None)
        sent = [packet for talk in rng.choices(talks, k=rng.choice([1, 1, 2, 4])) for packet in talk]
        sent += answers(connection, bodies, rng)
        data = b"".join(mutate(packet, rng) for packet in sent)
        cut = rng.randrange(len(data) + 1)
        begun = time.perf_counter()
        for piece in (data[:cut], data[cut:]):
            if piece:
                for event in connection.receive_data(piece, now):
                    use(connection, event)
                    handled += 1
        now += rng.choice([0.0, 0.0, 0.1, 6.0])
        lost = connection.tick(now)
        assert all(isinstance(event, ConnectionLost) for event in lost)
        assert connection.outgoing <= OUTGOING_MAX + 300_000
        connection.data_to_send()
        assert time.perf_counter() - begun < SECONDS_MAX, data
        if number == sequences // 5:
            gc.collect()
            warm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.collect()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - warm < GROWTH_MAX
    assert handled > sequences / 2, "most of it must get past the header to test anything"
    return sequences / (time.perf_counter() - started)


@pytest.mark.parametrize("role", ["server", "client"])
def test_mutated_bytes(role: str) -> None:
    speed = fuzz(role, 25_000, seed=1)
    print(f"{role}: {speed:,.0f} sequences/s")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("role", ["server", "client"])
def test_a_million_mutated_sequences(role: str) -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    speed = fuzz(role, 500_000, seed)
    print(f"{role}: {speed:,.0f} sequences/s")
