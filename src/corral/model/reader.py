"""From libvirt's XML to a document: strict, bounded, and with errors that name path and line.

The tree becomes one nested dict by the shapes, and pydantic checks that in one go. An element or attribute that
neither we nor libvirt know is an XMLError; one that libvirt's schema knows and we do not is ConfigUnsupported.
"""

from __future__ import annotations

from typing import Any, TypeVar

from lxml import etree
from pydantic import ValidationError

from corral.errors import ConfigUnsupported, CorralError, NameMissing, XMLError, XMLSyntaxError
from corral.model import inner
from corral.model.element import Element
from corral.model.shape import Child, Scalar, Shape, shape_of
from corral.model.units import scaled

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 128
MAX_ATTRIBUTES = 128
SHOWN_LINE = 200  # characters of a line that an error shows

ElementT = TypeVar("ElementT", bound=Element)
Loc = tuple[str | int, ...]


def read(cls: type[ElementT], text: str | bytes) -> ElementT:
    """The document in `text`, whose root must be the tag of `cls`.

    XMLError (syntax, DTD, size, unknown or repeated content, bad values) or ConfigUnsupported (known to libvirt only).
    """
    root = parse(text)
    shape = shape_of(cls)
    if root.tag != shape.tag:
        raise XMLError(f"unexpected root element <{_local(root)}>, expecting <{shape.tag}>")
    data = _read(root, shape, 1)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise _located(error, root, shape) from error


def parse(text: str | bytes) -> etree._Element:
    """The root of well-formed XML in UTF-8 without a document type, of bounded size and depth."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    if len(data) > MAX_BYTES:
        raise XMLError(f"document of {len(data)} bytes is larger than {MAX_BYTES}")
    # Before the parser sees it: entities expand inside attribute values whatever the parser's options are. The
    # encoding is forced below, so nothing can hide the marker.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise XMLError("document types and entities are not accepted")
    parser = etree.XMLParser(encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise _syntax(error, data) from error
    if root is None:
        raise XMLSyntaxError("at line 1: Document is empty")
    return root


def _syntax(error: etree.XMLSyntaxError, data: bytes) -> XMLSyntaxError:
    """The parser's words with the line that they are about, as libvirt shows it."""
    line, column = error.position
    message = error.msg.rsplit(", line ", 1)[0] if error.msg else "Document is empty"
    lines = data.decode("utf-8", "replace").splitlines()
    shown = lines[line - 1] if 0 < line <= len(lines) else ""
    if not shown.strip() or len(shown) > SHOWN_LINE:
        return XMLSyntaxError(f"at line {line}: {message}")
    return XMLSyntaxError(f"at line {line}: {message}\n{shown}\n{'-' * max(0, column - 1)}^")


