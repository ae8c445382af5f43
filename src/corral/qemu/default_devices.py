"""Devices that a domain has though its document does not name them, and what a named one leaves open."""

from __future__ import annotations

import os
from collections.abc import Sequence

from corral.errors import ConfigUnsupported, XMLError
from corral.model import displays
from corral.model.address import CCIDAddress, DriveAddress, VirtioSerialAddress
from corral.model.devices.chardev import (
    Console,
    ConsoleTarget,
    ParallelTarget,
    Serial,
    SerialModel,
    SerialTarget,
)
from corral.model.devices.controller import Controller, ControllerMaster, ControllerModel
from corral.model.devices.disk import Disk, DiskDriver
from corral.model.devices.filesystem import Filesystem
from corral.model.devices.graphics import Graphics, Listen
from corral.model.devices.hostdev_scsi import Portal
from corral.model.devices.input import Input
from corral.model.devices.interface import Interface, InterfaceModel, Mac
from corral.model.devices.memballoon import Memballoon
from corral.model.devices.remote import DEFAULT_PORTS, SourceHost
from corral.model.devices.sound import Audio
from corral.model.devices.tpm import EmulatorBackend
from corral.model.devices.video import Video, VideoModel
from corral.model.devices.vsock import CID, Vsock
from corral.model.devices.watchdog import Watchdog
from corral.model.domain import Devices, Domain
from corral.model.units import ScaledSize
from corral.qemu import memory_slots
from corral.qemu.addresses import assign_drive, assign_hostdev, disk_index, namespace
from corral.qemu.binary import Binary
from corral.qemu.controllers import ensure, insert, of_type
from corral.qemu.devices import iommu
from corral.qemu.pci_slots import is_q35

MAC_PREFIX = (0x52, 0x54, 0x00)
"""The range that QEMU and KVM use."""

VIDEO_MEMORY = {"vga": 16384, "cirrus": 16384, "bochs": 16384, "vmvga": 16384, "qxl": 65536}
"""KiB."""
MASTER_PORTS = {"ich9-uhci1": 0, "ich9-uhci2": 2, "ich9-uhci3": 4}


def complete(domain: Domain, binary: Binary) -> None:
    """Fill in all devices of the document, in place, as far as addresses do not matter."""
    devices = domain.devices
    for disk in devices.disks:
        complete_disk(disk)
        assign_drive(disk)
    devices.disks = grouped(devices.disks)
    for hostdev in devices.scsi_hostdevs:
        hostdev.managed = hostdev.managed or "no"
        if hostdev.source.protocol is not None:
            hostdev.source.name = _complete_remote("iscsi", hostdev.source.hosts, hostdev.source.name) or ""
        assign_hostdev(domain, hostdev)
    for interface in devices.interfaces:
        complete_interface(interface)
    _complete_controllers(domain)
    _complete_chardevs(domain)
    _complete_inputs(domain)
    for graphics in devices.graphics:
        _complete_graphics(graphics)
    for filesystem in devices.filesystems:
        _complete_filesystem(filesystem)
    for tpm in devices.tpms:
        tpm.model = tpm.model or "tpm-tis"
        if isinstance(tpm.backend, EmulatorBackend):
            tpm.backend.version = tpm.backend.version or "2.0"
    for sound in devices.sounds:
        if sound.model == "virtio":
            sound.streams = sound.streams or 2
    _complete_video(domain, binary)
    if not devices.audios:
        devices.audios.append(_default_audio(devices))
    if is_q35(domain) and not any(watchdog.model == "itco" for watchdog in devices.watchdogs):
        actions = [watchdog.action for watchdog in devices.watchdogs]  # QEMU has one for all
        devices.watchdogs.append(Watchdog(model="itco", action=actions[0] if actions else None))
    for watchdog in devices.watchdogs:
        watchdog.action = watchdog.action or "reset"
    if devices.memballoon is None:
        devices.memballoon = Memballoon(model="virtio")
    for vsock in devices.vsocks:
        _complete_vsock(vsock)
    for panic in devices.panics:
        panic.model = panic.model or "isa"
    memory_slots.complete(domain)
    iommu.complete(domain)
    _imply_controllers(domain)


