"""Trusted platform modules: the host's own, or one that swtpm emulates."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.tpm import TPM, EmulatorBackend, ExternalBackend, PassthroughBackend
from corral.qemu import descriptors
from corral.qemu.context import Context, alias
from corral.qemu.runtime import Part

HOSTS = "/dev/tpm0"


def socket_of(device: TPM) -> str:
    """The name, in the run's directory, of the socket on which the emulator waits for QEMU."""
    return f"{alias(device)}.sock"


def parts(device: TPM, context: Context) -> list[Part]:
    """The way to an emulator, or the host's files, then the device."""
    name, backend = alias(device), device.backend
    front = Part("device", name, {"driver": context.driver(device.model or "tpm-tis"), "tpmdev": f"tpm-{name}"})
    if isinstance(backend, PassthroughBackend):
        return [*_files(device, backend), front]
    own = str(context.runtime.run_dir / socket_of(device))
    path = backend.source.path if isinstance(backend, ExternalBackend) else own
    address = {"type": "unix", "data": {"path": context.own(path)}}
    return [Part("chardev", f"chr{name}", {"type": "socket", "data": {"addr": address, "server": False}}), front]


def _files(device: TPM, backend: PassthroughBackend) -> list[Part]:
    """The host's module, and the file by which a command that takes too long is cancelled."""
    path = backend.device.path if backend.device is not None else HOSTS
    cancel = f"/sys/class/tpm/{path.rpartition('/')[2]}/device/cancel"
    name = alias(device)
    return [descriptors.other(f"tpm-{name}", path, "device"), descriptors.other(f"cancel-{name}", cancel, "append")]


def options(device: TPM) -> list[tuple[str, ...]]:
    """The back end, which QEMU has no command for: it is there from the start."""
    name, backend = alias(device), device.backend
    if isinstance(backend, PassthroughBackend):
        path, cancel = (descriptors.reference(part) for part in _files(device, backend))
        return [("-tpmdev", f"passthrough,id=tpm-{name},path={path},cancel-path={cancel}")]
    if isinstance(backend, EmulatorBackend) and device.model == "tpm-crb" and backend.version == "1.2":
        raise ConfigUnsupported("TPM 1.2 is not supported with the CRB device model")
    return [("-tpmdev", f"emulator,id=tpm-{name},chardev=chr{name}")]
