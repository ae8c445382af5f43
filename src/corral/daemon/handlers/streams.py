"""Procedures that open a stream of bytes beside the calls: consoles, channels, screenshots, USB devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import DomainChannelFlags, DomainConsoleFlags
from corral.daemon.dispatch import streams
from corral.daemon.stream import Picture
from corral.hypervisor.devices import usb

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.guest.stream import ByteStream


@streams("domain_open_console", flags=DomainConsoleFlags.FORCE | DomainConsoleFlags.SAFE)
async def open_console(session: Session, domain: Domain, args: Any) -> tuple[None, ByteStream]:
    """The console or serial port of that alias, or the first."""
    return None, await domain.open_console(args.dev_name, args.flags)


@streams("domain_open_channel", flags=DomainChannelFlags.FORCE)
async def open_channel(session: Session, domain: Domain, args: Any) -> tuple[None, ByteStream]:
    """The channel of that alias or target name, or the first."""
    return None, await domain.open_channel(args.name, args.flags)


@streams("domain_screenshot")
async def screenshot(session: Session, domain: Domain, args: Any) -> tuple[dict[str, Any], ByteStream]:
    """The picture's type, and then the picture."""
    picture = await domain.screenshot(args.screen)
    return {"mime": picture.mime}, Picture(picture.data)


@streams("corral.usb_redirect")
async def usb_redirect(session: Session, domain: Domain, args: Any) -> tuple[dict[str, Any], ByteStream]:
    """A slot for a USB device of the client's, and usbredir's bytes."""
    bus = args.bus if args.bus >= 0 else None
    alias, stream = await usb.redirect(domain, slot=args.slot, bus=bus, speed=args.speed)
    return {"alias": alias}, stream
