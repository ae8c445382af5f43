"""Devices that come, go and change: attach, detach, update; disks' sizes and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainBlockResizeFlags, DomainDeviceModifyFlags
from corral.daemon.dispatch import on_domain
from corral.hypervisor.disks import block
from corral.hypervisor.hotplug import hotplug

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain

LIVE = DomainDeviceModifyFlags.LIVE
IMPACT = DomainDeviceModifyFlags.LIVE | DomainDeviceModifyFlags.CONFIG


@on_domain("domain_attach_device")
async def attach_device(session: Session, domain: Domain, args: Any) -> None:
    """Plug a device into the running machine."""
    await hotplug.attach(domain, args.xml, LIVE)


@on_domain("domain_attach_device_flags", flags=IMPACT)
async def attach_device_flags(session: Session, domain: Domain, args: Any) -> None:
    """Plug a device in, live, in the definition, or both."""
    await hotplug.attach(domain, args.xml, args.flags)


@on_domain("domain_detach_device")
async def detach_device(session: Session, domain: Domain, args: Any) -> None:
    """Have the guest let go of a device."""
    await hotplug.detach(domain, args.xml, LIVE)


@on_domain("domain_detach_device_flags", flags=IMPACT)
async def detach_device_flags(session: Session, domain: Domain, args: Any) -> None:
    """Take a device away, live, from the definition, or both."""
    await hotplug.detach(domain, args.xml, args.flags)


@on_domain("domain_detach_device_alias", flags=IMPACT)
async def detach_device_alias(session: Session, domain: Domain, args: Any) -> None:
    """Take away the device with that alias."""
    await hotplug.detach_alias(domain, args.alias, args.flags)


@on_domain("domain_update_device_flags", flags=IMPACT | DomainDeviceModifyFlags.FORCE)
async def update_device_flags(session: Session, domain: Domain, args: Any) -> None:
    """Change a device: a medium, a cable, a password."""
    await hotplug.update(domain, args.xml, args.flags)


@on_domain("domain_block_resize", flags=DomainBlockResizeFlags.BYTES | DomainBlockResizeFlags.CAPACITY)
async def block_resize(session: Session, domain: Domain, args: Any) -> None:
    """Give a disk another size."""
    await block.resize(domain, args.disk, args.size, args.flags)


@on_domain("domain_get_disk_errors")
async def get_disk_errors(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The disks that have failed since the machine last went on; with room for none, how many disks there are."""
    found = await block.errors(domain)
    if args.maxerrors == 0:
        return {"errors": [], "nerrors": len(domain.definition.document.devices.disks)}
    errors = [{"disk": name, "error": code} for name, code in found[: args.maxerrors]]
    return {"errors": errors, "nerrors": len(errors)}
