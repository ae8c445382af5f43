"""Controllers in a document: where a new one goes, and which index it gets."""

from __future__ import annotations

from collections.abc import Callable

from corral.model.devices.controller import Controller, ControllerType
from corral.model.domain import Domain


def of_type(domain: Domain, kind: ControllerType) -> list[Controller]:
    """The document's controllers of one type, in document order."""
    return [controller for controller in domain.devices.controllers if controller.type == kind]


def insert(domain: Domain, controller: Controller) -> None:
    """Put a controller in: controllers of one type stand in the order of their indexes, new types at the end."""
    controllers = domain.devices.controllers
    place: int | None = None
    for position in range(len(controllers) - 1, -1, -1):
        other = controllers[position]
        if other.type != controller.type:
            continue
        if (other.index or 0) > (controller.index or 0):
            place = position
        else:
            place = position + 1 if place is None else place
            break
    controllers.insert(len(controllers) if place is None else place, controller)


def next_index(domain: Domain, kind: ControllerType) -> int:
    """The lowest index that no controller of that type has."""
    used = {controller.index for controller in of_type(domain, kind)}
    return next(index for index in range(len(used) + 1) if index not in used)


def ensure(domain: Domain, kind: ControllerType, highest: int, make: Callable[[int], Controller]) -> None:
    """Add the missing controllers of one type from index 0 to `highest`."""
    known = {controller.index for controller in of_type(domain, kind)}
    for index in range(highest + 1):
        if index not in known:
            insert(domain, make(index))
