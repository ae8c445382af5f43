"""The daemon: sockets, access control, one handler per procedure of libvirt's remote protocol, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Options:
    """What `corral daemon` was asked for.

    `state` keeps everything under one directory (a private daemon); `socket` is the read-write socket's path, the
    read-only one beside it has `-ro` added. `timeout` is the idle time in seconds after which the daemon leaves (never
    with a client connected or a domain running). `qemu_user` is whom QEMU runs as, None what is usual. `display_ports`
    (first and last), `display_listen`, `display_certificates` and `vnc_tls` are how displays are served where a
    document does not say it. `ready_fd` is a descriptor that gets one newline, and is closed, when the daemon accepts
    connections.
    """

    state: Path | None = None
    socket: Path | None = None
    as_libvirt: bool = False
    timeout: float | None = None
    allow_slow_kvm: bool = False
    emulator: Path | None = None
    group: str | None = None
    qemu_user: str | None = None
    display_ports: tuple[int, int] = (5900, 65535)
    display_listen: str = "127.0.0.1"
    display_certificates: Path | None = None
    vnc_tls: Literal["off", "on", "verify"] = "off"
    ready_fd: int | None = None
    verbose: bool = False


def run(options: Options) -> int:
    """Serve until SIGTERM or the idle time-out; returns the process's exit status (0, or 1 with a line on stderr)."""
    from corral.daemon.service import serve

    return serve(options)
