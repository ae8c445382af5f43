"""Corral in Python: `async with corral.connect() as host: vm = await host.run("tiny", cpus=2)`.

Everything is a client of libvirt's protocol, so it drives Corral's daemon and a real libvirtd alike.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from corral.client.domain import Domain, Info, State
from corral.client.host import Host, connect

if TYPE_CHECKING:
    from corral.client.agent import ExecResult
    from corral.client.events import Event
    from corral.client.listening import Events
    from corral.client.stream import Stream

__all__ = ["Domain", "Event", "Events", "ExecResult", "Host", "Info", "State", "Stream", "connect"]


#: Loaded when first named: a short command pays for none of them.
_ELSEWHERE = {"Event": "events", "Events": "listening", "ExecResult": "agent", "Stream": "stream"}


def __getattr__(name: str) -> object:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module 'corral.client' has no attribute {name!r}")
    return getattr(import_module(f"corral.client.{_ELSEWHERE[name]}"), name)
