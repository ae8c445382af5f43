"""Writes and compiles the Python source of XDR encoders and decoders (RFC 4506), one struct at a time.

Consecutive fields of fixed size are packed and unpacked by one `struct.Struct`. Every count is checked against its
declared limit and against the bytes that are left before anything is allocated. A padded end beyond the data is not
checked where it occurs: the next read fails, or the caller's comparison of the end with the length does.
"""

from __future__ import annotations

import keyword
import re
import struct
from functools import cache
from itertools import count
from struct import Struct

from corral.errors import RPCError
from corral.protocol.codec import Record
from corral.protocol.interface import interface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

SCALARS = {
    "int": ("i", 4),
    "uint": ("I", 4),
    "hyper": ("q", 8),
    "uhyper": ("Q", 8),
    "double": ("d", 8),
    "char": ("i", 4),
    "uchar": ("3xB", 4),
    "ushort": ("2xH", 4),
}
"""struct formats; small unsigned integers travel in four bytes of which, like libtirpc, we read the low ones."""


class Type:
    """A resolved type: `kind` is scalar, fixed (opaque[n]), string, opaque, chars, optional, list, struct or union."""

    __slots__ = ("base", "item", "kind", "limit", "minimum")

    def __init__(self, kind: str, base: str = "", limit: int = 0, item: Type | None = None, minimum: int = 4) -> None:
        self.kind = kind
        self.base = base
        self.limit = limit
        self.item = item
        self.minimum = minimum

    @property
    def inner(self) -> Type:
        assert self.item is not None
        return self.item


_NOTATION = re.compile(r"(\??)(\w+)(?:\[(\d+)\]|<(\d+)>)?")


@cache
def resolve(notation: str) -> Type:
    """The type that the data files' notation means."""
    match = _NOTATION.fullmatch(notation)
    assert match, notation
    optional, base, exact, at_most = match.groups()
    if optional:
        return Type("optional", item=resolve(notation[1:]))
    if base in ("string", "opaque", "char") and (exact or at_most):
        if not exact:
            return Type({"string": "string", "opaque": "opaque", "char": "chars"}[base], limit=int(at_most))
        size = int(exact)
        if base == "char":
            return Type("fixed_chars", limit=size, minimum=4 * size)
        return Type("fixed", limit=size, minimum=size + -size % 4)
    if at_most:
        return Type("list", item=resolve(base), limit=int(at_most))
    facts = interface()
    if base in SCALARS:
        return Type("scalar", SCALARS[base][0], minimum=SCALARS[base][1])
    if base in facts["enums"]:
        return Type("scalar", "i")
    if base in facts["typedefs"]:
        return resolve(facts["typedefs"][base])
    if base in facts["unions"]:
        return Type("union", base, minimum=8)
    return Type("struct", base, minimum=sum(resolve(kind).minimum for _, kind in fields(base)))


def fields(struct_name: str) -> list[tuple[str, str]]:
    """Names, fit for Python, and types of a struct's fields in wire order."""
    pairs = (field.split(":") for field in interface()["structs"][struct_name].split())
    return [(name + "_" if keyword.iskeyword(name) else name, kind) for name, kind in pairs]


def fail_limit(what: str, got: int, limit: int) -> NoReturn:
    """A count is over what the interface allows or the message holds."""
    raise RPCError(f"Unable to decode message payload: {what} has {got} elements, at most {limit} allowed")


def fail_value(what: str, problem: str) -> NoReturn:
    """A value that no sender may send."""
    raise RPCError(f"Unable to decode message payload: {what} {problem}")


def fail_encode(what: str, problem: str) -> NoReturn:
    """A value of ours that may not go out."""
    raise RPCError(f"Unable to encode message payload: {what} {problem}")


_namespace: dict[str, Any] = {
    "Record": Record,
    "fail_limit": fail_limit,
    "fail_value": fail_value,
    "fail_encode": fail_encode,
    "unpack_from": struct.unpack_from,
    "pack": struct.pack,
    "U": Struct(">I").unpack_from,
    "P": Struct(">I").pack,
    "PAD": (b"", b"\0\0\0", b"\0\0", b"\0"),
}
"""The globals of all generated code: the names above, struct methods, and the functions of compiled structs."""

_structs: dict[str, str] = {}


