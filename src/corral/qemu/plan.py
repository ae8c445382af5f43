"""The plan: what one QEMU process shall consist of, as data.

A domain becomes machine-level options and an ordered list of parts in QEMU's own vocabulary (QAPI). The plan is a pure
function of the document, of what the binary can do, and of the few facts that only the start knows (`Runtime`).
`corral.qemu.render` turns it into arguments for a cold start, or into QMP commands for a hotplug.

A start goes: `defaults.complete` (at definition) → `settle` → `plan` → `render.argv`; QEMU then waits paused, the
caller runs `Plan.setup` on its monitor and lets it go on. After the guest powers off QEMU stays (it was told not to
exit) and says SHUTDOWN; the caller ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from corral.errors import ConfigUnsupported
from corral.model import displays
from corral.model.devices.chardev import Channel, ChardevSource, Console, Parallel, Serial
from corral.model.devices.controller import Controller
from corral.model.devices.crypto import Crypto
from corral.model.devices.device import Device
from corral.model.devices.disk import BackingFormat, BackingStore, Disk, DiskSource
from corral.model.devices.filesystem import Filesystem
from corral.model.devices.hostdev import PCIHostdev, USBHostdev
from corral.model.devices.hostdev_scsi import SCSIHostdev
from corral.model.devices.hub import Hub, Redirdev
from corral.model.devices.input import Input
from corral.model.devices.interface import Interface
from corral.model.devices.iommu import IOMMU
from corral.model.devices.memballoon import Memballoon
from corral.model.devices.memory import MemoryDevice
from corral.model.devices.panic import Panic
from corral.model.devices.rng import Rng
from corral.model.devices.shmem import Shmem
from corral.model.devices.smartcard import Smartcard
from corral.model.devices.sound import Sound
from corral.model.devices.tpm import TPM
from corral.model.devices.video import Video
from corral.model.devices.vsock import Vsock
from corral.model.devices.watchdog import Watchdog
from corral.model.domain import Domain
from corral.qemu import aliases, guest_memory, machine_options, vcpus
from corral.qemu.binary import Binary
from corral.qemu.context import Context
from corral.qemu.devices import (
    chardev,
    controller,
    crypto,
    disk,
    filesystem,
    graphics,
    hostdev,
    hostdev_scsi,
    input,
    interface,
    iommu,
    memory,
    platform,
    shmem,
    smartcard,
    sound,
    throttle,
    tpm,
    video,
    vsock,
)
from corral.qemu.runtime import Command, DisplayTLS, GraphicsPorts, Image, Part, PartKind, Runtime

__all__ = [
    "Command",
    "DisplayTLS",
    "GraphicsPorts",
    "Image",
    "Part",
    "PartKind",
    "Plan",
    "Runtime",
    "device_parts",
    "device_setup",
    "plan",
    "settle",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One QEMU process.

    `options`: machine-level, option and value together; `parts`: in order of creation; `setup`: QMP commands to run
    while the machine is still paused (passwords, unplugged cables, the balloon); `fds`: descriptors QEMU inherits;
    `environment`: variables beside the caller's own.
    """

    emulator: str
    options: tuple[tuple[str, ...], ...]
    parts: tuple[Part, ...]
    setup: tuple[Command, ...] = ()
    fds: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def settle(domain: Domain, runtime: Runtime) -> Domain:
    """The live document: a copy of the complete one with all that a start decides.

    Aliases, node numbers of images, backing chains, socket paths, graphics ports and addresses; idempotent. Paths of
    ptys are known only when QEMU runs: `live.set_ptys`.
    """
    live = domain.copy()
    vcpus.settle(live)
    for drive in live.devices.disks:
        _settle_sharing(drive)
        _settle_images(drive, runtime.chains.get(drive.target.dev, ()))
    for number, display in enumerate(live.devices.graphics):
        _open_display(live, number, runtime)
        if display.listens and display.listens[0].type == "socket" and display.listens[0].socket is None:
            display.listens[0].socket = str(runtime.run_dir / f"{display.type}.sock")
            display.socket = display.listens[0].socket if display.type == "vnc" else None
    for channel in live.devices.channels:
        source = channel.source
        if channel.type == "unix" and channel.target.state is None:
            channel.target.state = "disconnected"
        if channel.type == "unix" and (source is None or source.path is None):
            name = (channel.target.name or "channel").replace("/", "_")
            channel.source = source = source or ChardevSource()
            source.mode = source.mode or "bind"
            source.path = str(runtime.run_dir / f"channel-{name}")
    if runtime.nvram is not None and live.os.nvram is not None:
        live.os.nvram.path = str(runtime.nvram)
    return aliases.assign(live)


def _settle_sharing(drive: Disk) -> None:
    """What other machines write is not to be kept in this host's memory."""
    if drive.shareable and not drive.readonly and drive.device == "disk" and drive.driver is not None:
        drive.driver.cache = drive.driver.cache or "none"


def _settle_images(drive: Disk, chain: tuple[Image, ...]) -> None:
    """Write the chain down; an empty drive has no format until there is something in it."""
    if drive.source is None or drive.source.where is None:
        if drive.driver is not None:
            drive.driver.type = None
    elif drive.backing_store is None and (chain or drive.driver is None or drive.driver.type in (None, "raw")):
        drive.backing_store = _backing(chain[1:])


def _backing(images: tuple[Image, ...]) -> BackingStore:
    """The `<backingStore>` of a chain's lower images; an empty one ends it."""
    store = BackingStore()
    for image in reversed(images):
        path = str(image.path)
        store = BackingStore(
            type="block" if image.block else "file",
            format=BackingFormat.model_validate({"type": image.format}),
            source=DiskSource(dev=path) if image.block else DiskSource(file=path),
            backing_store=store,
        )
    return store


