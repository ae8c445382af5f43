"""What changes a domain: each waits for the domain's job slot and is answered when it has happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import (
    DomainCreateFlags,
    DomainDefineFlags,
    DomainDestroyFlags,
    DomainGetHostnameFlags,
    DomainModificationImpact,
    DomainRebootFlags,
    DomainShutdownFlags,
    DomainUndefineFlags,
)
from corral.daemon.dispatch import finds, on_domain, reference

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

START = (
    DomainCreateFlags.START_PAUSED
    | DomainCreateFlags.START_AUTODESTROY
    | DomainCreateFlags.START_BYPASS_CACHE
    | DomainCreateFlags.START_FORCE_BOOT
    | DomainCreateFlags.START_RESET_NVRAM
)
CREATE = (
    DomainCreateFlags.START_PAUSED
    | DomainCreateFlags.START_AUTODESTROY
    | DomainCreateFlags.START_VALIDATE
    | DomainCreateFlags.START_RESET_NVRAM
)
UNDEFINE = (
    DomainUndefineFlags.MANAGED_SAVE
    | DomainUndefineFlags.SNAPSHOTS_METADATA
    | DomainUndefineFlags.CHECKPOINTS_METADATA
    | DomainUndefineFlags.NVRAM
    | DomainUndefineFlags.KEEP_NVRAM
    | DomainUndefineFlags.TPM
    | DomainUndefineFlags.KEEP_TPM
)
MODES = DomainShutdownFlags.ACPI_POWER_BTN | DomainShutdownFlags.GUEST_AGENT
REBOOT_MODES = DomainRebootFlags.ACPI_POWER_BTN | DomainRebootFlags.GUEST_AGENT
HOSTNAME = DomainGetHostnameFlags.LEASE | DomainGetHostnameFlags.AGENT
IMPACT = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG


@finds("domain_define_xml")
async def define_xml(session: Session, args: Any) -> Domain:
    """Define, or redefine."""
    return await session.hypervisor.define(args.xml)


@finds("domain_define_xml_flags", flags=DomainDefineFlags.VALIDATE)
async def define_xml_flags(session: Session, args: Any) -> Domain:
    """Define, or redefine, after validation by the published schema if asked."""
    return await session.hypervisor.define(args.xml, args.flags)


@finds("domain_create_xml", flags=CREATE)
async def create_xml(session: Session, args: Any) -> Domain:
    """Create and start a transient domain, or start a defined one with this document."""
    return await session.hypervisor.create_xml(args.xml_desc, args.flags, owner=session)


@on_domain("domain_create")
async def create(session: Session, domain: Domain, args: Any) -> None:
    """Start."""
    await domain.create()


@on_domain("domain_create_with_flags", flags=START)
async def create_with_flags(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Start, by flags."""
    await domain.create(args.flags, owner=session)
    return {"dom": reference(domain)}


@on_domain("domain_undefine")
async def undefine(session: Session, domain: Domain, args: Any) -> None:
    """Forget the definition; a running domain becomes transient."""
    await domain.undefine()


@on_domain("domain_undefine_flags", flags=UNDEFINE)
async def undefine_flags(session: Session, domain: Domain, args: Any) -> None:
    """Forget the definition and what belongs to it."""
    await domain.undefine(args.flags)


@on_domain("domain_destroy")
async def destroy(session: Session, domain: Domain, args: Any) -> None:
    """End the machine now."""
    await domain.destroy()


@on_domain("domain_destroy_flags", flags=DomainDestroyFlags.GRACEFUL)
async def destroy_flags(session: Session, domain: Domain, args: Any) -> None:
    """End the machine, but never by SIGKILL if graceful."""
    await domain.destroy(args.flags)


@on_domain("domain_shutdown")
async def shutdown(session: Session, domain: Domain, args: Any) -> None:
    """Ask the guest to power off."""
    await domain.shutdown()


@on_domain("domain_shutdown_flags", flags=MODES)
async def shutdown_flags(session: Session, domain: Domain, args: Any) -> None:
    """Ask the guest to power off, by the modes given."""
    await domain.shutdown(args.flags)


@on_domain("domain_reboot", flags=REBOOT_MODES)
async def reboot(session: Session, domain: Domain, args: Any) -> None:
    """Ask the guest to reboot."""
    await domain.reboot(args.flags)


@on_domain("domain_reset")
async def reset(session: Session, domain: Domain, args: Any) -> None:
    """Press the reset button."""
    await domain.reset()


@on_domain("domain_suspend")
async def suspend(session: Session, domain: Domain, args: Any) -> None:
    """Stop the vCPUs."""
    await domain.suspend()


@on_domain("domain_resume")
async def resume(session: Session, domain: Domain, args: Any) -> None:
    """Let the vCPUs run."""
    await domain.resume()


@on_domain("domain_set_autostart")
async def set_autostart(session: Session, domain: Domain, args: Any) -> None:
    """Whether the domain starts with the daemon."""
    await domain.set_autostart(bool(args.autostart))


@on_domain("domain_set_metadata", flags=IMPACT)
async def set_metadata(session: Session, domain: Domain, args: Any) -> None:
    """Title, description, or the metadata element of a namespace; None removes it."""
    await domain.set_metadata(args.type, args.metadata, args.key, args.uri, args.flags)


@on_domain("domain_rename")
async def rename(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Give an inactive domain another name."""
    await domain.rename(args.new_name or "")
    return {"retcode": 0}


@on_domain("domain_send_key")
async def send_key(session: Session, domain: Domain, args: Any) -> None:
    """Press keys together."""
    await domain.send_key(args.codeset, args.holdtime, list(args.keycodes))


@on_domain("domain_inject_nmi")
async def inject_nmi(session: Session, domain: Domain, args: Any) -> None:
    """Interrupt the guest."""
    await domain.inject_nmi()


@on_domain("domain_get_hostname", flags=HOSTNAME)
async def get_hostname(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The guest's own name, from its agent."""
    return {"hostname": await domain.hostname(args.flags)}