def _struct_method(layout: str, method: str) -> str:
    """The name, in the generated code's globals, of a method of `Struct('>' + layout)`."""
    if layout not in _structs:
        _structs[layout] = f"S{len(_structs)}"
        compiled = Struct(">" + layout)
        _namespace[_structs[layout] + "_pack"] = compiled.pack
        _namespace[_structs[layout] + "_unpack_from"] = compiled.unpack_from
    return f"{_structs[layout]}_{method}"


class _Source:
    """Lines of Python under construction."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: Iterator[int] = count()

    def add(self, depth: int, *lines: str) -> None:
        self.lines += ["    " * depth + line for line in lines]

    def name(self) -> str:
        return f"x{next(self.names)}"


class _Decoder(_Source):
    """Source of `decode_NAME(d, o) -> (value, o)`."""

    def value(self, depth: int, target: str, kind: Type, what: str) -> None:
        """Lines that read one value at `o` into `target` and move `o`."""
        getattr(self, "_" + kind.kind)(depth, target, kind, what)

    def fixed_run(self, depth: int, run: list[tuple[str, Type]]) -> None:
        """Lines that read neighbours of fixed size with one unpack."""
        layout = "".join(_layout(kind) for _, kind in run)
        targets = "".join(target + ", " for target, _ in run)
        self.add(
            depth, f"{targets}= {_struct_method(layout, 'unpack_from')}(d, o)", f"o += {Struct('>' + layout).size}"
        )

    def _scalar(self, depth: int, target: str, kind: Type, what: str) -> None:
        self.fixed_run(depth, [(target, kind)])

    _fixed = _scalar

    def _count(self, depth: int, kind: Type, what: str, size: int) -> None:
        self.add(depth, "n, = U(d, o)", "o += 4")
        self.add(depth, f"if n > {kind.limit}: fail_limit({what!r}, n, {kind.limit})")
        self.add(depth, f"if n{f' * {size}' if size > 1 else ''} > len(d) - o: fail_value({what!r}, 'is cut short')")

    def _string(self, depth: int, target: str, kind: Type, what: str) -> None:
        self._count(depth, kind, what, 1)
        self.add(depth, "b = d[o:o + n]", "o += n + (-n & 3)")
        self.add(depth, f"if 0 in b: fail_value({what!r}, 'has a zero byte')")
        self.add(depth, f"{target} = b.decode('utf-8', 'surrogateescape')")

    def _opaque(self, depth: int, target: str, kind: Type, what: str) -> None:
        self._count(depth, kind, what, 1)
        self.add(depth, f"{target} = d[o:o + n]", "o += n + (-n & 3)")

    def _chars(self, depth: int, target: str, kind: Type, what: str) -> None:
        self._count(depth, kind, what, 4)
        self.add(depth, f"{target} = d[o + 3:o + 4 * n:4].decode('utf-8', 'surrogateescape')", "o += 4 * n")

    def _fixed_chars(self, depth: int, target: str, kind: Type, what: str) -> None:
        size = kind.minimum
        self.add(depth, f"if {size} > len(d) - o: fail_value({what!r}, 'is cut short')")
        text = f"d[o + 3:o + {size}:4].rstrip(b'\\0').decode('utf-8', 'surrogateescape')"
        self.add(depth, f"{target} = {text}", f"o += {size}")

    def _optional(self, depth: int, target: str, kind: Type, what: str) -> None:
        # Any marker but zero means present: go-libvirt sends 01 00 00 00.
        self.add(depth, "n, = U(d, o)", "o += 4", "if n:")
        self.value(depth + 1, target, kind.inner, what)
        self.add(depth, "else:", f"    {target} = None")

    def _list(self, depth: int, target: str, kind: Type, what: str) -> None:
        self._count(depth, kind, what, kind.inner.minimum)
        if kind.inner.kind == "scalar":
            letter = kind.inner.base
            self.add(depth, f"{target} = list(unpack_from('>%d{letter}' % n, d, o))", f"o += n * {kind.inner.minimum}")
            return
        items, item = self.name(), self.name()
        self.add(depth, f"{items} = []", "for _ in range(n):")
        self.value(depth + 1, item, kind.inner, what)
        self.add(depth + 1, f"{items}.append({item})")
        self.add(depth, f"{target} = {items}")

    def _struct(self, depth: int, target: str, kind: Type, what: str) -> None:
        compile_struct(kind.base)
        self.add(depth, f"{target}, o = decode_{kind.base}(d, o)")

    def _union(self, depth: int, target: str, kind: Type, what: str) -> None:
        compile_union(kind.base)
        self.add(depth, f"{target}, o = decode_{kind.base}(d, o)")


class _Encoder(_Source):
    """Source of `encode_NAME(v, out)`, which hands each piece of bytes to `out`.

    Fields of fixed size and counts gather in `run` until something of variable size must go out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layout = ""
        self.run: list[str] = []

    def value(self, depth: int, source: str, kind: Type, what: str) -> None:
        """Lines that write the value of the expression `source`."""
        getattr(self, "_" + kind.kind)(depth, source, kind, what)

    def flush(self, depth: int) -> None:
        """Lines that write what has gathered."""
        if self.run:
            self.add(depth, f"out({_struct_method(self.layout, 'pack')}({', '.join(self.run)}))")
            self.layout, self.run = "", []

    def gather(self, layout: str, source: str) -> None:
        """Put one value of fixed size off until the next flush."""
        self.layout += layout
        self.run.append(source)

    def _scalar(self, depth: int, source: str, kind: Type, what: str) -> None:
        self.gather(_layout(kind), source)

    def _fixed(self, depth: int, source: str, kind: Type, what: str) -> None:
        name = self.name()
        self.add(depth, f"{name} = {source}")
        self.add(depth, f"if len({name}) != {kind.limit}: fail_encode({what!r}, 'is not {kind.limit} bytes')")
        self.gather(_layout(kind), name)

    def _bytes(self, depth: int, source: str, kind: Type, what: str) -> None:
        name, size = self.name(), self.name()
        self.add(depth, f"{name} = {source}", f"{size} = len({name})")
        self.add(depth, f"if {size} > {kind.limit}: fail_encode({what!r}, 'is over {kind.limit} bytes')")
        if kind.kind == "string":
            self.add(depth, f"if 0 in {name}: fail_encode({what!r}, 'has a zero byte')")
        self.gather("I", size)
        self.flush(depth)
        self.add(depth, f"out({name} + PAD[{size} & 3])")

    def _string(self, depth: int, source: str, kind: Type, what: str) -> None:
        self._bytes(depth, f"{source}.encode('utf-8', 'surrogateescape')", kind, what)

    _opaque = _bytes

    def _chars(self, depth: int, source: str, kind: Type, what: str) -> None:
        name, size = self.name(), self.name()
        self.add(depth, f"{name} = {source}.encode('utf-8', 'surrogateescape')", f"{size} = len({name})")
        self.add(depth, f"if {size} > {kind.limit}: fail_encode({what!r}, 'is over {kind.limit} bytes')")
        self.gather("I", size)
        self.flush(depth)
        self.add(depth, f"out(pack('>%di' % {size}, *memoryview({name}).cast('b')))")

    def _fixed_chars(self, depth: int, source: str, kind: Type, what: str) -> None:
        name = self.name()
        self.add(depth, f"{name} = {source}.encode('utf-8', 'surrogateescape')")
        self.add(depth, f"if len({name}) > {kind.limit}: fail_encode({what!r}, 'is over {kind.limit} bytes')")
        self.flush(depth)
        padded = f"memoryview({name}.ljust({kind.limit}, b'\\0')).cast('b')"
        self.add(depth, f"out(pack('>{kind.limit}i', *{padded}))")

    def _optional(self, depth: int, source: str, kind: Type, what: str) -> None:
        name = self.name()
        self.flush(depth)
        self.add(depth, f"{name} = {source}", f"if {name} is None:", "    out(b'\\0\\0\\0\\0')", "else:")
        self.gather("I", "1")
        self.value(depth + 1, name, kind.inner, what)
        self.flush(depth + 1)

    def _list(self, depth: int, source: str, kind: Type, what: str) -> None:
        name, size, item = self.name(), self.name(), self.name()
        self.add(depth, f"{name} = {source}", f"{size} = len({name})")
        self.add(depth, f"if {size} > {kind.limit}: fail_encode({what!r}, 'has over {kind.limit} elements')")
        self.gather("I", size)
        self.flush(depth)
        if kind.inner.kind == "scalar":
            self.add(depth, f"out(pack('>%d{kind.inner.base}' % {size}, *{name}))")
            return
        self.add(depth, f"for {item} in {name}:")
        self.value(depth + 1, item, kind.inner, what)
        self.flush(depth + 1)

    def _struct(self, depth: int, source: str, kind: Type, what: str) -> None:
        compile_struct(kind.base)
        self.flush(depth)
        self.add(depth, f"encode_{kind.base}({source}, out)")

    def _union(self, depth: int, source: str, kind: Type, what: str) -> None:
        compile_union(kind.base)
        self.flush(depth)
        self.add(depth, f"encode_{kind.base}({source}, out)")


