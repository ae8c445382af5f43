"""Renderings of a plan: arguments for a cold start, QMP commands for a hotplug and for its undo."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corral.qemu.plan import Plan
from corral.qemu.runtime import Command, Part

ID_FIELD = {"fdset": "fdset-id", "blockdev": "node-name", "object": "id", "netdev": "id", "device": "id"}
ATTACH = {"blockdev": "blockdev-add", "object": "object-add", "netdev": "netdev_add", "device": "device_add"}
DETACH = {
    "fdset": ("remove-fd", "fdset-id"),
    "fd": ("closefd", "fdname"),
    "blockdev": ("blockdev-del", "node-name"),
    "object": ("object-del", "id"),
    "netdev": ("netdev_del", "id"),
    "chardev": ("chardev-remove", "id"),
    "device": ("device_del", "id"),
}


def argv(plan: Plan, fds: Mapping[str, int]) -> list[str]:
    """The whole command line, the emulator first; `fds`: the inherited descriptor of each descriptor set and `fd`."""
    words = [plan.emulator]
    for option in plan.options:
        words += option
    for part in plan.parts:
        match part.kind:
            case "fdset":
                words += ["-add-fd", f"fd={fds[part.id]},set={part.id},opaque={_escape(part.props['path'])}"]
            case "fd":
                pass  # inherited; what it is for names it by its number
            case "chardev":
                words += ["-chardev", chardev_option(part)]
            case "netdev":
                words += ["-netdev", _json(_numbered(_props(part), fds))]
            case "device":
                words += ["-device", _json(_numbered(_props(part), fds))]
            case _:
                words += [f"-{part.kind}", _json(_props(part))]
    return words


def attach(parts: Sequence[Part]) -> list[Command]:
    """QMP commands that plug the parts in, in order; with an `add-fd` or `getfd` goes its descriptor."""
    commands: list[Command] = []
    for part in parts:
        match part.kind:
            case "fdset":
                commands.append(("add-fd", {"fdset-id": int(part.id), "opaque": part.props["path"]}))
            case "fd":
                commands.append(("getfd", {"fdname": part.id}))
            case "chardev":
                commands.append(("chardev-add", {"id": part.id, "backend": part.props}))
            case _:
                commands.append((ATTACH[part.kind], _props(part)))
    return commands


def detach(parts: Sequence[Part]) -> list[Command]:
    """QMP commands that take the parts out: the reverse order.

    After a `device_del` the caller waits for DEVICE_DELETED of that id before it sends the next command. What lives on
    a bus that a part of its own brings (an HDA codec) goes with that part and is not named.
    """
    own = {part.id for part in parts if part.kind == "device"}
    commands = []
    for part in reversed(parts):
        if part.kind == "device" and str(part.props.get("bus", "")).rpartition(".")[0] in own:
            continue
        command, key = DETACH[part.kind]
        commands.append((command, {key: int(part.id) if part.kind == "fdset" else part.id}))
    return commands


def chardev_option(part: Part) -> str:
    """The value of `-chardev`: the QMP form flattened, which QEMU does not take as JSON here."""
    words = [part.props["type"], f"id={_escape(part.id)}"]
    words += [f"{name}={_escape(value)}" for name, value in _flat(part.props["type"], part.props["data"])]
    return ",".join(words)


def _flat(backend: str, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A backend's data as `-chardev` names it."""
    renamed = {"out": "path", "device": "path", "fqdn": "name", "type": "name"}
    for name, value in data.items():
        if name == "addr":
            yield from _flat(backend, value["data"])
        elif isinstance(value, bool):
            yield name, "on" if value else "off"
        elif name == "str":
            yield "fd", value
        else:
            yield renamed.get(name, name), str(value)


def _numbered(props: dict[str, Any], fds: Mapping[str, int]) -> dict[str, Any]:
    """The properties of a netdev or a device with the numbers of inherited descriptors in place of their names."""
    renamed = dict(props)
    for name in ("fd", "fds", "vhostfd", "vhostfds"):
        if name in props:
            renamed[name] = ":".join(str(fds[each]) for each in props[name].split(":"))
    return renamed


def _props(part: Part) -> dict[str, Any]:
    driver: dict[str, Any] = {name: part.props[name] for name in ("driver", "qom-type", "type") if name in part.props}
    return {**driver, ID_FIELD[part.kind]: part.id, **part.props}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _escape(value: str) -> str:
    return value.replace(",", ",,")
