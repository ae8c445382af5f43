"""Programs that wait at a local socket for the one client that they serve, and end when it goes."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

#: Seconds that one whose queue is full gets to take us.
PATIENCE = 1.0


def dismiss(listen: Path) -> None:
    """End the program that waits there, if its client has not come: it comes now, and goes. Its socket goes, too."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        directory = os.open(listen.parent, os.O_PATH | os.O_CLOEXEC)  # the whole name may be too long for a socket's
        stack.callback(os.close, directory)
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(PATIENCE)
        client.connect(f"/proc/self/fd/{directory}/{listen.name}")
    with contextlib.suppress(OSError):
        listen.unlink(missing_ok=True)
