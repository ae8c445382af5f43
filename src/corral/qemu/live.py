"""What a running QEMU adds to the live document, and how that is taken out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from corral.model.address import DIMMAddress
from corral.model.device_set import USER_ALIAS
from corral.model.devices.chardev import Channel, Chardev, ChardevSource, Console
from corral.model.devices.device import Device
from corral.model.devices.disk import BackingStore, Disk
from corral.model.devices.interface import Interface
from corral.model.devices.memory import GuestAddress, MemoryDevice
from corral.model.domain import Domain
from corral.model.units import Size

LIBVIRT_SOCKETS = ("/run/libvirt/qemu/channel/", "/var/lib/libvirt/qemu/channel/")


def set_ptys(live: Domain, ptys: Mapping[str, str]) -> None:
    """Write the paths of ptys into the live document, in place; `ptys`: chardev id (`charserial0`) → path."""
    devices = live.devices
    chardevs: list[Chardev] = [*devices.serials, *devices.parallels, *devices.consoles, *devices.channels]
    for device in chardevs:
        path = ptys.get(f"char{device.alias.name}") if device.alias is not None and device.type == "pty" else None
        if path is not None:
            device.source = device.source or ChardevSource()
            device.source.path = path
            if device in devices.consoles:
                device.tty = path


def forget(document: Domain, run: Path) -> None:
    """Take out of a document what only a run put there, in place, so that a running machine's can be defined again.

    The id, aliases that are not the user's own (`ua-…`), paths of ptys, sockets under `run` (where the daemon keeps
    those of running machines; libvirt's own are known, too), chosen display ports, the numbers of images,
    and the names of taps.
    """
    ran, document.id = document.id is not None, None
    for device in _devices(document):
        forget_run(device)
        if isinstance(device, Chardev):
            _forget_chardev(device, run)
        elif isinstance(device, MemoryDevice) and ran:
            forget_place(device)
    for display in document.devices.graphics:
        if display.autoport == "yes":
            display.port = display.tls_port = None
        for listen in display.listens:
            if listen.socket is not None and _is_ours(listen.socket, run):
                display.socket = listen.socket = None


def forget_run(device: Device) -> None:
    """Take out of a device what means nothing in a document of another run or of none, in place.

    Its alias unless it is the user's own, the numbers of images, what a memory device gives now, the name of a tap.
    """
    if device.alias is not None and not device.alias.name.startswith(USER_ALIAS):
        device.alias = None
    if isinstance(device, Disk):
        _forget_numbers(device)
    elif isinstance(device, MemoryDevice):
        device.target.current = None
    elif isinstance(device, Interface):
        forget_link(device)


def set_memory(live: Domain, told: Iterable[Mapping[str, Any]]) -> None:
    """Write into the live document, in place, where memory devices lie and what they give (query-memory-devices)."""
    data = {str(each["data"].get("id")): each["data"] for each in told}
    for device in live.devices.memories:
        found = data.get(device.alias.name) if device.alias is not None else None
        if found is None:
            continue
        if isinstance(device.address, DIMMAddress):
            device.address.slot, device.address.base = int(found["slot"]), int(found["addr"])
            continue
        device.target.address = GuestAddress(base=int(found.get("memaddr", 0)))
        if device.model == "virtio-mem":
            device.target.current = Size(kib=int(found["size"]) // 1024)


def forget_place(device: MemoryDevice) -> None:
    """Take out of a memory device where in the guest's memory it happened to lie."""
    device.target.address = None
    if isinstance(device.address, DIMMAddress):
        device.address.base = None


def _devices(document: Domain) -> Iterator[Device]:
    for _, value in document.devices:
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Device):
                yield each


def _forget_chardev(device: Chardev, run: Path) -> None:
    source = device.source
    if isinstance(device, Channel):
        device.target.state = None
    if isinstance(device, Console):
        device.tty = None
    if source is not None and source.path is not None:
        if device.type == "pty" or (isinstance(device, Channel) and _is_ours(source.path, run)):
            source.path = None
        if device.type == "pty" or source.path is None:
            device.source = None


def forget_link(interface: Interface) -> None:
    """Take out the name that a run gave to the host's end of a card, in place; one that its user chose stays."""
    target = interface.target
    chosen = target is None or target.managed == "no"
    if not chosen and target is not None and target.dev.startswith(("vnet", "macvtap")):
        interface.target = None


def _is_ours(path: str, run: Path) -> bool:
    return Path(path).is_relative_to(run) or path.startswith(LIBVIRT_SOCKETS)


def _forget_numbers(disk: Disk) -> None:
    below: Disk | BackingStore | None = disk
    while below is not None:
        if isinstance(below, BackingStore):
            below.index = None
        if below.source is not None:
            below.source.index = None
        below = below.backing_store
