"""Memory shared between guests (ivshmem): a file of the host's, or what a server hands out with interrupts."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.shmem import Shmem
from corral.qemu.context import Context, Properties, alias, given, switch
from corral.qemu.runtime import Part

DEFAULT_SIZE = 4 << 20


def path_of(device: Shmem) -> str:
    """The file that guests of the same name share."""
    return f"/dev/shm/{device.name}"


def parts(device: Shmem, context: Context) -> list[Part]:
    """The memory, or the way to its server, then the device."""
    place = context.place(device)
    role: Properties = {"master": "on" if device.role == "master" else "off"} if device.role is not None else {}
    if device.model is not None and device.model.type == "ivshmem-doorbell":
        if device.server is None or device.server.path is None:
            raise ConfigUnsupported("model 'ivshmem-doorbell' needs the path of a <server>")
        address = {"type": "unix", "data": {"path": device.server.path}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        msi = device.msi
        props: Properties = {"driver": context.driver("ivshmem-doorbell"), "chardev": f"char{alias(device)}"}
        props |= given(vectors=msi.vectors, ioeventfd=switch(msi.ioeventfd)) if msi is not None else {}
        return [Part("chardev", f"char{alias(device)}", backend), Part("device", alias(device), props | role | place)]
    if device.server is not None or device.msi is not None:
        raise ConfigUnsupported("only model 'ivshmem-doorbell' has a <server> and <msi>")
    size = device.size.bytes if device.size is not None else DEFAULT_SIZE
    memory = {"qom-type": "memory-backend-file", "mem-path": path_of(device), "size": size, "share": True}
    props = {"driver": context.driver("ivshmem-plain"), "memdev": f"shmmem-{alias(device)}"}
    return [Part("object", f"shmmem-{alias(device)}", memory), Part("device", alias(device), props | role | place)]
