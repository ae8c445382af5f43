"""Renderings of a plan: arguments for a cold start, QMP commands for a hotplug and for its undo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.qemu.plan import Part, Plan

Command = tuple[str, dict[str, Any]]


def argv(plan: Plan) -> list[str]:
    """The whole command line, the emulator first."""
    raise NotImplementedError


def attach(parts: Sequence[Part]) -> list[Command]:
    """QMP commands that plug the parts in, in order."""
    raise NotImplementedError


def detach(parts: Sequence[Part]) -> list[Command]:
    """QMP commands that take the parts out: the reverse order.

    After a `device_del` the caller waits for DEVICE_DELETED of that id before it sends the next command.
    """
    raise NotImplementedError
