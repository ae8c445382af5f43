"""XDR: every struct there and back, against a second encoder written from RFC 4506, and what must be refused."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.invention import invent

from corral.errors import RPCError
from corral.protocol import TypedParam, all_procedures, codec, pack, record, unpack
from corral.protocol.compiler import Type, fields, resolve
from corral.protocol.interface import interface
from corral.protocol.typed_params import unpack_list

STRUCTS = sorted(interface()["structs"])


def xdr(kind: Type, value: Any) -> bytes:
    """The bytes that RFC 4506 asks for, written without thought of speed."""
    match kind.kind:
        case "scalar":
            return struct.pack(">" + kind.base.replace("3xB", "I").replace("2xH", "I"), value)
        case "fixed":
            return bytes(value) + bytes(-len(value) % 4)
        case "opaque" | "string":
            raw: bytes = value.encode("utf-8", "surrogateescape") if kind.kind == "string" else value
            return struct.pack(">I", len(raw)) + raw + bytes(-len(raw) % 4)
        case "chars" | "fixed_chars":
            raw = value.encode("utf-8", "surrogateescape")
            head = struct.pack(">I", len(raw)) if kind.kind == "chars" else b""
            raw = raw if kind.kind == "chars" else raw + bytes(kind.limit - len(raw))
            return head + b"".join(struct.pack(">i", byte - 256 if byte > 127 else byte) for byte in raw)
        case "optional":
            return b"\0\0\0\0" if value is None else b"\0\0\0\1" + xdr(kind.inner, value)
        case "list":
            return struct.pack(">I", len(value)) + b"".join(xdr(kind.inner, item) for item in value)
        case "union":
            tag, arm = value
            return struct.pack(">i", tag) + xdr(resolve(interface()["unions"][kind.base][str(tag)]), arm)
        case _:
            return b"".join(xdr(resolve(notation), value[name]) for name, notation in fields(kind.base))


def plain(value: Any) -> Any:
    """A record as plain data."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "__slots__"):
        return {name: plain(getattr(value, name)) for name in value.__slots__}
    return value


