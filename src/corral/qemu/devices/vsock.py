"""Sockets between host and guest, which the host's kernel carries."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.vsock import Vsock
from corral.qemu.context import Context, Properties, alias, virtio_options
from corral.qemu.runtime import Part

HOSTS = "/dev/vhost-vsock"


def parts(device: Vsock, context: Context) -> list[Part]:
    """The device, with the host's opened for it."""
    cid = device.cid.address if device.cid is not None else None
    if cid is None:
        if device.cid is None or device.cid.auto != "yes":
            raise ConfigUnsupported("vsock needs <cid auto='yes'/> or <cid address='N'/>")
        cid = 3
    props: Properties = {"driver": context.driver("vhost-vsock-pci"), "guest-cid": cid}
    return [Part("device", alias(device), props | context.place(device) | virtio_options(device.driver))]
