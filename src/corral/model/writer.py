"""From a document to libvirt's XML: two spaces a level, single quotes, children in libvirt's order."""

from __future__ import annotations

import re
from typing import Any

from corral.errors import XMLError
from corral.model import inner
from corral.model.element import Element
from corral.model.shape import Shape, shape_of

_SPECIAL = re.compile("[&<>'\"\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write(document: Element, *, secure: bool = False) -> str:
    """The document as XML text that ends with a newline; XMLError for characters that XML cannot carry."""
    out: list[str] = []
    shape = shape_of(type(document))
    _write(out, document, shape, shape.tag, 0, secure)
    return "".join(out)


def _escaped(text: str) -> str:
    if _SPECIAL.search(text) is None:
        return text
    bad = _FORBIDDEN.search(text)
    if bad is not None:
        raise XMLError(f"character {bad[0]!a} cannot be written in XML")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("'", "&apos;").replace('"', "&quot;").replace("\r", "&#13;")


def _attribute(text: str) -> str:
    return _escaped(text).replace("\n", "&#10;").replace("\t", "&#9;")


def _write(out: list[str], document: Element, shape: Shape, tag: str, level: int, secure: bool) -> None:
    values = document.__dict__
    indent = "  " * level
    out.append(f"{indent}<{tag}")
    for name, scalar in shape.attributes.items():
        value = values[scalar.field]
        if value is not None and (secure or not scalar.secret):
            text = value if scalar.write is None else scalar.write(value)
            out.append(f" {name}='{_attribute(text)}'")
            if scalar.field == shape.unit_field:
                out.append(" unit='KiB'")
    if shape.text is not None and shape.text.field == shape.unit_field:
        out.append(" unit='KiB'")
    if shape.raw is not None:
        lines = inner.indented(values[shape.raw], level + 1)
        out.append(f">\n{lines}{indent}</{tag}>\n" if lines else "/>\n")
        return
    text_of = shape.text
    if text_of is not None and values[text_of.field] is not None:
        value = values[text_of.field]
        text = value if text_of.write is None else text_of.write(value)
        out.append(f">{_escaped(text)}</{tag}>\n")
        return
    mark = len(out)
    out.append(">\n")
    for child in shape.order:
        value = values[child.field]
        if value is None or value is False or (child.many and not value):
            continue
        for item in value if child.many else (value,):
            _write_child(out, item, child.kind, child.tag, child.scalar, level + 1, secure)
    if len(out) == mark + 1:
        out[mark] = "/>\n"
    else:
        out.append(f"{indent}</{tag}>\n")


def _write_child(out: list[str], value: Any, kind: str, tag: str, scalar: Any, level: int, secure: bool) -> None:
    if kind == "element":
        _write(out, value, shape_of(type(value)), tag, level, secure)
    elif kind == "flag":
        out.append(f"{'  ' * level}<{tag}/>\n")
    elif kind == "raw":
        lines = inner.indented(value, level + 1)
        indent = "  " * level
        out.append(f"{indent}<{tag}>\n{lines}{indent}</{tag}>\n" if lines else f"{indent}<{tag}/>\n")
    else:
        text = value if scalar.write is None else scalar.write(value)
        out.append(f"{'  ' * level}<{tag}>{_escaped(text)}</{tag}>\n")
