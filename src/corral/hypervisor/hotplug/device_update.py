"""Changing a device in place: a drive's medium, an interface's cable, a display's password, the balloon's period, a
virtio-mem's size, a watchdog's action.

What else a document says of the device must be as it is; a difference is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.errors import ConfigUnsupported, DeviceMissing, OperationUnsupported
from corral.hypervisor.devices import cards
from corral.hypervisor.disks import media
from corral.hypervisor.displays import display_update
from corral.hypervisor.hotplug.device_changes import Change, Edit, carry_out, write

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.devices.disk import Disk
    from corral.model.devices.interface import Interface
    from corral.model.devices.memballoon import Memballoon
    from corral.model.devices.memory import MemoryDevice
    from corral.model.devices.watchdog import Watchdog
    from corral.model.domain import Domain as DomainDocument
    from corral.model.element import Element
    from corral.qemu.runtime import Command

#: What a document of the same device may leave out or say otherwise.
_NAMES = ("alias", "address")


async def run_update(domain: Domain, run: Run, wanted: Element, *, force: bool, config: Edit | None) -> None:
    """Bring a device of the running machine to what `wanted` says."""
    from corral.model import device_set
    from corral.model.devices.disk import Disk
    from corral.model.devices.graphics import Graphics
    from corral.model.devices.interface import Interface
    from corral.model.devices.memballoon import Memballoon
    from corral.model.devices.memory import MemoryDevice
    from corral.model.devices.watchdog import Watchdog

    match wanted:
        case Disk():
            await _update_disk(domain, run, wanted, force=force, config=config)
        case Interface():
            await _update_interface(domain, run, wanted, config)
        case Graphics():
            await display_update.update(domain, run, wanted, config)
        case Memballoon():
            await _update_balloon(domain, run, wanted, config)
        case MemoryDevice():
            await _update_memory(domain, run, wanted, config)
        case Watchdog():
            await _update_watchdog(domain, run, wanted, config)
        case _:
            raise ConfigUnsupported(f"live update of device '{device_set.kind(wanted)}' is not supported")


def config_edit(wanted: Element) -> Edit:
    """The edit that puts `wanted` into a definition in place of the device it means."""
    from corral.model import device_set
    from corral.model.devices.disk import Disk
    from corral.model.devices.graphics import Graphics
    from corral.model.devices.interface import Interface
    from corral.model.devices.memballoon import Memballoon
    from corral.model.devices.memory import MemoryDevice
    from corral.model.devices.watchdog import Watchdog

    if isinstance(wanted, Watchdog):
        return _dogs_edit(wanted)
    if not isinstance(wanted, Disk | Interface | Graphics | Memballoon | MemoryDevice):
        raise OperationUnsupported(f"persistent update of device '{device_set.kind(wanted)}' is not supported")

    def edit(document: DomainDocument) -> None:
        if isinstance(wanted, Graphics):
            display_update.put(document, wanted.copy())
            return
        new = _of_definition(wanted)
        if isinstance(new, Memballoon):
            document.devices.memballoon = new
            return
        if isinstance(new, MemoryDevice):
            old: Device = _module(document, new)
            if different := _differences(old, new, "target") or _target_differences(old, new):
                raise OperationUnsupported(f"cannot modify '{different[0]}' of the memory device")
        else:
            old = device_set.find(document, new)
        if new.address is None:
            new.address = old.address
        if isinstance(new, Disk) and isinstance(old, Disk):
            new.target.bus = new.target.bus or old.target.bus
        device_set.replace(document, old, new)

    return edit


def _of_definition(device: Device) -> Device:
    """A copy without what belongs to a run."""
    from corral.model.devices.disk import Disk
    from corral.model.devices.memory import MemoryDevice
    from corral.qemu import live

    twin = device.copy()
    live.forget_run(twin)
    if isinstance(twin, Disk):
        twin.target.tray = None
        if twin.backing_store is not None and twin.backing_store.terminator:
            twin.backing_store = None
    elif isinstance(twin, MemoryDevice):
        live.forget_place(twin)
    return twin


def _differences(old: Element, new: Element, *apart: str) -> list[str]:
    """The fields of which `new` says something else than is so, but for those named."""
    before, after = old.to_data(secure=True), new.to_data(secure=True)
    kept = [name for name in {**before, **after} if name not in (*apart, *_NAMES)]
    return [name for name in kept if name in after and not _agrees(before.get(name), after[name])]


def _agrees(before: Any, after: Any) -> bool:
    if isinstance(after, dict) and isinstance(before, dict):
        return all(_agrees(before.get(name), value) for name, value in after.items())
    return bool(before == after)


async def _update_disk(domain: Domain, run: Run, wanted: Disk, *, force: bool, config: Edit | None) -> None:
    from corral.model import device_set
    from corral.model.devices.disk import Disk

    drive = device_set.find(run.live.document, wanted)
    assert isinstance(drive, Disk)
    new = wanted.copy()
    if new.driver is not None:
        new.driver.type = None
    new.target.tray = None
    if different := _differences(drive, new, "source", "backing_store", "type"):
        raise OperationUnsupported(f"cannot modify field '{different[0]}' of the disk")
    paths = [disk.source.where if disk.source is not None else None for disk in (drive, wanted)]
    if paths[0] == paths[1] and not (force and paths[1] is None):
        await write(domain, None, Change(config=config))
        return
    if drive.device != "cdrom":
        raise ConfigUnsupported("disk source can be changed only in removable drives")
    await media.run_change(domain, run, drive, wanted, force=force, config=config)


_INTERFACE_TEXTS = {
    "model": "cannot modify network device model from {old} to {new}",
    "boot": "cannot modify network device boot index setting",
    "rom": "cannot modify network device rom bar setting",
    "mtu": "cannot modify MTU",
    "driver": "cannot modify virtio network device driver attributes",
    "backend": "cannot modify network device backend settings",
    "target": "cannot modify network device tap name",
    "type": "cannot change network interface type to '{new}'",
}


async def _update_interface(domain: Domain, run: Run, wanted: Interface, config: Edit | None) -> None:
    from corral.model import device_set, interface_rules
    from corral.model.devices.interface import Interface

    card = device_set.find(run.live.document, wanted)
    assert isinstance(card, Interface)
    for _, message, error in interface_rules.objections(wanted, run.live.document):
        raise error(message)
    changeable = ("link", "mac", "bandwidth", *(("source", "port") if card.type == "bridge" else ()))
    if different := _differences(card, wanted, *changeable):
        name = different[0]
        old, new = (_shown(getattr(each, name)) for each in (card, wanted))
        text = _INTERFACE_TEXTS.get(name, f"cannot modify '{name}' of the network interface")
        if card.lent is not None and name not in _INTERFACE_TEXTS:
            text = "unable to change config on 'hostdev' network type"
        raise OperationUnsupported(text.format(old=old, new=new))
    await cards.change(domain, run, card, wanted, config)


def _shown(value: Any) -> str:
    return str(getattr(value, "type", value))


def _alias(device: Device) -> str:
    return device.alias.name if device.alias is not None else ""


async def _update_balloon(domain: Domain, run: Run, wanted: Memballoon, config: Edit | None) -> None:
    """How often the guest reports its memory."""
    balloon = run.live.document.devices.memballoon
    if balloon is None or balloon.model == "none" or _differences(balloon, wanted, "stats"):
        raise OperationUnsupported("only the period of the memory balloon's statistics can be changed")

    def command(device: Memballoon) -> Command:
        period = device.stats.period if device.stats is not None else None
        path = f"/machine/peripheral/{_alias(balloon)}"
        return "qom-set", {"path": path, "property": "guest-stats-polling-interval", "value": period or 0}

    def edit(document: DomainDocument) -> None:
        if document.devices.memballoon is not None:
            changed = document.devices.memballoon.copy()
            changed.stats = wanted.stats.copy() if wanted.stats is not None else None
            document.devices.memballoon = changed

    await carry_out(domain, run, [command(wanted)], Change(live=edit, base=edit, config=config), [command(balloon)])


async def _update_watchdog(domain: Domain, run: Run, wanted: Watchdog, config: Edit | None) -> None:
    """What happens when the guest stops feeding it: one action, for all watchdogs of a machine."""
    from corral.qemu import plugging

    edit = _dogs_edit(wanted)
    dogs = run.live.document.devices.watchdogs
    edit(run.live.document.copy())  # refuses what is not there
    await carry_out(
        domain,
        run,
        list(plugging.after(wanted)),
        Change(live=edit, base=edit, config=config),
        list(plugging.after(dogs[0])),
    )


def _dogs_edit(wanted: Watchdog) -> Edit:
    """The edit that gives all watchdogs the action of the one that is meant."""

    def edit(document: DomainDocument) -> None:
        dogs = document.devices.watchdogs
        if not any(dog.model == wanted.model for dog in dogs):
            raise DeviceMissing(f"the domain has no watchdog of model {wanted.model}")
        document.devices.watchdogs = changed = [dog.copy() for dog in dogs]
        for dog in changed:
            dog.action = wanted.action or "reset"

    return edit


def _module(document: DomainDocument, wanted: MemoryDevice) -> MemoryDevice:
    """The memory device that is meant: by its alias, else by its place, else the only one of its kind and node."""
    alias, place = _alias(wanted), wanted.address
    found = [each for each in document.devices.memories if each.model == wanted.model]
    if alias and any(_alias(each) for each in found):
        found = [each for each in found if _alias(each) == alias]
    elif place is not None:
        found = [each for each in found if str(each.address) == str(place)]
    else:
        found = [each for each in found if each.target.node == (wanted.target.node or 0)]
    if len(found) != 1:
        raise DeviceMissing("matching memory device was not found")
    return found[0]


def _target_differences(old: Device, new: MemoryDevice) -> list[str]:
    from corral.model.devices.memory import MemoryDevice

    assert isinstance(old, MemoryDevice)
    return _differences(old.target, new.target, "requested", "current", "address")


async def _update_memory(domain: Domain, run: Run, wanted: MemoryDevice, config: Edit | None) -> None:
    """How much a virtio-mem gives the guest, which does it in its own time: `<current>` tells what it has."""
    from corral.model import device_set
    from corral.qemu.devices import memory

    device = _module(run.live.document, wanted)
    if different := _differences(device, wanted, "target") or _target_differences(device, wanted):
        raise OperationUnsupported(f"cannot modify '{different[0]}' of the memory device")
    if device.model != "virtio-mem":
        raise ConfigUnsupported(f"cannot modify memory of model '{device.model}'")

    from corral.model.devices.memory import MemoryDevice

    def edit(document: DomainDocument) -> None:
        found = device_set.twin(document, device)
        if isinstance(found, MemoryDevice):
            changed = found.copy()
            changed.target.requested = wanted.target.requested
            device_set.replace(document, found, changed)
            document.check()

    kib, before = (each.target.requested.kib if each.target.requested else 0 for each in (wanted, device))
    edit(device_set.shared(run.live.document))  # refuses what makes no sense before QEMU hears of it
    back = [memory.request(device, before)]
    await carry_out(domain, run, [memory.request(device, kib)], Change(live=edit, base=edit, config=config), back)
