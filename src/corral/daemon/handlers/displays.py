"""Displays: connections that come through the daemon, and certificates that are read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainOpenGraphicsFlags
from corral.daemon.dispatch import gives_fds, on_domain, takes_fds
from corral.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain


@takes_fds("domain_open_graphics", flags=DomainOpenGraphicsFlags.SKIPAUTH)
async def open_graphics(session: Session, domain: Domain, args: Any, fds: Sequence[int]) -> None:
    """Serve the client at the other end of the socket that came along."""
    if not fds:
        raise InternalError("No file descriptor came with the call", hint="it goes over a UNIX socket only")
    await domain.open_graphics(args.idx, fds[0], args.flags)


@gives_fds("domain_open_graphics_fd", flags=DomainOpenGraphicsFlags.SKIPAUTH)
async def open_graphics_fd(session: Session, domain: Domain, args: Any) -> tuple[None, list[int]]:
    """A new connection to a display."""
    return None, [await domain.open_graphics_fd(args.idx, args.flags)]


@on_domain("domain_graphics_reload")
async def graphics_reload(session: Session, domain: Domain, args: Any) -> None:
    """Have displays use the certificates as they are now."""
    await domain.graphics_reload(args.type)
