"""What a connection tells its owner: one class for each thing that can arrive.

All have `__slots__`, equality, a readable repr and `match` support. A body is the undecoded payload (bytes); `args()`,
`ret()` and `msg()` decode it and raise RPCError when it is not what the procedure declares.
"""

from __future__ import annotations

from corral.errors import CorralError
from corral.protocol.codec import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.protocol.procedures import Procedure


class Event:
    """The common base."""

    __slots__: tuple[str, ...] = ()
    __match_args__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n in self.__match_args__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_short(getattr(self, name))}" for name in self.__match_args__)
        return f"{type(self).__name__}({fields})"


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 40:
        return f"<{len(value)} bytes>"
    return repr(value)


def _decode(struct_name: str | None, body: bytes) -> Any:
    if struct_name is None:
        return None
    return codec(struct_name).decode(body)


class Call(Event):
    """Server: a client calls a procedure; answer with `send_reply` or `send_error` and the same serial."""

    __slots__ = __match_args__ = ("serial", "procedure", "body", "fds")

    def __init__(self, serial: int, procedure: Procedure, body: bytes, fds: tuple[int, ...] = ()) -> None:
        self.serial = serial
        self.procedure = procedure
        self.body = body
        self.fds = fds

    def args(self) -> Any:
        """The arguments as a record of `procedure.args`, or None when it takes none; RPCError on bad bytes."""
        return _decode(self.procedure.args, self.body)


class Reply(Event):
    """Client: the answer to the call with this serial."""

    __slots__ = __match_args__ = ("serial", "procedure", "body", "fds")

    def __init__(self, serial: int, procedure: Procedure, body: bytes, fds: tuple[int, ...] = ()) -> None:
        self.serial = serial
        self.procedure = procedure
        self.body = body
        self.fds = fds

    def ret(self) -> Any:
        """The result as a record of `procedure.ret`, or None when it returns nothing; RPCError on bad bytes."""
        return _decode(self.procedure.ret, self.body)


class Error(Event):
    """Client: the call with this serial failed, and why."""

    __slots__ = __match_args__ = ("serial", "procedure", "error")

    def __init__(self, serial: int, procedure: Procedure, error: CorralError) -> None:
        self.serial = serial
        self.procedure = procedure
        self.error = error


class Message(Event):
    """Client: the daemon reports an event that was registered for; `procedure.msg` names its struct."""

    __slots__ = __match_args__ = ("procedure", "body")

    def __init__(self, procedure: Procedure, body: bytes) -> None:
        self.procedure = procedure
        self.body = body

    def msg(self) -> Any:
        """The event as a record of `procedure.msg`; RPCError on bad bytes."""
        return _decode(self.procedure.msg, self.body)


class StreamData(Event):
    """Both: bytes of the stream that the call with this serial opened; never empty."""

    __slots__ = __match_args__ = ("serial", "procedure", "data")

    def __init__(self, serial: int, procedure: Procedure, data: bytes) -> None:
        self.serial = serial
        self.procedure = procedure
        self.data = data


class StreamHole(Event):
    """Both: `length` bytes of zeros that the sender left out."""

    __slots__ = __match_args__ = ("serial", "procedure", "length")

    def __init__(self, serial: int, procedure: Procedure, length: int) -> None:
        self.serial = serial
        self.procedure = procedure
        self.length = length


class StreamEOF(Event):
    """Client: the daemon has no more data; `send_stream_end` closes the stream politely."""

    __slots__ = __match_args__ = ("serial", "procedure")

    def __init__(self, serial: int, procedure: Procedure) -> None:
        self.serial = serial
        self.procedure = procedure


class StreamEnd(Event):
    """The peer finished the stream.

    Server: the client sent all it had and waits for a confirmation: when the data is safe call `send_stream_end`, or
    `send_stream_abort` if it is not. (After our own `send_stream_end` the confirmation goes out by itself and the
    stream is gone.) Client: the daemon confirmed our `send_stream_end` or `send_stream_abort`; the stream is gone.
    """

    __slots__ = __match_args__ = ("serial", "procedure")

    def __init__(self, serial: int, procedure: Procedure) -> None:
        self.serial = serial
        self.procedure = procedure


class StreamAbort(Event):
    """Both: the peer broke the stream off; it is gone and nothing more may be sent."""

    __slots__ = __match_args__ = ("serial", "procedure", "error")

    def __init__(self, serial: int, procedure: Procedure, error: CorralError) -> None:
        self.serial = serial
        self.procedure = procedure
        self.error = error


class ConnectionLost(Event):
    """The connection is over: end of file, bytes that are no protocol, or a peer that does not read or finish."""

    __slots__ = __match_args__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class KeepaliveTimeout(ConnectionLost):
    """The connection is over because the peer answered no ping in time."""

    __slots__ = ()
