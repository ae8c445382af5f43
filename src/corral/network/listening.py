"""Whether QEMU will be able to listen where its cards of type `server` shall be reached.

QEMU listens in a thread of its own and takes the card in any case; when the address turns out to be taken, the guest's
next packet ends it by SIGSEGV (seen with QEMU 10.0). So it is tried before QEMU has the card.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

from corral.errors import HostError

_PRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def refuse_taken(places: Iterable[tuple[str, int]], *, as_root: bool) -> None:
    """Raise HostError when one of the HOST (empty: all addresses), PORT pairs cannot be listened at.

    All are held until the last was tried, so that one which is there twice is found, too. `as_root`: QEMU runs as root.
    """
    with contextlib.ExitStack() as held:
        for host, port in places:
            try:
                if not as_root and port < int(_PRIVILEGED.read_text()):
                    raise PermissionError(None, "only root may listen at a port as low, and QEMU is not root")
                held.enter_context(_listening(host, port))
            except OSError as error:
                raise HostError(
                    f"cannot listen at {host or '*'}:{port} for a network card: {error.strerror}",
                    hint="choose another address or port for the card",
                ) from error


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens at the first address of the host's that lets us, as QEMU's does."""
    refusal: OSError = OSError(None, "the name has no address")
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        tried = socket.socket(family, kind, protocol)
        try:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)
        except OSError as error:
            tried.close()
            refusal = error
        else:
            return tried
    raise refusal