def complete_disk(disk: Disk) -> None:
    """Bus, driver and format of one disk."""
    target = disk.target
    if target.bus is None:
        target.bus = disk.bus
        if target.bus is None:
            raise XMLError(
                f"Unknown disk name '{target.dev}' and no address specified", hint="name its bus with <target bus='…'/>"
            )
    disk.driver = disk.driver or DiskDriver()
    disk.driver.name = disk.driver.name or "qemu"
    disk.driver.type = disk.driver.type or "raw"
    if disk.device == "cdrom":
        disk.readonly = True
    if disk.source is None or disk.source.where is None:
        disk.type = "file"
    else:
        disk.source.name = _complete_remote(disk.source.protocol, disk.source.hosts, disk.source.name)
    cache = disk.driver.metadata_cache
    if cache is not None and cache.max_size is not None:
        cache.max_size = ScaledSize(value=cache.max_size.bytes, unit="bytes")


def _complete_remote(protocol: str | None, hosts: Sequence[SourceHost | Portal], name: str | None) -> str | None:
    """Fill in the ports that a source elsewhere leaves open; its name, with the LUN of an iSCSI target."""
    for host in hosts:
        unix = isinstance(host, SourceHost) and host.socket is not None
        if not unix and host.port is None and protocol is not None:
            host.port = DEFAULT_PORTS[protocol]
    return f"{name}/0" if protocol == "iscsi" and name is not None and "/" not in name else name


def complete_interface(interface: Interface) -> None:
    """Card and MAC address of one interface."""
    if interface.mac is None or int(interface.mac.address.replace(":", ""), 16) == 0:
        interface.mac = Mac(address=":".join(f"{byte:02x}" for byte in (*MAC_PREFIX, *os.urandom(3))))
    if interface.model is None and interface.type != "hostdev":
        interface.model = InterfaceModel(type="rtl8139")


def _complete_filesystem(filesystem: Filesystem) -> None:
    """A directory's owners are as they are unless the document says otherwise."""
    if filesystem.source.dir is not None:
        filesystem.accessmode = filesystem.accessmode or "passthrough"


def _complete_vsock(vsock: Vsock) -> None:
    """Any number will do unless the document says one."""
    vsock.model = vsock.model or "virtio"
    vsock.cid = vsock.cid or CID()
    vsock.cid.auto = vsock.cid.auto or ("yes" if vsock.cid.address is None else "no")


def grouped(disks: list[Disk]) -> list[Disk]:
    """The disks with those of one bus together, in the order of their names, at the place of the bus's first."""
    ordered: list[Disk] = []
    for disk in disks:
        place = len(ordered)
        for position in range(len(ordered) - 1, -1, -1):
            other = ordered[position]
            if other.target.bus != disk.target.bus:
                continue
            if _number(other) <= _number(disk):
                place = position + 1 if place == len(ordered) else place
                break
            place = position
        ordered.insert(place, disk)
    return ordered


def _number(disk: Disk) -> int:
    try:
        if disk.target.bus == "nvme":
            controller, number = namespace(disk.target.dev)
            return controller << 10 | number
        return disk_index(disk.target.dev)
    except XMLError:
        return 0


def _complete_controllers(domain: Domain) -> None:
    """Indexes and models of the named controllers, and those that the machine always has."""
    controllers = domain.devices.controllers
    q35 = is_q35(domain)
    root: ControllerModel = "pcie-root" if q35 else "pci-root"
    for controller in controllers:
        if controller.index is None:
            if controller.model in ("pci-root", "pcie-root"):
                controller.index = 0
            else:
                first = 1 if controller.type == "pci" else 0
                used = {other.index for other in controllers if other.type == controller.type}
                companion = controller.model in MASTER_PORTS
                controller.index = 0 if companion else next(i for i in range(first, 65536) if i not in used)
    if not any(c.type == "usb" for c in controllers):
        insert(domain, _usb_controller(q35))
    if q35:
        ensure(domain, "sata", 0, lambda index: Controller(type="sata", index=index))
    if not any(c.type == "pci" and c.index == 0 for c in controllers):
        insert(domain, Controller(type="pci", index=0, model=root))
    for controller in controllers:
        _complete_controller(controller, q35)
        if controller.type == "pci" and controller.index == 0 and controller.model != root:
            raise ConfigUnsupported(f"machine '{domain.os.type.machine}' needs the root controller '{root}'")


def _usb_controller(q35: bool) -> Controller:
    return Controller(type="usb", index=0, model="qemu-xhci" if q35 else "piix3-uhci")


