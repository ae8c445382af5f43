"""Sockets handed over by systemd, and telling it how we are: sd_listen_fds(3) and sd_notify(3) in a few lines each."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

#: The first descriptor that systemd passes (SD_LISTEN_FDS_START).
FIRST_FD = 3


def inherited(environ: MutableMapping[str, str] | None = None) -> dict[str, list[socket.socket]]:
    """The listening UNIX sockets that systemd handed us, by FileDescriptorName.

    The variables are taken out of the environment, so that no child of ours believes that they are meant for it.
    """
    variables = os.environ if environ is None else environ
    pid, count = variables.pop("LISTEN_PID", ""), variables.pop("LISTEN_FDS", "")
    names = variables.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdigit() or pid != str(os.getpid()):
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        listener = socket.socket(fileno=FIRST_FD + index)
        listener.set_inheritable(False)
        listener.setblocking(False)
        name = names[index] if index < len(names) else ""
        sockets.setdefault(name, []).append(listener)
    return sockets


def is_readonly(name: str, listener: socket.socket) -> bool:
    """Whether a handed-over socket is the read-only one: by its name, or by its path's `-ro` ending."""
    return name.endswith("-ro") or str(listener.getsockname()).endswith("-ro")


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` to the service manager; nothing happens when there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.send("\n".join(assignments).encode())
    except OSError:
        return  # the manager is gone; there is nobody to tell


def notify_reloading() -> None:
    """Tell systemd that a reload began (Type=notify-reload wants the monotonic time with it)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
