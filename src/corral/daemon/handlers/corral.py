"""Corral's own program on the connection: what libvirt's protocol has no procedure for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.daemon.dispatch import handler, on_domain

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain


@handler("corral.host_report")
async def host_report(session: Session, args: None) -> dict[str, Any]:
    """The rows of `corral doctor` as JSON."""
    return {"json": await session.hypervisor.report()}


@on_domain("corral.logs")
async def logs(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The end of QEMU's own log."""
    return {"text": await domain.log_text(args.lines)}
