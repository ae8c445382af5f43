"""LUNs of iSCSI targets lent to the guest as SCSI generic devices.

https://libvirt.org/formatdomain.html#usb-pci-scsi-devices
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import BootableDevice
from corral.model.devices.remote import Auth, Initiator, SourceHost
from corral.model.element import Element, YesNo


class Portal(Element, tag="host"):
    """Where a target is asked."""

    name: str = attr()
    port: Annotated[int, Field(ge=1, le=65535)] | None = attr(default=None)


class ISCSISource(Element, tag="source"):
    """A LUN by its target's name, a slash and its number."""

    protocol: Literal["iscsi"] = attr()
    name: str = attr()
    hosts: list[Portal] = element(tag="host", default_factory=list)
    auth: Auth | None = element(default=None)
    initiator: Initiator | None = element(default=None)

    @property
    def servers(self) -> list[SourceHost]:
        """The portals as a disk's source has them."""
        return [SourceHost(name=host.name, port=host.port) for host in self.hosts]


class SCSIHostdev(BootableDevice, tag="hostdev"):
    """A LUN that the guest speaks with itself, whatever kind of device it is (disk, tape, changer …)."""

    mode: Literal["subsystem"] = attr(default="subsystem")
    type: Literal["scsi"] = attr(default="scsi")
    managed: YesNo | None = attr(default=None)
    sgio: Literal["filtered", "unfiltered"] | None = attr(default=None)
    rawio: YesNo | None = attr(default=None)
    source: ISCSISource = element()
    readonly: bool = element(default=False)
    shareable: bool = element(default=False)
