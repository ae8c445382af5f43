"""The streams of one connection: which there are and in what state; the rules are the tables in `state.py`."""

from __future__ import annotations

from corral.errors import RPCError
from corral.protocol.codec import codec
from corral.protocol.state import GONE, RECEIVED, SENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from corral.protocol.procedures import Procedure
    from corral.protocol.state import Step


class Streams:
    """Streams by the serial of the call that opened them, at most `limit`."""

    def __init__(self, role: Literal["server", "client"], limit: int) -> None:
        self._received = RECEIVED[role]
        self._sent = SENT[role]
        self._limit = limit
        self._states: dict[int, tuple[Procedure, str]] = {}

    def __contains__(self, serial: int) -> bool:
        return serial in self._states

    def __len__(self) -> int:
        return len(self._states)

    def begin(self, serial: int, procedure: Procedure) -> str | None:
        """Remember a stream whose call is on its way; why that cannot be, or None."""
        if serial in self._states:
            return f"serial {serial} already has a stream"
        if len(self._states) >= self._limit and not self._forget_ended():
            return f"too many streams on one connection, at most {self._limit}"
        self._states[serial] = (procedure, "OPENING")
        return None

    def _forget_ended(self) -> bool:
        """Drop the oldest stream whose data is all out: go-libvirt never confirms the end of a download."""
        for serial, (_, state) in self._states.items():
            if state == "LOCAL_EOF":
                del self._states[serial]
                return True
        return False

    def belongs(self, serial: int, procedure: Procedure) -> bool:
        """Whether packets with this serial and procedure are of a stream that we know."""
        stream = self._states.get(serial)
        return stream is not None and stream[0] is procedure

    def takes_data(self, serial: int) -> bool:
        """Whether we may still send data."""
        stream = self._states.get(serial)
        return stream is not None and "data" in self._sent[stream[1]]

    def received(self, serial: int, what: str) -> Step | None:
        """Move on because something arrived; None when it is to be dropped."""
        return self._step(self._received, serial, what)

    def sent(self, serial: int, what: str) -> Step | None:
        """Move on because our side wants something; None when it may not."""
        return self._step(self._sent, serial, what)

    def _step(self, table: dict[str, dict[str, Step]], serial: int, what: str) -> Step | None:
        stream = self._states.get(serial)
        if stream is None:
            return None
        procedure, state = stream
        step = table[state].get(what)
        if step is not None:
            if step.state is GONE:
                del self._states[serial]
            elif step.state != state:
                self._states[serial] = (procedure, step.state)
        return step

    def clear(self) -> None:
        """Forget all."""
        self._states.clear()


def encode_hole(length: int) -> bytes:
    """The payload of a hole of `length` bytes."""
    return codec("virNetStreamHole").encode({"length": length, "flags": 0})


def decode_hole(body: bytes) -> int | None:
    """The length of a hole, or None when the payload is not one."""
    try:
        hole = codec("virNetStreamHole").decode(body)
    except RPCError:
        return None
    return int(hole.length) if hole.length >= 0 and hole.flags == 0 else None
