"""Sizes of memory with libvirt's units: read in any unit, kept and written in KiB.

Units: https://libvirt.org/formatdomain.html#memory-allocation (b, KB, k/KiB, MB, M/MiB … E/EiB; KiB when absent).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_xml import attr

from corral.errors import XMLError
from corral.model.element import Element, OnOff, Unsigned

_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
_LIMIT = 2**64


def unit_bytes(unit: str) -> int:
    """How many bytes one `unit` is: `KiB`, `k`, `KB`, `bytes` … (case does not matter, as in libvirt)."""
    name = unit.lower()
    if name in ("b", "byte", "bytes"):
        return 1
    power = _POWERS.get(name[:1])
    if power is not None:
        if name[1:] in ("", "ib"):
            return int(1024**power)
        if name[1:] == "b":
            return int(1000**power)
    raise XMLError(f"unknown suffix '{unit}'", hint="use bytes, KB, KiB, MB, MiB, GB, GiB, TB, TiB, PB, PiB, EB or EiB")


def scaled(number: int, unit: str) -> int:
    """`number` of `unit` in bytes; XMLError when it does not fit 64 bits."""
    size = number * unit_bytes(unit)
    if number < 0 or size >= _LIMIT:
        raise XMLError(f"size value '{number}' in '{unit}' is out of range")
    return size


_SIZE = re.compile(r"\s*(\d{1,20})\s*([A-Za-z]*)\s*")


def parse_size(text: str, default_unit: str = "KiB") -> int:
    """Bytes in `"512M"`, `"2 GiB"` or `"1048576"` (in `default_unit`)."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise XMLError(f"malformed size '{text}'", hint="write a number and a unit, such as 512MiB")
    return scaled(int(match[1]), match[2] or default_unit)


class Size(Element):
    """A size of memory in KiB; XML accepts any unit, rounded up to whole KiB, and is written with `unit='KiB'`.

    In JSON and Python `"512 MiB"` is accepted too.
    """

    kib: Annotated[int, Field(ge=0, lt=_LIMIT // 1024)]

    unit_field: ClassVar[str] = "kib"

    @classmethod
    def of(cls, text: str) -> Self:
        """The size that a person wrote: `Memory.of("512M")`; a bare number is KiB."""
        return cls(kib=-(-parse_size(text) // 1024))

    @property
    def bytes(self) -> int:
        return self.kib * 1024

    @property
    def mib(self) -> int:
        return self.kib // 1024

    @model_validator(mode="before")
    @classmethod
    def _accept_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return {"kib": -(-parse_size(value) // 1024)}
            except XMLError as error:
                raise ValueError(error.detail) from error
        return value


class Memory(Size, tag="memory"):
    """How much memory; `dump_core` whether it is part of the process's core dump."""

    dump_core: OnOff | None = attr(name="dumpCore", default=None)


class MaxMemory(Size, tag="maxMemory"):
    """The most memory that plugging can reach, and how many slots there are for it."""

    slots: Unsigned | None = attr(default=None)


class PageSize(Element, tag="page"):
    """A size of huge pages in KiB, and the guest's nodes that use them."""

    size_kib: Unsigned = attr(name="size")
    nodeset: str | None = attr(default=None)

    unit_field: ClassVar[str] = "size_kib"


class ScaledSize(Element):
    """A number with its unit, kept as written."""

    value: Unsigned
    unit: str | None = attr(default=None)

    @property
    def bytes(self) -> int:
        return scaled(self.value, self.unit or "bytes")


Lifecycle = Literal["destroy", "restart", "preserve", "rename-restart"]
CrashAction = Literal["destroy", "restart", "preserve", "rename-restart", "coredump-destroy", "coredump-restart"]
