"""What libvirt's schema knows beyond our classes, so that an error can tell "unknown" from "not supported".

`data/libvirt-names.json` maps `parent/element` to its attributes (with their values, or null when free) and children.
It is derived from libvirt's schemas by `python -m corral.model.names`, and read only when an error needs it.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

_RNG = "{http://relaxng.org/ns/structure/1.0}"
SCHEMAS = Path("/usr/share/libvirt/schemas")

Names = dict[str, tuple[dict[str, list[str] | None], list[str]]]


@cache
def _names() -> Names:
    text = resources.files("corral.model").joinpath("data/libvirt-names.json").read_text()
    names: Names = json.loads(text)
    return names


def _entry(parent: str, element: str) -> tuple[dict[str, list[str] | None], list[str]]:
    """An element's attributes and children; one that stands alone may be a device."""
    names = _names()
    return names.get(f"{parent}/{element}") or (None if parent else names.get(f"devices/{element}")) or ({}, [])


def children(parent: str, element: str) -> frozenset[str]:
    """The child elements libvirt knows in `element` below `parent`."""
    return frozenset(_entry(parent, element)[1])


def attributes(parent: str, element: str) -> frozenset[str]:
    """The attributes libvirt knows in `element` below `parent`."""
    return frozenset(_entry(parent, element)[0])


def values(parent: str, element: str, attribute: str) -> frozenset[str]:
    """The values libvirt knows for an enumerated attribute."""
    return frozenset(_entry(parent, element)[0].get(attribute) or ())


class _Schema:
    """A RELAX NG grammar with its includes, as far as names go."""

    def __init__(self, path: Path) -> None:
        self.defines: dict[str, list[Any]] = {}
        self.start: Any = None
        self._load(path)

    def _load(self, path: Path) -> None:
        from lxml import etree

        self._grammar(etree.parse(str(path)).getroot(), path.parent)

    def _grammar(self, grammar: Any, folder: Path) -> None:
        for node in grammar:
            if node.tag == _RNG + "define":
                self.defines.setdefault(node.get("name"), []).append(node)
            elif node.tag == _RNG + "include":
                self._load(folder / node.get("href"))
                for override in node.iterchildren(_RNG + "define"):
                    self.defines[override.get("name")] = [override]
            elif node.tag == _RNG + "start" and self.start is None:
                self.start = node


class _Collector:
    def __init__(self, schema: _Schema) -> None:
        self.schema = schema
        self.found: dict[str, tuple[dict[str, set[str] | None], set[str]]] = {}
        self.seen: set[tuple[str, Any]] = set()

    def content(self, parent: str, element: str, node: Any, within: frozenset[str]) -> None:
        attributes, below = self.found.setdefault(f"{parent}/{element}", ({}, set()))
        for part in node:
            if part.tag == _RNG + "attribute":
                for name in _names_of(part):
                    values = self.values(part, frozenset())
                    known = attributes.get(name, set())
                    attributes[name] = None if values is None or known is None else known | values
            elif part.tag == _RNG + "element":
                for name in _names_of(part):
                    namespace = next((n.get("ns") for n in (part, *part.iterancestors()) if n.get("ns")), "")
                    tag = f"{{{namespace}}}{name}" if namespace else name
                    below.add(tag)
                    if (f"{element}/{tag}", part) not in self.seen:
                        self.seen.add((f"{element}/{tag}", part))
                        self.content(element, tag, part, frozenset())
            elif part.tag == _RNG + "ref":
                name = part.get("name")
                if name not in within:
                    for define in self.schema.defines[name]:
                        self.content(parent, element, define, within | {name})
            elif isinstance(part.tag, str):
                self.content(parent, element, part, within)

    def values(self, node: Any, within: frozenset[str]) -> set[str] | None:
        """The enumerated values below `node`, or None when any text fits."""
        found: set[str] = set()
        parts = [part for part in node if isinstance(part.tag, str) and part.tag != _RNG + "name"]
        if node.tag == _RNG + "attribute" and not parts:
            return None
        for part in parts:
            inside: set[str] | None = set()
            if part.tag == _RNG + "value":
                inside = {part.text or ""}
            elif part.tag in (_RNG + "text", _RNG + "data", _RNG + "list"):
                inside = None
            elif part.tag == _RNG + "ref":
                if part.get("name") in within:
                    continue
                for define in self.schema.defines[part.get("name")]:
                    more = self.values(define, within | {part.get("name")})
                    inside = None if more is None or inside is None else inside | more
            else:
                inside = self.values(part, within)
            if inside is None:
                return None
            found |= inside
        return found


def _names_of(node: Any) -> list[str]:
    if node.get("name"):
        return [node.get("name")]
    return [name.text for name in node.iterdescendants(_RNG + "name") if name.getparent() in (node, node[0])]


def collect(schemas: Path = SCHEMAS) -> Names:
    """The table, from the schemas in `schemas`."""
    schema = _Schema(schemas / "domain.rng")
    collector = _Collector(schema)
    collector.content("", "", schema.start, frozenset())
    return {
        key: (
            {name: None if known is None else sorted(known) for name, known in sorted(attributes.items())},
            sorted(below),
        )
        for key, (attributes, below) in sorted(collector.found.items())
        if attributes or below
    }


if __name__ == "__main__":
    lines = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in collect().items()]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
