"""QEMU's monitor and the guest's agent, for clients that speak to them directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainQemuMonitorCommandFlags
from corral.daemon.dispatch import on_domain

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain


@on_domain("qemu.domain_monitor_command", flags=DomainQemuMonitorCommandFlags.HMP)
async def monitor_command(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """One command, in JSON or as a person types it, and its answer as text."""
    return {"result": await domain.monitor_command(args.cmd, args.flags)}


@on_domain("qemu.domain_agent_command")
async def agent_command(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """One command for the guest's agent, and its answer as text."""
    return {"result": await domain.agent_command(args.cmd, args.timeout, args.flags)}
