"""XDR codecs for every struct of the interface, compiled on first use.

A struct becomes a class with `__slots__` (its record) and two generated functions; `compiler.py` writes their source.
Values: ints, floats; `str` for strings and char arrays (UTF-8, other bytes as surrogate escapes); `bytes` for opaque;
lists; None for an absent optional; `(tag, value)` for a union. A field whose name is a Python keyword gets a `_`
appended (`from_`). Encoding takes records and, at any depth, plain dicts of the same fields. XDR: RFC 4506.
"""

from __future__ import annotations

import struct
from functools import cache

from corral.errors import RPCError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Record:
    """Base of the generated classes: keyword-only constructor, optionals default to None, equality by value."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in self.__slots__)})"


class Codec:
    """Encoder and decoder of one struct; `record` is the class of its values."""

    __slots__ = ("_decode", "_encode", "name", "record")

    def __init__(
        self,
        name: str,
        record: type[Any],
        encode: Callable[[Any, Callable[[bytes], None]], None],
        decode: Callable[[bytes, int], tuple[Any, int]],
    ) -> None:
        self.name = name
        self.record = record
        self._encode = encode
        self._decode = decode

    def encode(self, value: Any) -> bytes:
        """The bytes of a record or a dict; RPCError when a field is missing, out of range or over its limit."""
        chunks: list[bytes] = []
        try:
            self._encode(value, chunks.append)
        except (struct.error, AttributeError, TypeError, ValueError) as error:
            raise RPCError(f"Unable to encode message payload: {self.name}: {error}") from error
        return b"".join(chunks)

    def decode(self, data: bytes, offset: int = 0) -> Any:
        """The record that `data` holds from `offset` to its very end; RPCError when it is anything else."""
        if data.__class__ is not bytes:
            data = bytes(data)
        try:
            value, end = self._decode(data, offset)
        except struct.error as error:
            raise RPCError(f"Unable to decode message payload: {self.name} is cut short") from error
        if end != len(data):
            what = "is cut short" if end > len(data) else f"has {len(data) - end} bytes too many"
            raise RPCError(f"Unable to decode message payload: {self.name} {what}")
        return value

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"


@cache
def codec(struct_name: str) -> Codec:
    """The codec of a struct of the interface; KeyError if there is no such struct."""
    from corral.protocol import compiler

    return Codec(struct_name, *compiler.compile_struct(struct_name))


def record(struct_name: str) -> type[Any]:
    """The class of a struct's decoded values."""
    return codec(struct_name).record
