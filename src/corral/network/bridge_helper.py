"""A tap on a bridge for somebody who may not make one: QEMU's setuid helper, which /etc/qemu/bridge.conf allows.

The helper makes the tap, puts it on the bridge, and sends its descriptor over a socket that it is given.
"""

from __future__ import annotations

import array
import fcntl
import shutil
import socket
import subprocess
from pathlib import Path

from corral.errors import HostError
from corral.network.tap import Tap

PLACES = ("/usr/lib/qemu", "/usr/libexec", "/usr/lib64/qemu", "/usr/local/libexec")
_TUNGETIFF = 0x800454D2
_TIMEOUT = 15.0


def find() -> str | None:
    """The helper, if QEMU's package brought it."""
    return shutil.which("qemu-bridge-helper", path=":".join(PLACES))


def open_tap(bridge: str, *, headers: bool) -> Tap:
    """A tap on the bridge; HostError with the helper's words when it refuses."""
    program = find()
    hint = f"let root run: chmod u+s {program}; and write 'allow {bridge}' to /etc/qemu/bridge.conf"
    if program is None:
        raise HostError(f"creating a tap on bridge '{bridge}' needs root, or qemu-bridge-helper, which is missing")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        words = [program, f"--br={bridge}", f"--fd={theirs.fileno()}", *(["--use-vnet"] if headers else [])]
        try:
            done = subprocess.run(
                words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_TIMEOUT, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"cannot execute {program}: {error}") from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
            text = f"failed to retrieve file descriptor for interface: {Path(program).name}: {said}"
            raise HostError(text, hint=hint)
        theirs.close()
        ours.settimeout(_TIMEOUT)
        try:
            _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        except OSError as error:
            raise HostError(f"{program} sent no descriptor: {error}", hint=hint) from error
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fd = array.array("i", data[:4])[0]
            answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
            return Tap(answer[:16].rstrip(b"\0").decode(), (fd,))
    raise HostError(f"{program} sent no descriptor", hint=hint)
