"""One handler per procedure, grouped by what they are about; importing a module registers its handlers."""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "absent",
    "autoscale",
    "bandwidth",
    "changes",
    "connect",
    "corral",
    "cpus",
    "devices",
    "displays",
    "domain",
    "events",
    "guest",
    "memory",
    "node",
    "perf",
    "qemu",
    "secrets",
    "stats",
    "storage",
    "streams",
    "throttling",
    "tuning",
    "vcpus",
)


def load() -> None:
    """Register every handler; the daemon calls it once."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")