@given(st.sampled_from(STRUCTS), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_round_trip_of_any_struct(name: str, seed: int) -> None:
    value = invent(resolve(name), random.Random(seed))
    data = codec(name).encode(value)
    assert data == xdr(resolve(name), value)
    decoded = codec(name).decode(data)
    assert plain(decoded) == value
    assert codec(name).encode(decoded) == data
    assert codec(name).decode(b"head" + data, 4) == decoded


@pytest.mark.parametrize("kind", ["args", "ret", "msg"])
def test_round_trip_of_every_procedure(kind: str) -> None:
    rng = random.Random(460)
    for row in all_procedures():
        name = getattr(row, kind)
        if name is None:
            continue
        for _ in range(10):
            value = invent(resolve(name), rng)
            data = codec(name).encode(value)
            assert data == xdr(resolve(name), value), row
            assert plain(codec(name).decode(data)) == value, row


def test_every_truncation_is_refused() -> None:
    rng = random.Random(7)
    for name in STRUCTS:
        data = codec(name).encode(invent(resolve(name), rng))
        for cut in {0, 1, len(data) // 2, len(data) - 1}:
            with pytest.raises(RPCError, match="Unable to decode message payload"):
                codec(name).decode(data[:cut])
        with pytest.raises(RPCError, match="4 bytes too many"):
            codec(name).decode(data + b"\0\0\0\0")


def test_known_bytes() -> None:
    """A lookup as virsh sends it."""
    data = codec("remote_domain_lookup_by_name_args").encode({"name": "web"})
    assert data == b"\x00\x00\x00\x03web\x00"


def test_any_marker_but_zero_is_present() -> None:
    """go-libvirt opens with the marker 01 00 00 00."""
    name = b"\0\0\0\x0eqemu:///system\0\0"
    flags = b"\0\0\0\0"
    for marker in (b"\1\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff"):
        assert codec("remote_connect_open_args").decode(marker + name + flags).name == "qemu:///system"
    assert codec("remote_connect_open_args").decode(b"\0\0\0\0" + flags).name is None


def test_limits_come_before_allocation() -> None:
    """Four bytes that promise gigabytes are refused by what is declared or by what is left."""
    huge = b"\xff\xff\xff\xff"
    promise = struct.pack(">I", 16384)  # as many domains as the interface allows, and not one of them there
    with pytest.raises(RPCError, match="4294967295 elements, at most 4194304"):
        codec("remote_domain_lookup_by_name_args").decode(huge)
    with pytest.raises(RPCError, match="at most 16384"):
        codec("remote_connect_list_all_domains_ret").decode(huge)
    with pytest.raises(RPCError, match="cut short"):
        codec("remote_connect_list_all_domains_ret").decode(promise + bytes(400))
    with pytest.raises(RPCError, match="cut short"):
        codec("remote_domain_block_peek_ret").decode(struct.pack(">I", 4194304))


def test_limits_hold_on_the_way_out() -> None:
    with pytest.raises(RPCError, match="over 4194304 bytes"):
        codec("remote_domain_define_xml_args").encode({"xml": "x" * 4194305})
    with pytest.raises(RPCError, match="over 16 elements"):
        codec("remote_domain_send_key_args").encode(
            {
                "dom": {"name": "a", "uuid": bytes(16), "id": 1},
                "codeset": 0,
                "holdtime": 0,
                "keycodes": [1] * 17,
                "flags": 0,
            }
        )


@pytest.mark.parametrize(
    "value",
    [
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"name": None},
        {"name": b"bytes"},
        {},
        {"name": "a", "colour": "red"},
        "a string",
    ],
)
def test_values_that_may_not_go_out(value: Any) -> None:
    with pytest.raises(RPCError, match="Unable to encode message payload"):
        codec("remote_domain_lookup_by_name_args").encode(value)


def test_numbers_out_of_range_and_short_uuid() -> None:
    domain = {"name": "a", "uuid": bytes(16), "id": 1}
    for wrong in ({"id": 2**31}, {"id": "1"}, {"uuid": b"short"}):
        with pytest.raises(RPCError, match="Unable to encode"):
            codec("remote_nonnull_domain").encode(domain | wrong)


def test_zero_byte_in_a_string_is_refused() -> None:
    with pytest.raises(RPCError, match="zero byte"):
        codec("remote_domain_lookup_by_name_args").decode(b"\0\0\0\3a\0b\0")


def test_unknown_union_tag() -> None:
    with pytest.raises(RPCError, match="unknown tag 9"):
        codec("remote_typed_param").decode(b"\0\0\0\1a\0\0\0" + b"\0\0\0\x09" + bytes(4))
    with pytest.raises(RPCError, match="unknown tag 9"):
        codec("remote_typed_param").encode({"field": "a", "value": (9, 1)})


def test_records() -> None:
    make = record("remote_connect_open_args")
    assert make(flags=1) == make(name=None, flags=1) != make(flags=2)
    assert repr(make(name="x", flags=1)) == "remote_connect_open_args(name='x', flags=1)"
    with pytest.raises(TypeError):
        make(name="x")
    with pytest.raises(AttributeError):
        make(flags=1).colour = "red"


def test_keyword_field() -> None:
    args = record("remote_domain_restore_args")(from_="/path")
    assert codec("remote_domain_restore_args").decode(codec("remote_domain_restore_args").encode(args)) == args


def test_fixed_chars_are_padded() -> None:
    """`char model[32]` takes four bytes a character."""
    node = {"model": "x86_64", "memory": 1, "cpus": 1, "mhz": 1, "nodes": 1, "sockets": 1, "cores": 1, "threads": 1}
    data = codec("remote_node_get_info_ret").encode(node)
    assert len(data) == 32 * 4 + 8 + 6 * 4
    assert codec("remote_node_get_info_ret").decode(data).model == "x86_64"


def test_typed_params() -> None:
    params = [
        TypedParam.int_("a", -1),
        TypedParam.uint("b", 2),
        TypedParam.llong("c", -(2**40)),
        TypedParam.ullong("d", 2**63),
        TypedParam.double("e", 0.5),
        TypedParam.boolean("f", True),
        TypedParam.string("g", "text"),
    ]
    data = codec("remote_domain_get_job_stats_ret").encode({"type": 1, "params": pack(params)})
    records = codec("remote_domain_get_job_stats_ret").decode(data).params
    values = unpack(records)
    assert values == {"a": -1, "b": 2, "c": -(2**40), "d": 2**63, "e": 0.5, "f": True, "g": "text"}
    assert values["f"] is True
    assert unpack_list(records) == params
    with pytest.raises(RPCError, match="twice"):
        unpack(records + records[:1])
