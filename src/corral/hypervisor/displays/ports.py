"""TCP ports for graphics: chosen so that no two machines of ours are told the same one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from corral.errors import HostError, ResourceBusy

#: Where clients expect VNC over WebSockets.
WEBSOCKETS = range(5700, 5900)


class Ports:
    """The ports that this daemon's machines have, or are about to have."""

    def __init__(self) -> None:
        self._taken: dict[int, object] = {}

    def take(self, owner: object, candidates: Iterable[int], address: str = "127.0.0.1") -> int:
        """The first port at a numeric address that neither a machine of ours nor another program has, or ResourceBusy.

        QEMU binds it itself a moment later: another program could come between, then QEMU says so and the start fails.
        """
        for port in candidates:
            if port not in self._taken and _free(address, port):
                self._taken[port] = owner
                return port
        raise ResourceBusy(
            f"Unable to find an unused port for graphics at {address}", hint="corral daemon --display-ports gives more"
        )

    def demand(self, owner: object, port: int, address: str) -> None:
        """Claim a port that a document demands for a start; ResourceBusy when somebody has it."""
        self.claim(owner, port)
        if not _free(address, port):
            hint = "end what listens there, or name no port (autoport='yes'), so that a free one is chosen"
            raise ResourceBusy(f"port {port} at {address} is taken", hint=hint)

    def claim(self, owner: object, port: int) -> None:
        """A port that a machine has, or is about to have."""
        holder = self._taken.get(port, owner)
        if holder is not owner:
            hint = "name no port (autoport='yes'), so that a free one is chosen"
            raise ResourceBusy(f"port {port} is taken by another domain", hint=hint)
        self._taken[port] = owner

    def release(self, owner: object) -> None:
        """Give back all that `owner` has."""
        for port in [port for port, holder in self._taken.items() if holder is owner]:
            del self._taken[port]


def _free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise HostError(f"a display cannot listen at {address}: this host has no such address") from error
            return error.errno == errno.EACCES  # not ours to try, but perhaps QEMU's
        return True
