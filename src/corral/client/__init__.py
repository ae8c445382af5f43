"""Corral in Python: `async with corral.connect() as host: vm = await host.run("tiny", cpus=2)`.

Everything is a client of libvirt's protocol, so it drives Corral's daemon and a real libvirtd alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.client.domain import Domain, Info, State
from corral.client.host import Host, connect

if TYPE_CHECKING:
    from corral.client.agent import ExecResult
    from corral.client.events import Event, Events
    from corral.client.stream import Stream

__all__ = ["Domain", "Event", "Events", "ExecResult", "Host", "Info", "State", "Stream", "connect"]


def __getattr__(name: str) -> object:
    # Loaded when first named: a short command pays for none of them.
    if name in ("Event", "Events"):
        from corral.client import events as module
    elif name == "ExecResult":
        from corral.client import agent as module  # type: ignore[no-redef]
    elif name == "Stream":
        from corral.client import stream as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module 'corral.client' has no attribute {name!r}")
    return getattr(module, name)
