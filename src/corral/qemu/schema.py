"""QEMU's description of its own monitor commands (query-qmp-schema), flattened to names one can ask for.

The introspection format: QEMU's qapi/introspect.json. `blockdev-add/driver=file/aio=io_uring` means that the command
takes that member with that value in that branch; two levels of nesting answer what Corral asks, at a tenth of the size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

DEPTH = 2


def flatten(schema: Iterable[dict[str, Any]], depth: int = DEPTH) -> tuple[set[str], set[str]]:
    """The commands, and their arguments as paths."""
    types = {entry["name"]: entry for entry in schema}
    commands = {name for name, entry in types.items() if entry["meta-type"] == "command"}
    arguments: set[str] = set()
    for name in commands:
        _walk(types, types[name]["arg-type"], name, depth, arguments)
    return commands, arguments


def _walk(types: dict[str, dict[str, Any]], type_name: str, prefix: str, depth: int, found: set[str]) -> None:
    entry = types[type_name]
    match entry["meta-type"]:
        case "array":
            _walk(types, entry["element-type"], prefix, depth, found)
        case "enum":
            found.update(f"{prefix}={member['name']}" for member in entry["members"])
        case "alternate" if depth > 0:
            for member in entry["members"]:
                if types[member["type"]]["meta-type"] == "enum":
                    _walk(types, member["type"], prefix, depth, found)
        case "object" if depth > 0:
            for member in entry["members"]:
                path = f"{prefix}/{member['name']}"
                found.add(path)
                _walk(types, member["type"], path, depth - 1, found)
            for variant in entry.get("variants", ()):
                branch = f"{prefix}/{entry['tag']}={variant['case']}"
                found.add(branch)
                _walk(types, variant["type"], branch, depth, found)
