"""Libvirt's remote protocol without I/O: XDR, packets, calls, replies, events, streams, keepalive; procedures as data.

Start with `connection.Connection`; `procedures.procedure(name)` finds a procedure, `codec.codec(name)` a struct's
encoder and decoder, `codec.record(name)` the class of its values.
"""

from __future__ import annotations

from corral.protocol.codec import Codec, Record, codec, record
from corral.protocol.connection import Connection
from corral.protocol.events import (
    Call,
    ConnectionLost,
    Error,
    Event,
    KeepaliveTimeout,
    Message,
    Reply,
    StreamAbort,
    StreamData,
    StreamEnd,
    StreamEOF,
    StreamHole,
)
from corral.protocol.procedures import PROGRAMS, Procedure, all_procedures, find, procedure
from corral.protocol.typed_params import TypedParam, pack, unpack

__all__ = [
    "PROGRAMS",
    "Call",
    "Codec",
    "Connection",
    "ConnectionLost",
    "Error",
    "Event",
    "KeepaliveTimeout",
    "Message",
    "Procedure",
    "Record",
    "Reply",
    "StreamAbort",
    "StreamData",
    "StreamEOF",
    "StreamEnd",
    "StreamHole",
    "TypedParam",
    "all_procedures",
    "codec",
    "find",
    "pack",
    "procedure",
    "record",
    "unpack",
]
