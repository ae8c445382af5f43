"""PCI functions (by VFIO) and SCSI devices of the host: claimed at a start or a plug, given back as they were.

What a run has is in the store before anything of it is changed, with what it was before: the next daemon gives back
what a run that is over has left, and what a plug has that was not completed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from corral.errors import CorralError, HostError
from corral.host import scsi, vfio
from corral.hypervisor.outlasting import completed, in_thread

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.devices.disk import Disk
    from corral.model.devices.hostdev import PCIHostdev
    from corral.model.devices.interface import Interface
    from corral.model.domain import Domain as DomainDocument
    from corral.network.function import Identity

log = logging.getLogger(__name__)

LOCKED_BESIDES = 1 << 30
"""Bytes for the windows of the cards themselves."""
_NOTE = "lent to "


@dataclass(frozen=True, slots=True)
class Lent:
    """How a thing is given back.

    A function to the host's driver (`managed`), and as which network card (`mac`, `vlan`); the `file` by which QEMU's
    account drives it (a SCSI device's, or that of a function's group) to its `owner`. `alias` is that of the device
    which has it.
    """

    alias: str
    managed: bool = False
    mac: str | None = None
    vlan: int = 0
    file: str | None = None
    owner: int = 0


async def claim(domain: Domain, run: Run, devices: Iterable[Device]) -> None:
    """Have those of the devices that are the host's ready for QEMU: all of them, or none.

    Raises DeviceMissing, or HostError that says what stands in the way.
    """
    wanted: dict[str, Device] = {}
    for device in devices:
        if (name := _name(device)) is not None:
            if name in wanted and _is_function(device):
                raise HostError(f"host device {name} is lent twice", hint="a PCI function, all of it, is one device's")
            wanted[name] = device
    if not wanted:
        return
    for name, device in wanted.items():
        for other in domain.hypervisor.domains():
            if other.run is not None and name in other.run.lent and not _shared(device):
                raise HostError(f"host device {name} is in use by domain '{other.name}'")
    run.lent |= {name: Lent(_alias(device)) for name, device in wanted.items()}  # nobody else's while we look
    try:
        before = await in_thread(_as_they_are, wanted, domain.hypervisor.account)
        owners = {lent.file: lent.owner for lent in _all_lent(domain.hypervisor)}  # of files that are the account's now
        run.lent |= {n: replace(lent, owner=owners.get(lent.file, lent.owner)) for n, lent in before.items()}
        await completed(_write_down(domain.hypervisor, run))
        await in_thread(_take, wanted, domain.hypervisor.account)
    except BaseException:
        await release(domain, run, wanted.values())
        raise


def _name(device: Device) -> str | None:
    """The host's name of a device that is lent here: a PCI function's address, a SCSI device's place; None: no such."""
    from corral.model.devices.hostdev_scsi import SCSIHostdev

    if isinstance(device, SCSIHostdev):
        return device.source.place
    return str(device.lent) if _is_function(device) and device.lent is not None else None


def _is_function(device: Device) -> TypeGuard[PCIHostdev | Interface | Disk]:
    """Whether it is a PCI function, if it is lent at all."""
    from corral.model.devices.disk import Disk
    from corral.model.devices.hostdev import PCIHostdev
    from corral.model.devices.interface import Interface

    return isinstance(device, PCIHostdev | Interface | Disk)


def _shared(device: Device) -> bool:
    """Whether another machine may have it, too: SCSI devices that say so."""
    return not _is_function(device) and bool(getattr(device, "shareable", False))


def _alias(device: Device) -> str:
    return device.alias.name if device.alias is not None else ""


def _as_they_are(wanted: Mapping[str, Device], account: Account | None) -> dict[str, Lent]:
    return {name: _as_it_is(name, device, account is not None) for name, device in wanted.items()}


def _as_it_is(name: str, device: Device, given: bool) -> Lent:
    """With its file, where that is `given` to an account."""
    from corral.model.devices.interface import Interface

    lent = Lent(_alias(device))
    if given:
        file = _file_of(name, device)
        # That of a group is there while VFIO has any function of it, and made as root's.
        lent = replace(lent, file=file, owner=Path(file).stat().st_uid if Path(file).exists() else 0)
    if _is_function(device):
        lent = replace(lent, managed=_managed(device))
    if isinstance(device, Interface):
        from corral.network import function

        before = function.identity(function.of(name))
        lent = replace(lent, mac=before.mac, vlan=before.vlan)
    return lent


def _file_of(name: str, device: Device) -> str:
    """By its name and not as a descriptor: QEMU looks there whether a SCSI device is a generic one."""
    from corral.model.devices.hostdev_scsi import SCSIHostdev

    return scsi.generic_of(name) if isinstance(device, SCSIHostdev) else str(vfio.file_of(name))


def _managed(device: PCIHostdev | Interface | Disk) -> bool:
    """Whether the function goes back to a driver: one that was VFIO's before stays there."""
    return device.managed == "yes" and vfio.driver_of(vfio.place_of(str(device.lent))) != vfio.DRIVER


