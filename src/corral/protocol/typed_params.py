"""Typed parameters: libvirt's name-type-value triples, between Python and the wire.

On the wire each is a `remote_typed_param` whose value is a union tagged with a virTypedParameterType. Booleans travel
as ints. https://libvirt.org/html/libvirt-libvirt-common.html#virTypedParameter
"""

from __future__ import annotations

from corral.constants import TypedParameterType
from corral.errors import RPCError
from corral.protocol.codec import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Value = int | float | bool | str


class TypedParam:
    """One parameter: `name`, `type` (a TypedParameterType) and `value` (int, float, bool or str by type)."""

    __slots__ = ("name", "type", "value")

    def __init__(self, name: str, type: int, value: Value) -> None:
        self.name = name
        self.type = type
        self.value = value

    @classmethod
    def int_(cls, name: str, value: int) -> TypedParam:
        return cls(name, TypedParameterType.INT, value)

    @classmethod
    def uint(cls, name: str, value: int) -> TypedParam:
        return cls(name, TypedParameterType.UINT, value)

    @classmethod
    def llong(cls, name: str, value: int) -> TypedParam:
        return cls(name, TypedParameterType.LLONG, value)

    @classmethod
    def ullong(cls, name: str, value: int) -> TypedParam:
        return cls(name, TypedParameterType.ULLONG, value)

    @classmethod
    def double(cls, name: str, value: float) -> TypedParam:
        return cls(name, TypedParameterType.DOUBLE, value)

    @classmethod
    def boolean(cls, name: str, value: bool) -> TypedParam:
        return cls(name, TypedParameterType.BOOLEAN, value)

    @classmethod
    def string(cls, name: str, value: str) -> TypedParam:
        return cls(name, TypedParameterType.STRING, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TypedParam):
            return NotImplemented
        return (self.name, self.type, self.value) == (other.name, other.type, other.value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TypedParam({self.name!r}, {self.type}, {self.value!r})"


def pack(params: Iterable[TypedParam]) -> list[Any]:
    """Records of `remote_typed_param`, ready to be encoded."""
    make = record("remote_typed_param")
    return [make(field=p.name, value=(p.type, p.value)) for p in params]


def unpack(records: Iterable[Any]) -> dict[str, Value]:
    """Name → value, booleans as bool; RPCError when a name comes twice."""
    values: dict[str, Value] = {}
    for item in records:
        tag, value = item.value
        if item.field in values:
            raise RPCError(f"typed parameter {item.field!r} comes twice")
        values[item.field] = bool(value) if tag == TypedParameterType.BOOLEAN else value
    return values


def unpack_list(records: Iterable[Any]) -> list[TypedParam]:
    """The same with types and order kept, for parameters that may come several times."""
    return [
        TypedParam(
            item.field,
            item.value[0],
            bool(item.value[1]) if item.value[0] == TypedParameterType.BOOLEAN else item.value[1],
        )
        for item in records
    ]
