"""Every procedure and event message of the programs on a connection, as data.

A procedure is found by its short name (`domain_lookup_by_name`; other programs than REMOTE are a prefix:
`qemu.domain_monitor_command`, `corral.host_report`) or by its numbers on the wire.
"""

from __future__ import annotations

import struct
from _thread import allocate_lock

from corral.protocol.interface import PROGRAMS, interface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

__all__ = ["PROGRAMS", "Procedure", "all_procedures", "by_wire", "find", "procedure"]

_WIRE = struct.Struct(">IIi")


class Procedure:
    """One row of the table; there is exactly one object a procedure, so it compares and hashes by identity.

    `args`, `ret` and `msg` name structs of the interface or are None; an event has `msg` and neither of the others.
    `stream` says which way the data of its stream flows: `read` is daemon to client, `write` client to daemon
    (a console is `read` although both talk). `acl` has libvirt's permissions, such as `domain:write`.
    `wire` is program, version and number as they stand in a header; `special` is true of events and of what opens a
    stream, whose packets need more than handing on.
    """

    __slots__ = (
        "acl",
        "args",
        "msg",
        "name",
        "number",
        "priority",
        "program",
        "ret",
        "special",
        "stream",
        "version",
        "wire",
    )

    def __init__(
        self,
        program: int,
        version: int,
        number: int,
        name: str,
        args: str | None,
        ret: str | None,
        msg: str | None,
        acl: tuple[str, ...],
        stream: Literal["read", "write"] | None,
        priority: str,
    ) -> None:
        self.program = program
        self.version = version
        self.number = number
        self.name = name
        self.args = args
        self.ret = ret
        self.msg = msg
        self.acl = acl
        self.stream = stream
        self.priority = priority
        self.special = msg is not None or stream is not None
        self.wire = _WIRE.pack(program, version, number)

    def __repr__(self) -> str:
        return f"<Procedure {self.name} {self.number}>"


_by_name: dict[str, Procedure] = {}
by_wire: dict[bytes, Procedure] = {}
"""Procedures by `Procedure.wire`; empty until `load()` ran."""
_filling = allocate_lock()


def load() -> dict[bytes, Procedure]:
    """Fill the tables once and return `by_wire`."""
    with _filling:  # event loops in two threads must end up with the same objects
        if not by_wire:
            rows = {}
            for program, number, name, args, ret, msg, acl, stream, priority in interface()["procedures"]:
                full_name = name if program == "REMOTE" else f"{program.lower()}.{name}"
                numbers = PROGRAMS[program]
                row = Procedure(*numbers, number, full_name, args, ret, msg, tuple(acl.split()), stream, priority)
                _by_name[full_name] = row
                rows[row.wire] = row
            by_wire.update(rows)
    return by_wire


def procedure(name: str) -> Procedure:
    """The procedure of that short name; KeyError if there is none."""
    try:
        return _by_name[name]
    except KeyError:
        load()
        return _by_name[name]


def find(program: int, number: int, version: int = 1) -> Procedure | None:
    """The procedure with those numbers, or None."""
    return load().get(_WIRE.pack(program, version, number))


def all_procedures() -> Iterable[Procedure]:
    """Every procedure and event, in the order of the data files."""
    load()
    return _by_name.values()
