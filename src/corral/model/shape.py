"""The shape of a document class: which attributes and children it has in XML, derived from its pydantic-xml fields.

Reader, writer and error messages all work from shapes; each is derived once, on first use.
"""

from __future__ import annotations

import re
import types
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_xml.fields import XmlEntityInfo
from pydantic_xml.typedefs import EntityLocation

from corral.model.element import Element, Hex, NotAbsent, RawXML, Secret

_DECIMAL = re.compile(r"\s*([+-]?[0-9]{1,20})\s*")
_NUMBER = re.compile(r"\s*(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\s*")


def _read_decimal(text: str) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a number")
    return int(match[1])


def _read_number(text: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a number")
    return int(match[1], 16 if match[1][:2].lower() == "0x" else 10)


def _read_wild(text: str) -> int:
    return -1 if text.strip() == "-1" else _read_number(text)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that is one string in XML; `read` raises ValueError. An empty element is absent, unless `empty`."""

    field: str
    name: str
    secret: bool
    read: Callable[[str], Any] | None
    write: Callable[[Any], str] | None
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Child:
    """A child element: a `flag` that is there or not, a `scalar`, `raw` inner XML, or an `element` of its own class.

    `classes` maps the discriminator's value to the class; a plain child has the one key None.
    """

    field: str
    tag: str
    kind: Literal["flag", "scalar", "raw", "element"]
    many: bool
    scalar: Scalar | None
    classes: dict[str | None, type[Element]]
    discriminator: str | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What one class is in XML; `order` is the order in which children are written."""

    tag: str
    attributes: dict[str, Scalar]
    children: dict[str, Child]
    order: tuple[Child, ...]
    text: Scalar | None
    raw: str | None
    unit_field: str | None
    fields: dict[str, Scalar | Child]


_RANKS = {"boot": 1, "alias": 2, "rom": 3, "acpi": 4, "address": 5}
"""What libvirt writes after a device's own elements."""

_shapes: dict[type[Element], Shape] = {}


def shape_of(cls: type[Element]) -> Shape:
    """The shape of `cls`."""
    shape = _shapes.get(cls)
    if shape is None:
        shape = _shapes[cls] = _derive(cls)
    return shape


def _derive(cls: type[Element]) -> Shape:
    from corral.model.devices.device import Device, VirtioOptions

    attributes: dict[str, Scalar] = {}
    children: dict[str, Child] = {}
    fields: dict[str, Scalar | Child] = {}
    text: Scalar | None = None
    raw: str | None = None
    for field, info in cls.model_fields.items():
        entity = next((m for m in info.metadata if isinstance(m, XmlEntityInfo)), None)
        kind, many, leaf, marks, discriminator = _unwrap(info)
        if entity is None:
            fields[field] = text = _scalar(field, "", leaf, marks)
            if any(isinstance(mark, RawXML) for mark in marks):
                raw = field
        elif entity.location is EntityLocation.ATTRIBUTE:
            name = entity.path or field
            fields[field] = attributes[name] = _scalar(field, name, leaf, marks)
        else:
            tag = entity.path or field
            fields[field] = children[tag] = _child(field, tag, kind, many, leaf, marks, discriminator)
    order = tuple(children.values())
    if issubclass(cls, Device):
        order = tuple(sorted(order, key=lambda child: _RANKS.get(child.field, len(_RANKS) * (child.field in cls.last))))
    if issubclass(cls, VirtioOptions):
        own = {name: scalar for name, scalar in attributes.items() if scalar.field not in VirtioOptions.model_fields}
        attributes = {**own, **attributes}
    unit_field: str | None = getattr(cls, "unit_field", None)
    tag = cls.__xml_tag__ or cls.__name__.lower()
    return Shape(tag, attributes, children, order, None if raw else text, raw, unit_field, fields)


def _unwrap(info: FieldInfo) -> tuple[str, bool, list[Any], list[Any], str | None]:
    """The kind, whether it is a list, the types it may have, their marks and the discriminator of a field."""
    marks = list(info.metadata)
    discriminator = info.discriminator if isinstance(info.discriminator, str) else None
    many = False
    leaf: list[Any] = []

    def visit(annotation: Any) -> None:
        nonlocal many, discriminator
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *extra = get_args(annotation)
            for mark in extra:
                if isinstance(mark, FieldInfo):
                    marks.extend(mark.metadata)
                    if isinstance(mark.discriminator, str):
                        discriminator = mark.discriminator
                else:
                    marks.append(mark)
            visit(inner)
        elif origin in (Union, types.UnionType):
            for argument in get_args(annotation):
                visit(argument)
        elif origin is list:
            many = True
            visit(get_args(annotation)[0])
        elif origin is Literal:
            leaf.append(str)
        elif annotation is not type(None):
            leaf.append(annotation)

    visit(info.annotation)
    if any(isinstance(mark, RawXML) for mark in marks):
        kind = "raw"
    elif isinstance(leaf[0], type) and issubclass(leaf[0], Element):
        kind = "element"
    else:
        kind = "flag" if leaf[0] is bool else "scalar"
    return kind, many, leaf, marks, discriminator


def _scalar(field: str, name: str, leaf: list[Any], marks: list[Any]) -> Scalar:
    secret = any(isinstance(mark, Secret) for mark in marks)
    mark = next((mark for mark in marks if isinstance(mark, Hex)), None)
    if mark is not None:
        pattern = f"0x%0{mark.digits}{'X' if mark.upper else 'x'}"
        read = _read_wild if mark.wild else _read_number
        return Scalar(field, name, secret, read, lambda value: pattern % value)
    if leaf[0] is int:
        return Scalar(field, name, secret, _read_decimal, str)
    if leaf[0] is str:
        return Scalar(field, name, secret, None, None, any(isinstance(mark, NotAbsent) for mark in marks))
    if leaf[0] is uuid.UUID:
        return Scalar(field, name, secret, _read_uuid, str)
    raise TypeError(f"field {field}: no XML notation for {leaf[0]}")


def _read_uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        raise ValueError(f"malformed uuid '{text}'") from None


def _child(
    field: str, tag: str, kind: str, many: bool, leaf: list[Any], marks: list[Any], discriminator: str | None
) -> Child:
    if kind == "element":
        classes: dict[str | None, type[Element]] = {None: leaf[0]}
        if discriminator is not None:
            for cls in leaf:
                for value in get_args(cls.model_fields[discriminator].annotation):
                    classes[value] = cls
        return Child(field, tag, "element", many, None, classes, discriminator)
    if kind == "flag":
        return Child(field, tag, "flag", many, None, {}, None)
    scalar = _scalar(field, "", leaf, marks)
    return Child(field, tag, "raw" if kind == "raw" else "scalar", many, scalar, {}, None)