def _take(wanted: Mapping[str, Device], account: Account | None) -> None:
    from corral.model.devices.interface import Interface

    for name, device in wanted.items():
        if _is_function(device):
            vfio.claim(name, managed=device.managed == "yes")
        if isinstance(device, Interface):
            from corral.network import function

            function.become(function.of(name), _identity(device))
        if account is not None:
            file = _file_of(name, device)
            try:
                os.chown(file, account.uid, -1)
            except OSError as error:
                raise HostError(f"cannot give {file} to {account.name}: {error.strerror}") from error


def _identity(card: Interface) -> Identity:
    from corral.network.function import Identity

    assert card.mac is not None
    return Identity(card.mac.address.lower(), card.vlan.tags[0].id if card.vlan is not None else 0)


async def release(domain: Domain, run: Run, devices: Iterable[Device] | None = None) -> None:
    """Give back what the run has for these devices, or all it has; raises only that it was cancelled, at the end."""
    await completed(_release(domain, run, devices))


async def _release(domain: Domain, run: Run, devices: Iterable[Device] | None) -> None:
    going = None if devices is None else {(_name(each), _alias(each)) for each in devices}
    given = {name: lent for name, lent in run.lent.items() if going is None or (name, lent.alias) in going}
    if not given:
        return
    await asyncio.to_thread(_give_back, _alone(domain.hypervisor, given))
    for name in given:
        run.lent.pop(name, None)
    try:
        await _write_down(domain.hypervisor, run)
    except CorralError:
        log.exception("domain %s: cannot note that host devices were given back", domain.name)


def _all_lent(hypervisor: Hypervisor) -> list[Lent]:
    return [lent for each in hypervisor.domains() if each.run is not None for lent in each.run.lent.values()]


def _alone(hypervisor: Hypervisor, going: Mapping[str, Lent]) -> dict[str, Lent]:
    """Those without files that others, which stay, have too: a shared device's, or that of a group."""
    stay = {lent.file for lent in _all_lent(hypervisor) if not any(lent is each for each in going.values())}
    return {name: replace(lent, file=None) if lent.file in stay else lent for name, lent in going.items()}


def _give_back(going: Mapping[str, Lent]) -> None:
    for name, lent in going.items():
        for undo in (_undress, _unbind, _disown):
            try:
                undo(name, lent)
            except (CorralError, OSError) as error:
                log.warning("host device %s is not as it was: %s", name, error)
            except Exception:  # the others are given back all the same, also where a daemon begins
                log.exception("host device %s is not as it was", name)


def _undress(name: str, lent: Lent) -> None:
    if lent.mac is not None:
        from corral.network import function

        function.become(function.of(name), function.Identity(lent.mac, lent.vlan))


def _unbind(name: str, lent: Lent) -> None:
    if lent.managed:
        vfio.release(name)


def _disown(_name: str, lent: Lent) -> None:
    if lent.file is not None:
        with contextlib.suppress(FileNotFoundError):  # a group's goes with the last function that VFIO has of it
            os.chown(lent.file, lent.owner, -1)


async def _write_down(hypervisor: Hypervisor, run: Run) -> None:
    name = f"{_NOTE}{run.id}"
    if run.lent:
        lent = {name: asdict(each) for name, each in run.lent.items()}
        await hypervisor.store.set_meta(name, json.dumps({"boot": hypervisor.boot, "lent": lent}))
    else:
        await hypervisor.store.drop_meta(name)


async def take_up(domain: Domain, run: Run) -> None:
    """Know again what a run of an earlier daemon's has."""
    note = await domain.hypervisor.store.meta(f"{_NOTE}{run.id}")
    run.lent = _read(note) if note is not None else {}


def _read(note: str) -> dict[str, Lent]:
    return {name: Lent(**each) for name, each in json.loads(note)["lent"].items()}


async def sweep(hypervisor: Hypervisor) -> None:
    """Give back what runs have that are over, and what a plug has left behind."""
    from corral.model.device_set import all_of

    runs = {domain.run.id: domain for domain in hypervisor.domains() if domain.run is not None}
    for key, note in (await hypervisor.store.metas(_NOTE)).items():
        domain = runs.get(int(key.removeprefix(_NOTE)))
        if domain is None or domain.run is None:
            if json.loads(note)["boot"] == hypervisor.boot:
                await asyncio.to_thread(_give_back, _alone(hypervisor, _read(note)))
            await hypervisor.store.drop_meta(key)
            continue
        used = {(_name(each), _alias(each)) for each in all_of(domain.run.live.document)}
        left = {name: lent for name, lent in domain.run.lent.items() if (name, lent.alias) not in used}
        await asyncio.to_thread(_give_back, _alone(hypervisor, left))
        for name in left:
            domain.run.lent.pop(name)
        await _write_down(hypervisor, domain.run)


def allow_locking(pid: int, document: DomainDocument) -> None:
    """Let a QEMU lock its guest's memory, as VFIO does for a card that reads and writes it."""
    from corral.model.device_set import all_of

    if document.memory is not None and any(getattr(each, "lent", None) is not None for each in all_of(document)):
        limit = document.memory.bytes + LOCKED_BESIDES
        try:
            resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (limit, limit))
        except OSError as error:
            log.warning("QEMU %d may not lock its guest's memory: %s", pid, error.strerror)
