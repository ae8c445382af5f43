"""The base of every document class: an XML element declared with pydantic-xml, with three notations.

Fields are declared with pydantic-xml's `attr()` and `element()`; a field with neither is the element's text. Reading
and writing is done by `reader` and `writer`, from the same declarations, because libvirt's documents need what
pydantic-xml does not do: errors that name path and line, presence elements such as `<acpi/>`, inner XML kept as it is,
and a document in well under three milliseconds. Validators are built on first use, which keeps importing cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field
from pydantic_xml import BaseXmlModel, attr

YesNo = Literal["yes", "no"]
OnOff = Literal["on", "off"]

Unsigned = Annotated[int, Field(ge=0, le=2**64 - 1)]
"""A count or size that is never negative; XML may write it in decimal only."""


@dataclass(frozen=True, slots=True)
class Hex:
    """Marks an integer that XML writes as `0x` and at least `digits` digits, and reads in decimal or hexadecimal.

    With `wild` it may also read -1.
    """

    digits: int = 1
    upper: bool = False
    wild: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """Marks a password: written only by `to_xml(secure=True)`."""


@dataclass(frozen=True, slots=True)
class NotAbsent:
    """Marks text that is said to be empty by an empty element, which elsewhere counts as absent, as in libvirt."""


@dataclass(frozen=True, slots=True)
class RawXML:
    """Marks text that is the element's inner XML, kept as it is."""


class Element(BaseXmlModel, search_mode="unordered"):
    """One XML element; unknown content is an error, absent content is None, an empty list or False."""

    model_config = ConfigDict(extra="forbid", defer_build=True, hide_input_in_errors=True, allow_inf_nan=False)

    @classmethod
    def from_xml(cls, text: str | bytes) -> Self:  # type: ignore[override]
        """Read a document; XMLError or ConfigUnsupported names the path and the line."""
        from corral.model import reader

        return reader.read(cls, text)

    def to_xml(self, *, secure: bool = False) -> str:  # type: ignore[override]
        """The document with libvirt's order and indentation; passwords are hidden unless `secure`."""
        from corral.model import writer

        return writer.write(self, secure=secure)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON notation; XMLError names the field."""
        from corral.model import plain

        return plain.read_json(cls, text)

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Read the JSON notation that is already parsed (from YAML, say)."""
        from corral.model import plain

        return plain.read_data(cls, data)

    def to_json(self, *, secure: bool = False, indent: int | None = 2) -> str:
        """The JSON notation: field names as in Python, what is absent left out."""
        from corral.model import plain

        return plain.write_json(self, secure=secure, indent=indent)

    def to_data(self, *, secure: bool = False) -> dict[str, Any]:
        """The JSON notation as plain dicts, lists, strings, numbers and booleans."""
        from corral.model import plain

        return plain.write_data(self, secure=secure)

    def copy(self) -> Self:  # type: ignore[override]
        """A deep copy that shares nothing that can change."""
        from corral.model import plain

        return plain.copied(self)


class State(Element):
    """An element that only says `state='on'` or `state='off'`."""

    state: OnOff | None = attr(default=None)
