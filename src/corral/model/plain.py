"""The JSON notation: plain dicts, lists and scalars under the names of the Python fields; and deep copies."""

from __future__ import annotations

import json
import uuid
from typing import Any, TypeVar

from pydantic import ValidationError

from corral.errors import XMLError
from corral.model.element import Element
from corral.model.reader import MAX_BYTES, MAX_DEPTH
from corral.model.shape import shape_of

ElementT = TypeVar("ElementT", bound=Element)


def read_json(cls: type[ElementT], text: str | bytes) -> ElementT:
    """The document in JSON `text`; XMLError for bad syntax, unknown names and bad values."""
    if len(text) > MAX_BYTES:
        raise XMLError(f"document of {len(text)} bytes is larger than {MAX_BYTES}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise XMLError(f"JSON: {error}") from error
    return read_data(cls, data)


def read_data(cls: type[ElementT], data: object) -> ElementT:
    """The document in parsed JSON or YAML; XMLError names the field."""
    _bound(data, 1)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise _complaint(error) from error


#: What each of pydantic's kinds of error means to somebody who wrote a document.
_WORDS = {
    "extra_forbidden": "unknown field",
    "missing": "this field is missing",
    "string_type": "this should be text",
    "int_type": "this should be a whole number",
    "int_parsing": "this should be a whole number",
    "int_from_float": "this should be a whole number",
    "float_type": "this should be a number",
    "float_parsing": "this should be a number",
    "bool_type": "this should be true or false",
    "bool_parsing": "this should be true or false",
    "list_type": "this should be a list",
    "model_type": "this should be a mapping of fields",
    "model_attributes_type": "this should be a mapping of fields",
    "dict_type": "this should be a mapping of fields",
}


def _complaint(error: ValidationError) -> XMLError:
    details = error.errors(include_url=False)[0]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in details["loc"])
    said = details["msg"].removeprefix("Value error, ").replace("Input should be", "this should be")
    words = _WORDS.get(details["type"], said)
    return XMLError(f"{words} ({path.lstrip('.') or 'the whole document'})")


def _bound(data: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise XMLError(f"fields are nested deeper than {MAX_DEPTH}")
    if isinstance(data, dict):
        for value in data.values():
            _bound(value, depth + 1)
    elif isinstance(data, list):
        for value in data:
            _bound(value, depth + 1)


def write_data(document: Element, *, secure: bool = False) -> dict[str, Any]:
    """What is present, as plain data; passwords only if `secure`."""
    data: dict[str, Any] = {}
    fields = shape_of(type(document)).fields
    for name, value in document.__dict__.items():
        if value is None or value is False or (isinstance(value, list) and not value):
            continue
        if getattr(fields[name], "secret", False) and not secure:
            continue
        data[name] = _plain(value, secure)
    return data


def _plain(value: Any, secure: bool) -> Any:
    if isinstance(value, Element):
        return write_data(value, secure=secure)
    if isinstance(value, list):
        return [_plain(item, secure) for item in value]
    if isinstance(value, uuid.UUID):
        return str(value)
    return value


def write_json(document: Element, *, secure: bool = False, indent: int | None = 2) -> str:
    return json.dumps(write_data(document, secure=secure), indent=indent, ensure_ascii=False)


def copied(document: ElementT) -> ElementT:
    """A deep copy without validating again: scalars are shared, elements and lists are not."""
    twin = document.__class__.__new__(document.__class__)
    values = document.__dict__.copy()
    for name, value in document.__dict__.items():
        if value is None:
            continue
        if isinstance(value, Element):
            values[name] = copied(value)
        elif isinstance(value, list):
            values[name] = [copied(item) if isinstance(item, Element) else item for item in value]
    object.__setattr__(twin, "__dict__", values)
    object.__setattr__(twin, "__pydantic_fields_set__", set(document.__pydantic_fields_set__))
    object.__setattr__(twin, "__pydantic_extra__", None)
    object.__setattr__(twin, "__pydantic_private__", None)
    return twin