def _complete_controller(controller: Controller, q35: bool) -> None:
    match controller.type:
        case "usb" if controller.model is None:
            controller.model = "qemu-xhci" if q35 else "piix3-uhci"
        case "scsi" if controller.model in (None, "auto"):
            controller.model = "lsilogic"
        case "pci" if controller.model is None:
            raise XMLError("No model set for the pci controller")
    if controller.master is None and controller.model in MASTER_PORTS:
        controller.master = ControllerMaster(startport=MASTER_PORTS[controller.model])


def _complete_chardevs(domain: Domain) -> None:
    devices = domain.devices
    _pair_console(domain)
    for port, serial in enumerate(devices.serials):
        target = serial.target = serial.target or SerialTarget()
        if target.type is None:
            target.type = "isa-serial"
        if target.port is None:
            target.port = port
        if target.model is None:
            name = "isa-debugcon" if target.type == "isa-debug" else target.type
            if name == "system-serial":
                raise ConfigUnsupported("serial target type 'system-serial' does not exist on x86")
            target.model = SerialModel(name=name)
    for port, parallel in enumerate(devices.parallels):
        parallel.target = parallel.target or ParallelTarget()
        if parallel.target.port is None:
            parallel.target.port = port
    for port, console in enumerate(devices.consoles):
        console.target = console.target or ConsoleTarget()
        console.target.type = console.target.type or "serial"
        console.target.port = port
    for channel in devices.channels:
        if channel.target.name is None and channel.type == "spicevmc":
            channel.target.name = "com.redhat.spice.0"
        source = channel.source
        if channel.type == "unix" and source is not None and source.path is None and source.mode != "connect":
            channel.source = None


def _pair_console(domain: Domain) -> None:
    """The first console is the first serial port: each makes the other when it is missing."""
    serials, consoles = domain.devices.serials, domain.devices.consoles
    first = consoles[0] if consoles else None
    plain = first is not None and (first.target is None or first.target.type in (None, "serial"))
    if first is not None and plain:
        if not serials:
            serials.append(_serial_of(first))
        consoles[0] = _console_of(serials[0])
    elif serials and (serials[0].target is None or serials[0].target.type in (None, "isa-serial")):
        consoles.insert(0, _console_of(serials[0]))


def _serial_of(console: Console) -> Serial:
    twin = console.copy()
    return Serial(
        type=twin.type, tty=twin.tty, source=twin.source, protocol=twin.protocol, log=twin.log, alias=twin.alias
    )


def _console_of(serial: Serial) -> Console:
    twin = serial.copy()
    return Console(
        type=twin.type,
        tty=twin.tty,
        source=twin.source,
        protocol=twin.protocol,
        log=twin.log,
        target=ConsoleTarget(type="serial", port=0),
        alias=twin.alias,
    )


def _complete_inputs(domain: Domain) -> None:
    """Buses of the named ones; a PS/2 mouse and keyboard are always there unless features say otherwise."""
    inputs = domain.devices.inputs
    for device in inputs:
        if device.bus is None:
            device.bus = "usb" if device.type == "tablet" else "ps2"
    if domain.features is not None and domain.features.ps2 is not None and domain.features.ps2.state == "off":
        return
    if not any(device.type == "mouse" and device.bus == "ps2" for device in inputs):
        inputs.append(Input(type="mouse", bus="ps2"))
    if not any(device.type == "keyboard" and device.bus == "ps2" for device in inputs):
        inputs.append(Input(type="keyboard", bus="ps2"))


def _complete_graphics(graphics: Graphics) -> None:
    """Ports and listeners: `listen`, and VNC's `socket`, repeat the first `<listen>`."""
    if graphics.type not in displays.SERVERS:
        return
    if not graphics.listens:
        graphics.listens.append(_listener(graphics))
    first = graphics.listens[0]
    if first.type == "address" and first.address is not None:
        graphics.listen = graphics.listen or first.address
        if graphics.listen != first.address:
            raise XMLError("graphics 'listen' attribute does not match the address of its first <listen>")
    if first.type == "socket":
        graphics.socket = (graphics.socket or first.socket) if graphics.type == "vnc" else None
        return
    if first.type == "none":
        return
    if graphics.type == "vnc":
        if graphics.port == -1 or (graphics.port is None and graphics.autoport != "no"):
            graphics.autoport = "yes"
        graphics.port = -1 if graphics.autoport == "yes" or graphics.port is None else graphics.port
        graphics.autoport = "yes" if graphics.port == -1 else "no"
    elif graphics.autoport == "yes" or (graphics.port == -1 and graphics.tls_port == -1):
        graphics.autoport = "yes"
        graphics.port = graphics.tls_port = None
    else:
        graphics.autoport = "no"


