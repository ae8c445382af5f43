"""Sockets between host and guest, which the host's kernel carries."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.vsock import Vsock
from corral.qemu.context import Context, Properties, alias, virtio_options
from corral.qemu.runtime import Part

HOSTS = "/dev/vhost-vsock"
END = "vhost-vsock"
"""The name of the descriptor of `HOSTS` that QEMU is handed; a machine has one."""


def parts(device: Vsock, context: Context) -> list[Part]:
    """The device, and ahead of it the host's end, which is opened for it."""
    cid = device.cid.address if device.cid is not None else None
    if cid is None:
        if device.cid is None or device.cid.auto != "yes":
            raise ConfigUnsupported("vsock needs <cid auto='yes'/> or <cid address='N'/>")
        cid = 3
    end = Part("fd", END, {})
    props: Properties = {"driver": context.driver("vhost-vsock-pci"), "guest-cid": cid, "vhostfd": end.id}
    return [end, Part("device", alias(device), props | context.place(device) | virtio_options(device.driver))]