def _layout(kind: Type) -> str:
    """The struct format of a type of fixed size."""
    if kind.kind == "fixed":
        padding = -kind.limit % 4
        return f"{kind.limit}s" + (f"{padding}x" if padding else "")
    return kind.base


def _is_fixed(kind: Type) -> bool:
    return kind.kind in ("scalar", "fixed")


def _record_source(name: str, members: list[tuple[str, Type]]) -> list[str]:
    """The record's class; optionals default to None."""
    params = [f"{field}=None" if kind.kind == "optional" else field for field, kind in members]
    lines = [f"class {name}(Record):", f"    __slots__ = ({''.join(repr(field) + ', ' for field, _ in members)})"]
    lines.append(f"    def __init__(self, *, {', '.join(params)}):")
    lines += [f"        self.{field} = {field}" for field, _ in members]
    return lines


def _decoder_source(name: str, members: list[tuple[str, Type]]) -> list[str]:
    source = _Decoder()
    source.add(0, f"def decode_{name}(d, o):")
    source.add(1, f"r = new_{name}({name})")
    pending: list[tuple[str, Type]] = []
    for field, kind in members:
        if _is_fixed(kind):
            pending.append((f"r.{field}", kind))
            continue
        if pending:
            source.fixed_run(1, pending)
            pending = []
        source.value(1, f"r.{field}", kind, f"{name}.{field}")
    if pending:
        source.fixed_run(1, pending)
    source.add(1, "return r, o")
    return source.lines


