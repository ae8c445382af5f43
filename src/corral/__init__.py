"""Corral runs KVM virtual machines: `async with corral.connect() as host: vm = await host.run("tiny", cpus=2)`."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, without the 8 ms that importing typing takes
if TYPE_CHECKING:
    from corral.client import connect

__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> object:
    if name == "connect":  # imported on first use: `import corral` must stay free
        from corral.client import connect

        return connect
    raise AttributeError(f"module 'corral' has no attribute {name!r}")
