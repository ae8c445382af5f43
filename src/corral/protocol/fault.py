"""Errors on the wire: `remote_error`, the payload of a packet with status ERROR.

Libvirt fills `str1` with the message's template and `str2` with its detail; int1 and int2 are -1 when they mean
nothing. https://libvirt.org/html/libvirt-virterror.html#virError
"""

from __future__ import annotations

from corral.constants import ErrorLevel
from corral.errors import CorralError, RPCError, from_wire
from corral.protocol.codec import codec

TEXT_MAX = 65_536
"""Characters of an error's text that go out; nobody reads more, and a message must stay small."""


def encode_error(error: CorralError) -> bytes:
    """The payload that carries `error`."""
    text = str(error)[:TEXT_MAX].replace("\0", "\\0")
    detail = error.detail[:TEXT_MAX].replace("\0", "\\0")
    return codec("remote_error").encode(
        {
            "code": error.code,
            "domain": error.domain,
            "message": text,
            "level": ErrorLevel.ERROR,
            "dom": None,
            "str1": f"{error.kind}: %1$s" if error.kind and detail else "%s",
            "str2": detail or None,
            "str3": None,
            "int1": -1,
            "int2": -1,
            "net": None,
        }
    )


def decode_error(body: bytes) -> CorralError:
    """The error that a payload carries; an RPCError saying so when it cannot be read."""
    try:
        wire = codec("remote_error").decode(body)
    except RPCError as error:
        return error
    return from_wire(wire.code, wire.domain, wire.message or "an error without a message")
