"""SCSI devices that the guest speaks with itself: QEMU passes all commands on."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.address import DriveAddress
from corral.model.devices.hostdev_scsi import SCSIHostdev
from corral.qemu.context import Context, Properties, alias
from corral.qemu.devices.disk import WIDE_SCSI
from corral.qemu.devices.storage import iscsi, password
from corral.qemu.runtime import Part


def parts(device: SCSIHostdev, context: Context) -> list[Part]:
    """The node of the LUN, and the device."""
    if device.sgio == "unfiltered":
        raise ConfigUnsupported("sgio='unfiltered' of a host device is not supported (no kernel offers it)")
    ahead, node = _node(device, context)
    backend = Part("blockdev", f"libvirt-{alias(device)}-backend", node | {"read-only": device.readonly})
    props: Properties = {"driver": context.driver("scsi-generic"), "drive": backend.id} | _place(device, context)
    props |= {"share-rw": True} if device.shareable else {}
    return [*ahead, backend, Part("device", alias(device), props | context.boot_index(device))]


def _node(device: SCSIHostdev, context: Context) -> tuple[list[Part], Properties]:
    source = device.source
    if source.place is not None:
        return [], {"driver": "host_device", "filename": context.runtime.generics.get(source.place, "/dev/sg-unknown")}
    if not context.binary.has_argument("blockdev-add", "driver=iscsi"):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' cannot reach devices over 'iscsi'")
    ahead, more = password(source.auth, alias(device))
    return ahead, iscsi(source.servers, source.name or "", source.initiator) | more


def _place(device: SCSIHostdev, context: Context) -> Properties:
    address = device.address
    if not isinstance(address, DriveAddress):
        raise ConfigUnsupported(f"SCSI host device '{alias(device)}' needs an address of type drive")
    bus = f"{context.bus('scsi', address.controller)}.0"
    wide = any(
        each.type == "scsi" and each.index == address.controller and each.model in WIDE_SCSI
        for each in context.domain.devices.controllers
    )
    if not wide:
        return {"bus": bus, "scsi-id": address.unit}
    return {"bus": bus, "channel": address.bus, "scsi-id": address.target, "lun": address.unit}
