"""Inner XML that is kept, not understood: `<metadata>` and its like.

Kept without indentation (white space between elements is not content), indented anew where it is written. Text that is
mixed with elements is never touched.
"""

from __future__ import annotations

import copy

from lxml import etree

from corral.errors import XMLError


def content(element: etree._Element) -> str:
    """The children of `element` as compact text; each declares the namespaces it uses."""
    if not len(element):
        return ""
    parts = []
    for child in element:
        if not isinstance(child.tag, str):
            continue
        # Namespaces that ancestors declare and that the child does not use stay behind.
        lone = copy.deepcopy(child)
        lone.tail = None
        etree.cleanup_namespaces(lone)
        _compact(lone)
        parts.append(etree.tostring(lone, encoding="unicode"))
    return "".join(parts)


def indented(text: str, level: int) -> str:
    """Inner XML as lines, each indented by `level` steps of two spaces and ended by a newline."""
    return "".join("  " * level + _pretty(child, level) + "\n" for child in _children(text))


def _children(text: str) -> list[etree._Element]:
    if not text:
        return []
    return list(_parse(f"<metadata>{text}</metadata>"))


def _parse(text: str) -> etree._Element:
    from corral.model.reader import parse

    return parse(text)


def _pretty(element: etree._Element, level: int) -> str:
    lone = copy.deepcopy(element)
    lone.tail = None
    etree.cleanup_namespaces(lone)
    _compact(lone)
    _indent(lone, level)
    return etree.tostring(lone, encoding="unicode")


def _is_structure(element: etree._Element) -> bool:
    """Whether the element holds elements and white space only."""
    if not len(element):
        return False
    return not (element.text or "").strip() and all(not (child.tail or "").strip() for child in element)


def _compact(element: etree._Element) -> None:
    stack = [element]
    while stack:
        node = stack.pop()
        if _is_structure(node):
            node.text = None
            for child in node:
                child.tail = None
                stack.append(child)


def _indent(element: etree._Element, level: int) -> None:
    stack = [(element, level)]
    while stack:
        node, depth = stack.pop()
        if not _is_structure(node):
            continue
        node.text = "\n" + "  " * (depth + 1)
        children = list(node)
        for child in children:
            child.tail = node.text
            stack.append((child, depth + 1))
        children[-1].tail = "\n" + "  " * depth


def _namespace(element: etree._Element) -> str | None:
    return etree.QName(element).namespace if isinstance(element.tag, str) else None


def get(text: str, uri: str) -> str | None:
    """The child of namespace `uri` as indented text, its own names without that namespace (as virDomainGetMetadata)."""
    for child in _children(text):
        if _namespace(child) == uri:
            lone = copy.deepcopy(child)
            lone.tail = None
            for node in lone.iter(etree.Element):
                if _namespace(node) == uri:
                    node.tag = etree.QName(node).localname
            etree.cleanup_namespaces(lone)
            _compact(lone)
            _indent(lone, 0)
            return etree.tostring(lone, encoding="unicode")
    return None


def replaced(text: str, uri: str, key: str | None, xml: str | None) -> str:
    """Inner XML with the child of namespace `uri` replaced by `xml` (None: removed).

    Names of `xml` without a namespace get `uri` with the prefix `key`, as virDomainSetMetadata says.
    """
    kept = [_lone(child) for child in _children(text) if _namespace(child) != uri]
    if xml is not None:
        try:
            kept.append(_lone(_qualified(_parse(xml), uri, key)))
        except ValueError as error:
            raise XMLError(f"invalid metadata namespace: {error}") from error
    return "".join(kept)


def _lone(child: etree._Element) -> str:
    lone = copy.deepcopy(child)
    lone.tail = None
    etree.cleanup_namespaces(lone)
    _compact(lone)
    return etree.tostring(lone, encoding="unicode")


def _qualified(element: etree._Element, uri: str, key: str | None) -> etree._Element:
    """A copy of `element` whose unqualified names are in namespace `uri`."""
    known = {prefix: name for prefix, name in element.nsmap.items() if prefix is not None}
    wrapper = etree.Element("metadata", nsmap={**known, key or None: uri})  # type: ignore[dict-item]
    lone = copy.deepcopy(element)
    wrapper.append(lone)
    for node in lone.iter(etree.Element):
        if _namespace(node) is None:
            node.tag = f"{{{uri}}}{node.tag}"
    lone.tail = None
    return lone
