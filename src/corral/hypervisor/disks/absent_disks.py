"""Disks whose image is missing and may be (`startupPolicy='optional'`): a start goes without them, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.constants import ConnectDomainEventDiskChangeReason
from corral.hypervisor.events import DiskChange

if TYPE_CHECKING:
    from collections.abc import Collection

    from corral.hypervisor.domain import Domain
    from corral.model.domain import Domain as DomainDocument


def without(document: DomainDocument, absent: Collection[str]) -> DomainDocument:
    """The document with those drives empty and those disks left out; `absent` are their targets."""
    document = document.copy()
    for disk in document.devices.disks:
        if disk.target.dev in absent and disk.device == "cdrom":
            disk.source = None
    kept = [disk for disk in document.devices.disks if disk.target.dev not in absent or disk.device == "cdrom"]
    document.devices.disks = kept
    return document


def tell(domain: Domain, document: DomainDocument, absent: Collection[str]) -> None:
    """Tell of each disk that the machine was started without."""
    if not absent:
        return
    from corral.qemu import aliases

    reasons = ConnectDomainEventDiskChangeReason
    for disk in aliases.assign(document).devices.disks:
        if disk.target.dev in absent and disk.alias is not None and disk.source is not None:
            reason = reasons.CHANGE_MISSING_ON_START if disk.device == "cdrom" else reasons.DROP_MISSING_ON_START
            path = disk.source.where
            domain.hypervisor.events.emit(DiskChange(domain.identity(), path, None, disk.alias.name, reason))