def _read(element: etree._Element, shape: Shape, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise _error(element, None, f"elements are nested deeper than {MAX_DEPTH}")
    data: dict[str, Any] = {}
    unit: str | None = None
    attributes = shape.attributes
    # Counting is linear, fetching all of them is not.
    if len(element.attrib) > MAX_ATTRIBUTES:
        raise _error(element, None, f"element <{_local(element)}> has more than {MAX_ATTRIBUTES} attributes")
    for name, value in element.items():
        scalar = attributes.get(str(name))
        if scalar is None:
            if name == "unit" and shape.unit_field is not None:
                unit = str(value)
                continue
            raise _unknown_attribute(element, str(name))
        data[scalar.field] = str(value) if scalar.read is None else _converted(element, scalar, str(value))
    if shape.raw is not None:
        data[shape.raw] = inner.content(element)
        return data
    text = element.text or ""
    children = shape.children
    for node in element:
        tag = node.tag
        text += node.tail or ""
        if not isinstance(tag, str):
            continue  # a comment or processing instruction
        child = children.get(tag)
        if child is None:
            raise _unknown_element(element, node)
        _read_child(node, child, data, depth)
    if shape.text is not None:
        if text.strip():
            data[shape.text.field] = text if shape.text.read is None else _converted(element, shape.text, text)
    elif text.strip():
        raise _error(element, None, f"element <{_local(element)}> contains the unexpected text '{_short(text)}'")
    if shape.unit_field is not None:
        _scale(element, data, shape.unit_field, unit)
    return data


def _read_child(node: etree._Element, child: Child, data: dict[str, Any], depth: int) -> None:
    value: Any
    if child.kind == "element":
        cls = child.classes[None]
        if child.discriminator is not None:
            cls = child.classes.get(str(node.get(child.discriminator)), cls)
            if str(node.get(child.discriminator)) not in child.classes:
                raise _bad_discriminator(node, child)
        value = _read(node, shape_of(cls), depth + 1)
    elif child.kind == "flag":
        _refuse_content(node)
        value = True
    elif child.kind == "raw":
        value = inner.content(node)
    else:
        value = _read_text(node, child.scalar)
    if child.many:
        data.setdefault(child.field, []).append(value)
    elif child.field in data:
        raise _error(node, None, f"element <{child.tag}> may occur only once")
    elif value is not None:
        data[child.field] = value


def _read_text(node: etree._Element, scalar: Scalar | None) -> Any:
    """The text of an element that has nothing else; empty text is absent, as in libvirt, but for an `empty` scalar."""
    text = node.text or ""
    for name in node.attrib:  # the first
        raise _unknown_attribute(node, str(name))
    for part in node:
        if isinstance(part.tag, str):
            raise _unknown_element(node, part)
        text += part.tail or ""
    if not text and not (scalar is not None and scalar.empty):
        return None
    if scalar is None or scalar.read is None:
        return text
    return _converted(node, scalar, text)


def _refuse_content(node: etree._Element) -> None:
    for name in node.attrib:  # the first
        raise _unknown_attribute(node, str(name))
    for part in node:
        if isinstance(part.tag, str):
            raise _unknown_element(node, part)
    if (node.text or "").strip():
        raise _error(node, None, f"element <{_local(node)}> contains the unexpected text '{_short(node.text or '')}'")


def _converted(element: etree._Element, scalar: Scalar, text: str) -> Any:
    assert scalar.read is not None
    try:
        return scalar.read(text)
    except ValueError as error:
        raise _error(element, scalar.name or None, _short(str(error))) from error


def _scale(element: etree._Element, data: dict[str, Any], field: str, unit: str | None) -> None:
    number = data.get(field)
    if number is None:
        return
    try:
        data[field] = -(-scaled(number, unit or "KiB") // 1024)
    except XMLError as error:
        raise _error(element, None, str(error.detail), hint=error.hint) from error


# Errors


def _local(element: etree._Element) -> str:
    tag = str(element.tag)
    if tag.startswith("{") and element.prefix:
        return f"{element.prefix}:{tag.rpartition('}')[2]}"
    return tag


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 80 else text[:77] + "..."


def xml_path(element: etree._Element) -> str:
    """`/domain/devices/disk[2]/target`: positions only where there are several."""
    steps: list[str] = []
    node: etree._Element | None = element
    while node is not None:
        parent = node.getparent()
        step = _local(node)
        if parent is not None:
            same = [sibling for sibling in parent if sibling.tag == node.tag]
            if len(same) > 1:
                step += f"[{same.index(node) + 1}]"
        steps.append(step)
        node = parent
    return "/" + "/".join(reversed(steps))


def place(element: etree._Element, attribute: str | None) -> str:
    path = xml_path(element) + (f"/@{attribute}" if attribute else "")
    return f"{path}, line {element.sourceline}"


def _error(
    element: etree._Element,
    attribute: str | None,
    message: str,
    cls: type[CorralError] = XMLError,
    hint: str | None = None,
) -> CorralError:
    return cls(f"{message} ({place(element, attribute)})", hint=hint)


def _context(element: etree._Element) -> tuple[str, str]:
    parent = element.getparent()
    return ("" if parent is None else str(parent.tag), str(element.tag))


def _unknown_element(parent: etree._Element, node: etree._Element) -> CorralError:
    from corral.model import names

    if str(node.tag) in names.children(*_context(parent)):
        return _error(node, None, f"element <{_local(node)}> is not supported", ConfigUnsupported)
    return _error(node, None, f"unknown element <{_local(node)}>")


def _unknown_attribute(element: etree._Element, name: str) -> CorralError:
    from corral.model import names

    if name in names.attributes(*_context(element)):
        message = f"attribute '{name}' of element <{_local(element)}> is not supported"
        return _error(element, name, message, ConfigUnsupported)
    return _error(element, name, f"unknown attribute '{name}' in element <{_local(element)}>")


def _bad_value(element: etree._Element, attribute: str | None, value: str, allowed: str) -> CorralError:
    from corral.model import names

    what = f"attribute '{attribute}' of element <{_local(element)}>" if attribute else f"element <{_local(element)}>"
    if attribute and value in names.values(*_context(element), attribute):
        return _error(element, attribute, f"value '{value}' for {what} is not supported", ConfigUnsupported)
    return _error(element, attribute, f"invalid value '{_short(value)}' for {what}: expected {allowed}")


def _bad_discriminator(node: etree._Element, child: Child) -> CorralError:
    assert child.discriminator is not None
    value = node.get(child.discriminator)
    if value is None:
        return _error(node, None, f"attribute '{child.discriminator}' of element <{child.tag}> is missing")
    allowed = " or ".join(repr(key) for key in child.classes if key is not None)
    return _bad_value(node, child.discriminator, str(value), allowed)


def locate(root: etree._Element, shape: Shape, loc: Loc) -> tuple[etree._Element, str | None, Scalar | Child | None]:
    """The element, attribute and field that a path of field names and positions leads to, as far as it goes."""
    element = root
    found: Scalar | Child | None = None
    steps = list(loc)
    while steps:
        step = steps.pop(0)
        field = shape.fields.get(str(step))
        if field is None:
            break
        found = field
        if isinstance(field, Scalar):
            return element, field.name or None, field
        position = int(steps.pop(0)) if field.many and steps and isinstance(steps[0], int) else 0
        nodes = [node for node in element if node.tag == field.tag]
        if position >= len(nodes):
            return element, None, field
        element = nodes[position]
        if field.kind != "element":
            return element, None, field
        cls = field.classes[None]
        if field.discriminator is not None:
            cls = field.classes.get(str(element.get(field.discriminator)), cls)
            if steps and steps[0] in field.classes:
                steps.pop(0)
        shape = shape_of(cls)
    return element, None, found


def _located(error: ValidationError, root: etree._Element, shape: Shape) -> CorralError:
    details = error.errors(include_url=False)[0]
    loc = tuple(details["loc"])
    if loc == ("name",) and shape.tag == "domain":
        return NameMissing()
    if details["type"] == "missing":
        element, _, _ = locate(root, shape, loc[:-1])
        _, _, field = locate(root, shape, loc)
        name = field.tag if isinstance(field, Child) else field.name if field else str(loc[-1])
        what = f"element <{name}>" if isinstance(field, Child) else f"attribute '{name}'" if name else "the value"
        return _error(element, None, f"{what} is missing in element <{_local(element)}>")
    element, attribute, _ = locate(root, shape, loc)
    value = element.get(attribute) if attribute else element.text
    if details["type"] == "literal_error":
        return _bad_value(element, attribute, str(value or ""), str(details["ctx"]["expected"]))
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input should ")
    what = f"attribute '{attribute}' of element <{_local(element)}>" if attribute else f"element <{_local(element)}>"
    return _error(element, attribute, f"invalid value '{_short(str(value or ''))}' for {what}: should {message}")
