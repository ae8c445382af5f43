"""Programs that wait at a local socket for the one client that they serve, and end when it goes."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

#: Seconds that one whose queue is full gets to take us.
PATIENCE = 1.0


def dismiss(listen: Path) -> None:
    """End the program that waits there, if its client has not come: it comes now, and goes. Its socket goes, too.

    The directory may be an account's that we do not trust: no link there is followed, and nothing but a socket met.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        directory = os.open(listen.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        with contextlib.suppress(OSError):
            _come_and_go(directory, listen.name)
        os.unlink(listen.name, dir_fd=directory)


def _come_and_go(directory: int, name: str) -> None:
    with contextlib.ExitStack() as stack:
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        stack.callback(os.close, place)
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            return
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(PATIENCE)
        client.connect(f"/proc/self/fd/{place}")  # what was just looked at, whatever has its name by now