def _open_display(live: Domain, number: int, runtime: Runtime) -> None:
    display, ports = live.devices.graphics[number], runtime.graphics.get(number)
    if ports is not None and display.type in displays.SERVERS:
        display.port = ports.port if ports.port is not None else display.port
        display.tls_port = ports.tls_port if ports.tls_port is not None else display.tls_port
        display.websocket = ports.websocket if ports.websocket is not None else display.websocket
    for listen in display.listens[:1]:
        if listen.type == "address":
            display.listen = listen.address = listen.address or runtime.listen


def plan(domain: Domain, binary: Binary, runtime: Runtime) -> Plan:
    """The plan of a complete domain (`defaults.complete`); what `settle` does is done where it was not yet.

    Raises ConfigUnsupported for what the binary lacks.
    """
    context = Context.of(settle(domain, runtime), binary, runtime)
    parts = machine_options.parts(context) + throttle.groups(context)
    setup: list[Command] = []
    for device in _in_order(context.domain):
        parts += _parts(device, context)
        setup += device_setup(device)
    for display in context.domain.devices.graphics:
        setup += graphics.setup(display)
    setup += _balloon(context)
    return Plan(
        emulator=context.domain.devices.emulator or str(binary.path),
        options=tuple(machine_options.options(context)),
        parts=tuple(parts),
        setup=tuple(setup),
        fds=(*(() if runtime.monitor_fd is None else (runtime.monitor_fd,)), *runtime.fds.values()),
        environment=machine_options.environment(context),
    )


def device_parts(domain: Domain, device: Device, binary: Binary, runtime: Runtime) -> list[Part]:
    """The parts of one device, for a hotplug and its undo: the same as in the domain's own plan.

    `domain` is the live document with the device already in it, complete, aliased and addressed.
    """
    return _parts(device, Context.of(domain, binary, runtime))


def device_setup(device: Device) -> list[Command]:
    """What is set through the monitor once the device is there."""
    match device:
        case Interface():
            return interface.setup(device)
        case Disk():
            return throttle.setup(device) + disk.attach(device)
    return []


def media_parts(domain: Domain, drive: Disk, binary: Binary, runtime: Runtime) -> list[Part]:
    """The block nodes of a drive's medium alone, for changing what is in a CD-ROM drive; the top node comes last."""
    return disk.media(drive, Context.of(domain, binary, runtime))


def _balloon(context: Context) -> list[Command]:
    """Have the guest report its memory, and shrink it at once to what it shall have now."""
    domain = context.domain
    current, device = domain.current_memory, domain.devices.memballoon
    if current is None or device is None or device.model == "none" or domain.memory is None:
        return []
    commands = platform.balloon_setup(device)
    most = guest_memory.given_kib(domain)
    return [*commands, ("balloon", {"value": current.bytes})] if current.kib < most else commands


def _in_order(domain: Domain) -> list[Device]:
    """All devices, a bus before what sits on it, and a card that stays before its partner that comes and goes."""
    devices = domain.devices
    cards = sorted(devices.interfaces, key=lambda each: each.teaming is not None and each.teaming.type == "transient")
    found: list[Device] = [*devices.iommus, *sorted(devices.controllers, key=controller.plugged_first)]
    found += [*devices.hubs, *devices.disks, *devices.filesystems, *cards]
    found += [*devices.smartcards, *devices.serials, *devices.parallels]
    found += [*devices.channels, *devices.consoles, *devices.inputs, *devices.tpms, *devices.videos]
    found += [*devices.sounds, *devices.hostdevs]
    found += [*devices.redirdevs, *devices.watchdogs]
    found += [devices.memballoon] if devices.memballoon is not None else []
    found += [*devices.rngs, *devices.panics, *devices.memories, *devices.shmems, *devices.cryptos]
    return [*found, *devices.vsocks]


def _parts(device: Device, context: Context) -> list[Part]:
    match device:
        case Controller():
            return controller.parts(device, context)
        case Disk():
            return disk.parts(device, context)
        case Interface(type="hostdev"):
            return hostdev.function(device, context)
        case Interface():
            return interface.parts(device, context)
        case Serial():
            return chardev.serial(device, context)
        case Parallel():
            return chardev.parallel(device, context)
        case Channel():
            return chardev.channel(device, context)
        case Console():
            return chardev.console(device, context)
        case Input():
            return input.parts(device, context)
        case Hub():
            return input.hub(device, context)
        case Video():
            return video.parts(device, context)
        case Sound():
            return sound.parts(device, context)
        case SCSIHostdev():
            return hostdev_scsi.parts(device, context)
        case Redirdev():
            return chardev.redirdev(device, context)
        case Watchdog():
            return platform.watchdog(device, context)
        case Memballoon():
            return platform.memballoon(device, context)
        case Rng():
            return platform.rng(device, context)
        case Panic():
            return platform.panic(device, context)
        case MemoryDevice():
            return memory.parts(device, context)
        case IOMMU():
            return iommu.parts(device, context)
        case Filesystem():
            return filesystem.parts(device, context)
        case Smartcard():
            return smartcard.parts(device, context)
        case TPM():
            return tpm.parts(device, context)
        case PCIHostdev():
            return hostdev.function(device, context)
        case USBHostdev():
            return hostdev.usb_device(device, context)
        case Shmem():
            return shmem.parts(device, context)
        case Vsock():
            return vsock.parts(device, context)
        case Crypto():
            return crypto.parts(device, context)
    raise ConfigUnsupported(f"devices of class {type(device).__name__} are not supported yet")
