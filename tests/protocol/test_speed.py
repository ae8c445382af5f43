"""How much of a call's time the protocol takes; the floor is far under what we see, so that only a blunder fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from corral.protocol import Call, Connection, TypedParam, codec, pack, procedure

LOOKUP = procedure("domain_lookup_by_name")
CALLS = 5000
RET = {"dom": {"name": "web", "uuid": bytes(16), "id": 4}}


def per_second(number: int, work: Callable[[], object]) -> float:
    """Things done a second, in the best of a few rounds."""
    best = min(_time(work) for _ in range(5))
    return number / best


def _time(work: Callable[[], object]) -> float:
    started = time.process_time()  # what others compute meanwhile does not count
    work()
    return time.process_time() - started


def test_calls() -> None:
    client = Connection("client")
    for _ in range(CALLS):
        client.call(LOOKUP, {"name": "web"})
    data = client.data_to_send()
    body = codec("remote_domain_lookup_by_name_ret").encode(RET)

    def cached() -> None:
        server = Connection("server")
        for call in server.receive_data(data, 0.0):
            assert isinstance(call, Call)
            server.send_reply_bytes(call.serial, call.procedure, body)
        server.data_to_send()

    def encoded() -> None:
        server = Connection("server")
        for call in server.receive_data(data, 0.0):
            assert isinstance(call, Call) and call.args().name == "web"
            server.send_reply(call.serial, call.procedure, RET)
        server.data_to_send()

    fast, slow = per_second(CALLS, cached), per_second(CALLS, encoded)
    print(f"answers from cache {fast:,.0f}/s, decoded and encoded {slow:,.0f}/s")
    assert fast > 200_000
    assert slow > 50_000


def test_typed_params() -> None:
    params = [TypedParam.ullong(f"net.{i}.rx.bytes", i) for i in range(90)]
    stats = {"retStats": [{"dom": RET["dom"], "params": pack(params)} for _ in range(100)]}
    xdr = codec("remote_connect_get_all_domain_stats_ret")
    data = xdr.encode(stats)
    encode, decode = per_second(9000, lambda: xdr.encode(stats)), per_second(9000, lambda: xdr.decode(data))
    print(f"typed parameters: {encode:,.0f}/s out, {decode:,.0f}/s in")
    assert encode > 100_000
    assert decode > 100_000
