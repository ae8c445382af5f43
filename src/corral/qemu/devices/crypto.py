"""Crypto devices."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.crypto import Crypto
from corral.qemu.context import Context, Properties, alias, given, virtio_options
from corral.qemu.runtime import Part


def parts(device: Crypto, context: Context) -> list[Part]:
    """Who does the work, then the device."""
    kind = f"cryptodev-backend-{device.backend.model}"
    if not context.binary.has_object(kind):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' has no object '{kind}'")
    name = f"obj{alias(device)}"
    props: Properties = {"driver": context.virtio("virtio-crypto", device.model), "cryptodev": name}
    return [
        Part("object", name, {"qom-type": kind} | given(queues=device.backend.queues)),
        Part("device", alias(device), props | context.place(device) | virtio_options(device.driver)),
    ]
