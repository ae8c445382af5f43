"""One handler per procedure, grouped by what they are about; importing a module registers its handlers."""

from __future__ import annotations


def load() -> None:
    """Register every handler; the daemon calls it once."""
    from corral.daemon.handlers import (
        absent,
        autoscale,
        changes,
        connect,
        corral,
        cpus,
        devices,
        domain,
        events,
        guest,
        memory,
        node,
        perf,
        qemu,
        stats,
        storage,
        streams,
        vcpus,
    )

    assert all(
        (
            absent,
            autoscale,
            changes,
            connect,
            corral,
            cpus,
            devices,
            domain,
            events,
            guest,
            memory,
            node,
            perf,
            qemu,
            stats,
            storage,
            streams,
            vcpus,
        )
    )
