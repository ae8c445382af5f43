"""Directories of the host: 9p, which QEMU serves itself, and virtiofs, which a process beside it does."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.filesystem import Filesystem
from corral.model.domain import Domain
from corral.qemu.context import Context, Properties, alias, escape, given, virtio_options
from corral.qemu.runtime import Part

SECURITY = {"passthrough": "passthrough", "mapped": "mapped-xattr", "squash": "none"}
"""How 9p keeps owners: as they are, in extended attributes, or as whoever QEMU runs as."""


def socket_of(device: Filesystem) -> str:
    """The name, in the run's directory, of the socket on which the server of a virtiofs waits for QEMU."""
    return f"{alias(device)}.sock"


def parts(device: Filesystem, context: Context) -> list[Part]:
    """The way to the server and the device of a virtiofs; the device alone of a 9p, whose back end is an option."""
    place = context.place(device) | virtio_options(device.driver)
    if not device.is_virtiofs:
        driver = context.virtio("virtio-9p", device.model)
        props: Properties = {"driver": driver, "fsdev": f"fsdev-{alias(device)}", "mount_tag": device.target.dir}
        return [Part("device", alias(device), props | place)]
    if not shares_memory(context.domain):
        raise ConfigUnsupported(
            "virtiofs requires one or more shared memory regions",
            hint="<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        )
    path = device.source.socket or str(context.runtime.run_dir / socket_of(device))
    address = {"type": "unix", "data": {"path": context.own(path)}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    props = {"driver": context.virtio("vhost-user-fs", device.model), "chardev": f"chr-vu-{alias(device)}"}
    props |= given({"queue-size": device.driver.queue if device.driver is not None else None}, tag=device.target.dir)
    return [Part("chardev", f"chr-vu-{alias(device)}", backend), Part("device", alias(device), props | place)]


def options(device: Filesystem) -> list[tuple[str, ...]]:
    """What QEMU serves itself."""
    if device.is_virtiofs:
        return []
    mode = device.accessmode or "passthrough"
    if mode != "mapped" and (device.fmode or device.dmode):
        raise ConfigUnsupported("fmode and dmode must be used with accessmode=mapped")
    words = ["local", f"id=fsdev-{alias(device)}", f"path={escape(device.source.dir or '')}"]
    words.append(f"security_model={SECURITY[mode]}")
    words += [f"multidevs={device.multidevs}"] if device.multidevs not in (None, "default") else []
    words += [f"fmode={device.fmode}"] if device.fmode is not None else []
    words += [f"dmode={device.dmode}"] if device.dmode is not None else []
    words += ["writeout=immediate"] if device.driver is not None and device.driver.wrpolicy is not None else []
    words += ["readonly=on"] if device.readonly else []
    return [("-fsdev", ",".join(words))]


def shares_memory(domain: Domain) -> bool:
    """Whether another process can have the guest's memory too."""
    backing = domain.memory_backing
    cells = domain.cpu.numa.cells if domain.cpu is not None and domain.cpu.numa is not None else []
    whole = backing is not None and backing.access is not None and backing.access.mode == "shared"
    return all((cell.mem_access or ("shared" if whole else "")) == "shared" for cell in cells) if cells else whole
