"""Attaching, detaching and updating a domain's devices, as libvirt's procedures of these names.

`flags` are virDomainDeviceModifyFlags: LIVE, CONFIG, both, or neither for what the domain is now; FORCE opens a tray
that the guest holds. Where both are wanted and one is refused, neither happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corral.constants import DomainDeviceModifyFlags, DomainEventDefinedDetailType, DomainEventType
from corral.errors import DeviceMissing, InternalError, OperationFailed, OperationInvalid, OperationUnsupported
from corral.hypervisor.devices import vsock
from corral.hypervisor.disks import media
from corral.hypervisor.events import Lifecycle
from corral.hypervisor.hotplug import device_update, plug, unplug
from corral.hypervisor.hotplug.device_changes import Change, Edit, begun, configured, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from corral.hypervisor.domain import Domain
    from corral.model.devices.device import Device
    from corral.model.domain import Domain as DomainDocument

#: Families that a definition has one of, or whose members it makes itself.
_NOT_IN_DEFINITIONS = ("memballoon", "graphics", "video", "panic", "audio", "vcpu")


async def attach(domain: Domain, xml: str, flags: int = 0) -> None:
    """Give the domain one more device; returns when it is in the machine, in the documents, or in both."""
    from corral.qemu import plugging

    device = _device(xml, "attach")

    async def work() -> None:
        live, config = _impact(domain, flags)
        run = domain.require_run() if live else None
        if run is None:
            await write(domain, None, Change(config=attached(device)))
            return
        old = _drive_of(run.live.document, device) if not config else None
        if old is not None:  # to attach a CD-ROM where there is a drive is to put it in
            await media.run_change(domain, run, old, device, force=False)  # type: ignore[arg-type]
            return
        plugging.refuse(run.live.document, device)  # before the host opens anything for it
        own = device.copy()
        with vsock.opened([own]) as ends:
            prepared, chains = await plug.prepare(domain, run, own)
            edit = await _fitting(domain, prepared.plain, device) if config else None
            await plug.run_plug(domain, run, prepared, chains, edit, ends)

    await _change(domain, "attach device", flags, work)


async def _fitting(domain: Domain, plain: Sequence[Device], device: Device) -> Edit:
    """The edit that puts what is plugged into the definition, at the same places unless others are there."""
    edit = attached(*plain)
    try:
        await configured(domain, edit)
    except DeviceMissing:
        raise
    except Exception:
        edit = attached(device)
        await configured(domain, edit)
    return edit


async def detach(domain: Domain, xml: str, flags: int = 0) -> None:
    """Take a device away; returns when the guest has let go of it. DeviceMissing when there is none like that."""
    device = _device(xml, "detach")

    async def work() -> None:
        live, config = _impact(domain, flags)
        edit = detached(device) if config else None
        if (run := await begun(domain, edit, live=live)) is not None:
            await _unplug(domain, _running(run.live.document, device), edit)

    await _change(domain, "detach device", flags, work)


async def detach_alias(domain: Domain, alias: str, flags: int = 0) -> None:
    """Take away the device with that alias. InternalError, as libvirt has it, when there is none."""
    from corral.model import device_set

    def named(document: DomainDocument) -> Device:
        found = device_set.by_alias(document, alias)
        if found is None:
            raise InternalError(f"no device found with alias {alias}")
        return found

    def edit(document: DomainDocument) -> None:
        device_set.remove(document, named(document))

    async def work() -> None:
        live, config = _impact(domain, flags)
        later = edit if config else None
        if (run := await begun(domain, later, live=live)) is not None:
            await _unplug(domain, named(run.live.document), later)

    await _change(domain, "detach device", flags, work)


async def update(domain: Domain, xml: str, flags: int = 0) -> None:
    """Change a device in place: medium, cable, password, as far as a running machine can."""
    from corral.model import device_set

    device = device_set.read(xml)

    async def work() -> None:
        live, config = _impact(domain, flags)
        edit = device_update.config_edit(device) if config else None
        force = bool(flags & DomainDeviceModifyFlags.FORCE)
        if (run := await begun(domain, edit, live=live)) is not None:
            await device_update.run_update(domain, run, device, force=force, config=edit)

    await _change(domain, "update device", flags, work)


async def _change(domain: Domain, what: str, flags: int, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work in the job slot, and tell of a definition that is another by it."""

    async def told() -> None:
        _, config = _impact(domain, flags)
        await work()
        if config:
            event = Lifecycle(domain.identity(), DomainEventType.DEFINED, DomainEventDefinedDetailType.UPDATED)
            domain.hypervisor.events.emit(event)

    await domain.change(what, told)