def _encoder_source(name: str, members: list[tuple[str, Type]]) -> list[str]:
    source = _Encoder()
    source.add(0, f"def encode_{name}(v, out):")
    source.add(1, f"if v.__class__ is dict: v = {name}(**v)")
    for field, kind in members:
        source.value(1, f"v.{field}", kind, f"{name}.{field}")
    source.flush(1)
    return source.lines


def _execute(lines: list[str], name: str) -> None:
    exec(compile("\n".join(lines), f"<xdr {name}>", "exec"), _namespace)


@cache
def compile_struct(
    name: str,
) -> tuple[type[Any], Callable[[Any, Callable[[bytes], None]], None], Callable[[bytes, int], tuple[Any, int]]]:
    """Record class, encoder and decoder of a struct, and first of all structs in it."""
    members = [(field, resolve(kind)) for field, kind in fields(name)]
    source = _record_source(name, members) + _decoder_source(name, members) + _encoder_source(name, members)
    _namespace[f"new_{name}"] = object.__new__
    _execute(source, name)
    record: type[Any] = _namespace[name]
    record.__module__ = "corral.protocol.codec"
    return record, _namespace[f"encode_{name}"], _namespace[f"decode_{name}"]


@cache
def compile_union(name: str) -> None:
    """Encoder and decoder of a union tagged with an int; its values are `(tag, value)`."""
    arms = [(int(tag), resolve(kind)) for tag, kind in interface()["unions"][name].items()]
    decoder, encoder = _Decoder(), _Encoder()
    decoder.add(0, f"def decode_{name}(d, o):")
    decoder.add(1, "t, = U(d, o)", "o += 4")
    encoder.add(0, f"def encode_{name}(v, out):")
    encoder.add(1, "t, x = v")
    for number, (tag, kind) in enumerate(arms):
        test = f"{'el' if number else ''}if t == {tag}:"
        decoder.add(1, test)
        decoder.value(2, "x", kind, name)
        encoder.add(1, test)
        encoder.gather("i", "t")
        encoder.value(2, "x", kind, name)
        encoder.flush(2)
    decoder.add(1, "else:", f"    fail_value({name!r}, 'has the unknown tag %d' % t)", "return (t, x), o")
    encoder.add(1, "else:", f"    fail_encode({name!r}, 'has the unknown tag %r' % (t,))")
    _execute(decoder.lines + encoder.lines, name)
