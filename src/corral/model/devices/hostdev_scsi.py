"""LUNs of this host and of iSCSI targets lent to the guest as SCSI generic devices.

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


class Adapter(Element, tag="adapter"):
    """A SCSI host of the kernel's."""

    name: Annotated[str, Field(pattern=r"^scsi_host[0-9]{1,9}$")] = attr()


class HostSCSIAddress(Element, tag="address"):
    """Where a device sits on its SCSI host."""

    bus: Annotated[int, Field(ge=0, le=2**32 - 1)] = attr()
    target: Annotated[int, Field(ge=0, le=2**32 - 1)] = attr()
    unit: Annotated[int, Field(ge=0, le=2**64 - 1)] = attr()


class SCSISource(Element, tag="source"):
    """A device of this host by adapter and address; with `protocol` a LUN: its target's name, a slash, its number."""

    protocol: Literal["iscsi"] | None = attr(default=None)
    name: str | None = attr(default=None)
    adapter: Adapter | None = element(default=None)
    address: HostSCSIAddress | None = element(default=None)
    hosts: list[Portal] = element(tag="host", default_factory=list)
    auth: Auth | None = element(default=None)
    initiator: Initiator | None = element(default=None)

    @property
    def place(self) -> str | None:
        """A device of this host's as the kernel numbers it: host, channel, target, LUN."""
        if self.adapter is None or self.address is None:
            return None
        at = self.address
        return f"{self.adapter.name.removeprefix('scsi_host')}:{at.bus}:{at.target}:{at.unit}"

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
    source: SCSISource = element()
    readonly: bool = element(default=False)
    shareable: bool = element(default=False)