def _listener(graphics: Graphics) -> Listen:
    if graphics.socket is not None:
        return Listen(type="socket", socket=graphics.socket)
    if graphics.type == "spice" and graphics.autoport is None and graphics.port is None and graphics.tls_port is None:
        return Listen(type="none")
    return Listen(type="address", address=graphics.listen)


def _default_audio(devices: Devices) -> Audio:
    """Sound goes where the pictures go, if that carries sound."""
    kinds = [graphics.type for graphics in devices.graphics]
    return Audio(id=1, type="spice" if "spice" in kinds else "dbus" if "dbus" in kinds else "none")


def _complete_video(domain: Domain, binary: Binary) -> None:
    devices = domain.devices
    if devices.graphics and not devices.videos:
        devices.videos.append(Video())
    for number, video in enumerate(devices.videos):
        if video.model is None:
            video.model = VideoModel(type="cirrus" if binary.has_device("cirrus-vga") else "vga")
        model = video.model
        if model.type == "none":
            continue
        if model.vram is None:
            model.vram = VIDEO_MEMORY.get(model.type)
        if model.type == "qxl":
            model.ram = model.ram or 65536
            model.vgamem = model.vgamem or 16384
        for field in ("ram", "vram", "vram64"):
            size = getattr(model, field)
            setattr(model, field, 1 << (size - 1).bit_length() if size else size)
        model.heads = model.heads or 1
        if number == 0:
            model.primary = "yes"
        elif model.primary == "yes":
            raise ConfigUnsupported("only the first video device can be the primary one")


def _imply_controllers(domain: Domain) -> None:
    """Controllers for the disks and channels that need them."""
    q35 = is_q35(domain)
    highest: dict[str, int] = {}
    for disk in domain.devices.disks:
        if isinstance(disk.address, DriveAddress) and disk.target.bus is not None:
            bus = disk.target.bus
            highest[bus] = max(highest.get(bus, -1), disk.address.controller)
    if "ide" in highest and q35:
        raise ConfigUnsupported("IDE controllers are unsupported for this QEMU binary or machine type")
    if highest.get("ide", 0) > 0:
        raise ConfigUnsupported("Only a single IDE controller is supported for this machine type")
    for hostdev in domain.devices.scsi_hostdevs:
        if isinstance(hostdev.address, DriveAddress):
            highest["scsi"] = max(highest.get("scsi", -1), hostdev.address.controller)
    ensure(domain, "scsi", highest.get("scsi", -1), lambda i: Controller(type="scsi", index=i, model="lsilogic"))
    ensure(domain, "ide", highest.get("ide", -1), lambda i: Controller(type="ide", index=i))
    ensure(domain, "sata", highest.get("sata", -1), lambda i: Controller(type="sata", index=i))
    ensure(domain, "nvme", highest.get("nvme", -1), lambda i: Controller(type="nvme", index=i))
    _number_drives(domain)
    cards = [card.address.controller for card in domain.devices.smartcards if isinstance(card.address, CCIDAddress)]
    highest_reader = max(cards, default=len(domain.devices.smartcards) - 1)
    ensure(domain, "ccid", highest_reader, lambda i: Controller(type="ccid", index=i))
    ensure(domain, "virtio-serial", _virtio_serials(domain), lambda i: Controller(type="virtio-serial", index=i))


def _number_drives(domain: Domain) -> None:
    """The serial number that a disk on NVMe names is its controller's: that is what guests call the drive."""
    drives = {controller.index: controller for controller in of_type(domain, "nvme")}
    for disk in domain.devices.disks:
        if disk.target.bus == "nvme" and disk.serial is not None and isinstance(disk.address, DriveAddress):
            drive = drives[disk.address.controller]
            drive.serial = drive.serial or disk.serial
            if drive.serial != disk.serial:
                raise ConfigUnsupported(
                    f"the namespaces of NVMe controller {drive.index} have one serial number, '{drive.serial}'",
                    hint=f"disk '{disk.target.dev}' names another",
                )


def _virtio_serials(domain: Domain) -> int:
    """The highest index of a virtio-serial controller that is needed; -1 for none."""
    needed = [0 for _ in domain.devices.channels]
    needed += [0 for console in domain.devices.consoles if console.is_virtio]
    for device in (*domain.devices.channels, *domain.devices.consoles):
        if isinstance(device.address, VirtioSerialAddress):
            needed.append(device.address.controller)
    return max(needed, default=-1)
