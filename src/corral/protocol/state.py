"""The state machine of a connection, as tables; `connection.py` runs them.

What libvirt's remote protocol says (https://libvirt.org/kbase/internals/rpc.html), and where we had to ask a libvirtd:

* A packet is a length word (which counts itself), a header of six words (program, version, procedure, type, serial,
  status) and a payload. A length that cannot be true ends the connection: nobody knows where the next packet starts.
* Calls and replies: the client picks the serial, the reply carries it back. Any number may be outstanding, answers
  come as they are ready. Either may carry descriptors (…_WITH_FDS): the payload starts with their count, and after the
  packet comes one byte for each, a descriptor riding on it.
* A call that the daemon does not understand (unknown program, version or procedure, a status but OK) is answered with
  an error and changes nothing. Other packets that do not belong are dropped. A client that gets an answer to no call
  of its own gives up: the two disagree about what was said.
* Events are packets of type MESSAGE with serial 0, from the daemon to the client only.
* A procedure may open a stream; its packets carry the call's program, procedure and serial. Status CONTINUE is data,
  an empty one from the daemon says "no more data"; OK is the client's finish and the daemon's confirmation of it; ERROR
  is an abort, from the client without a payload, from the daemon with the error. The client's finish and abort are
  confirmed by the daemon, the daemon's abort is not. A hole is a packet of its own type. Packets of a stream that is
  gone are dropped: they were on their way when it ended.
* Keepalive is a program of its own (PING, PONG), allowed once the client asked for the feature. Any packet shows that
  the peer lives; after `count` pings in a row unanswered for `interval` each, the connection ends.

Stream states: OPENING (called, not yet answered), DOOMED (the client changed its mind before the answer), OPEN,
LOCAL_EOF (the daemon has no more data), REMOTE_EOF (the client has been told so), LOCAL_END and LOCAL_ABORT (the client
waits for the confirmation), REMOTE_END (the client finished, the daemon has yet to confirm). A stream that is gone has
no state and takes no memory.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

CALL: Final = 0
REPLY: Final = 1
MESSAGE: Final = 2
STREAM: Final = 3
CALL_WITH_FDS: Final = 4
REPLY_WITH_FDS: Final = 5
STREAM_HOLE: Final = 6
"""virNetMessageType"""

OK: Final = 0
ERROR: Final = 1
CONTINUE: Final = 2
"""virNetMessageStatus"""

PING: Final = 1
PONG: Final = 2
"""Procedures of the keepalive program."""

INCOMING: dict[str, dict[tuple[int, int], str]] = {
    "server": {
        (CALL, OK): "call",
        (CALL_WITH_FDS, OK): "call",
        (STREAM, CONTINUE): "data",
        (STREAM, OK): "end",
        (STREAM, ERROR): "abort",
        (STREAM_HOLE, CONTINUE): "hole",
    },
    "client": {
        (REPLY, OK): "reply",
        (REPLY_WITH_FDS, OK): "reply",
        (REPLY, ERROR): "failure",
        (REPLY_WITH_FDS, ERROR): "failure",
        (MESSAGE, OK): "message",
        (STREAM, CONTINUE): "data",
        (STREAM, OK): "end",
        (STREAM, ERROR): "abort",
        (STREAM_HOLE, CONTINUE): "hole",
    },
}
"""What a packet's (type, status) means to each role; what is not here is refused if it is a call."""

GONE: Final = "GONE"


class Step:
    """What one thing does to a stream: the next state, the packet that goes out, the event for the owner.

    `packet`: data, hole, eof (empty CONTINUE), end (OK) or abort (ERROR); `event`: data, hole, eof, end or abort.
    """

    __slots__ = ("event", "packet", "state")

    def __init__(self, state: str, packet: str | None = None, event: str | None = None) -> None:
        self.state = state
        self.packet = packet
        self.event = event


RECEIVED: dict[str, dict[str, dict[str, Step]]] = {
    "server": {
        "OPENING": {
            "data": Step("OPENING", event="data"),
            "hole": Step("OPENING", event="hole"),
            "end": Step("REMOTE_END", event="end"),
            "abort": Step(GONE, packet="end", event="abort"),
        },
        "OPEN": {
            "data": Step("OPEN", event="data"),
            "hole": Step("OPEN", event="hole"),
            "end": Step("REMOTE_END", event="end"),
            "abort": Step(GONE, packet="end", event="abort"),
        },
        "LOCAL_EOF": {
            "data": Step("LOCAL_EOF", event="data"),
            "hole": Step("LOCAL_EOF", event="hole"),
            "end": Step(GONE, packet="end", event="end"),
            "abort": Step(GONE, packet="end", event="abort"),
        },
        "REMOTE_END": {
            "abort": Step(GONE, packet="end", event="abort"),
        },
    },
    "client": {
        "OPENING": {
            "data": Step("OPENING", event="data"),
            "hole": Step("OPENING", event="hole"),
            "eof": Step("OPENING", event="eof"),
            "abort": Step(GONE, event="abort"),
        },
        "DOOMED": {"abort": Step(GONE, event="abort")},
        "OPEN": {
            "data": Step("OPEN", event="data"),
            "hole": Step("OPEN", event="hole"),
            "eof": Step("REMOTE_EOF", event="eof"),
            "end": Step(GONE, event="end"),
            "abort": Step(GONE, event="abort"),
        },
        "REMOTE_EOF": {
            "end": Step(GONE, event="end"),
            "abort": Step(GONE, event="abort"),
        },
        "LOCAL_END": {
            "data": Step("LOCAL_END", event="data"),
            "hole": Step("LOCAL_END", event="hole"),
            "eof": Step("LOCAL_END"),
            "end": Step(GONE, event="end"),
            "abort": Step(GONE, event="abort"),
        },
        "LOCAL_ABORT": {
            "end": Step(GONE, event="end"),
            "abort": Step(GONE, event="abort"),
        },
    },
}
"""role → stream state → what arrived → step; what is not here is dropped."""

SENT: dict[str, dict[str, dict[str, Step]]] = {
    "server": {
        "OPENING": {"reply": Step("OPEN"), "failure": Step(GONE)},
        "OPEN": {
            "data": Step("OPEN", packet="data"),
            "hole": Step("OPEN", packet="hole"),
            "end": Step("LOCAL_EOF", packet="eof"),
            "abort": Step(GONE, packet="abort"),
        },
        "LOCAL_EOF": {"abort": Step(GONE, packet="abort")},
        "REMOTE_END": {
            "reply": Step("REMOTE_END"),
            "failure": Step(GONE),
            "end": Step(GONE, packet="end"),
            "abort": Step(GONE, packet="abort"),
        },
    },
    "client": {
        "OPENING": {"reply": Step("OPEN"), "failure": Step(GONE), "abort": Step("DOOMED")},
        "DOOMED": {"reply": Step("LOCAL_ABORT", packet="abort"), "failure": Step(GONE)},
        "OPEN": {
            "data": Step("OPEN", packet="data"),
            "hole": Step("OPEN", packet="hole"),
            "end": Step("LOCAL_END", packet="end"),
            "abort": Step("LOCAL_ABORT", packet="abort"),
        },
        "REMOTE_EOF": {
            "data": Step("REMOTE_EOF", packet="data"),
            "hole": Step("REMOTE_EOF", packet="hole"),
            "end": Step("LOCAL_END", packet="end"),
            "abort": Step("LOCAL_ABORT", packet="abort"),
        },
        "LOCAL_END": {},
        "LOCAL_ABORT": {},
    },
}
"""role → stream state → what its owner asks for (`reply` and `failure`: what the opening call came to) → step;
what is not here is not sent."""