def _device(xml: str, what: str) -> Device:
    from corral.model import device_set
    from corral.model.devices.device import Device

    device = device_set.read(xml)
    if not isinstance(device, Device):
        raise OperationUnsupported(f"live {what} of device '{device_set.kind(device)}' is not supported")
    return device


def _running(live: DomainDocument, device: Device) -> Device:
    """The device of the running machine that a client means; the error's code is libvirt's, kind by kind."""
    from corral.model import device_set

    try:
        return device_set.find(live, device)
    except DeviceMissing as error:
        if device_set.kind(device) == "redirdev":
            raise OperationInvalid(error.detail) from error
        raise


def _impact(domain: Domain, flags: int) -> tuple[bool, bool]:
    return domain.impact(flags & ~DomainDeviceModifyFlags.FORCE)


async def _unplug(domain: Domain, device: Device, config: Edit | None) -> None:
    from corral.qemu import plugging

    run = domain.require_run()
    plugging.refuse_unplug(run.live.document, device)
    await unplug.run_unplug(domain, run, device, config)


def attached(*devices: Device) -> Edit:
    """The edit that puts devices into a definition."""
    from corral.model import device_set
    from corral.model.devices.disk import Disk
    from corral.model.devices.memory import MemoryDevice
    from corral.model.devices.vsock import Vsock
    from corral.qemu import live, memory_slots, plugging

    for device in devices:
        if device_set.kind(device) in _NOT_IN_DEFINITIONS:
            raise OperationUnsupported(f"persistent attach of device '{device_set.kind(device)}' is not supported")

    def edit(document: DomainDocument) -> None:
        for device in devices:
            if isinstance(device, Disk) and any(d.target.dev == device.target.dev for d in document.devices.disks):
                raise OperationFailed(f"target {device.target.dev} already exists")
            if isinstance(device, Vsock) and document.devices.vsocks:
                raise OperationInvalid("domain already has a vsock device")
            new = device.copy()
            live.forget_run(new)
            if isinstance(new, MemoryDevice):
                memory_slots.refuse_unfit(document, new)
            plugging.insert(document, new)

    return edit


def detached(device: Device) -> Edit:
    """The edit that takes out of a definition the device that a client means."""
    from corral.model import device_set
    from corral.model.devices.disk import Disk
    from corral.model.devices.vsock import Vsock

    if device_set.kind(device) in _NOT_IN_DEFINITIONS:
        raise OperationUnsupported(f"persistent detach of device '{device_set.kind(device)}' is not supported")

    def edit(document: DomainDocument) -> None:
        wanted = device.copy()
        if wanted.alias is not None and not wanted.alias.name.startswith(device_set.USER_ALIAS):
            wanted.alias = None
        try:
            found = device_set.find(document, wanted)
        except DeviceMissing:
            if isinstance(wanted, Disk):
                raise DeviceMissing(f"no target device {wanted.target.dev}") from None
            if isinstance(wanted, Vsock):
                raise OperationFailed("matching vsock device not found") from None
            raise
        device_set.remove(document, found)

    return edit


def _drive_of(document: DomainDocument, device: Device) -> Device | None:
    """The CD-ROM drive that is already where a CD-ROM is attached."""
    from corral.model.devices.disk import Disk

    if not isinstance(device, Disk) or device.device != "cdrom":
        return None
    return next((d for d in document.devices.disks if d.target.dev == device.target.dev and d.device == "cdrom"), None)
