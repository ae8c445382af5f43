"""USB devices that a client gives a running machine over its own connection.

A slot is a `<redirdev>` on a UNIX socket in the run's directory: plugged in when the client comes, taken out when
either side ends. The client may name a slot that the document declares instead, which stays. In between the daemon
carries bytes, and ends the redirection when one of the two breaks the protocol (`corral.usb.inspection`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import CorralError, DeviceMissing, InvalidArgument, ResourceBusy
from corral.hypervisor.guest import stream
from corral.hypervisor.guest.stream import ByteStream
from corral.hypervisor.hotplug import plug, unplug

if TYPE_CHECKING:
    from collections.abc import Callable

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.devices.hub import Redirdev

log = logging.getLogger(__name__)

#: What the sockets of slots that come and go with a client are called in the run's directory, before some digits.
PREFIX = "usb-"
#: Seconds between two attempts to take out a slot while something else is done to its domain.
AGAIN = 5.0


class Carried(ByteStream):
    """The client's device on one side, QEMU's slot on the other: both are made to keep to the protocol."""

    def __init__(self, slot: ByteStream) -> None:
        from corral.usb.inspection import Inspection

        self._slot = slot
        self._inspection = Inspection()

    async def read(self, limit: int = 65536) -> bytes:
        """Bytes of the guest's side."""
        data = await self._slot.read(limit)
        self._inspection.pass_on("guest", data)
        return data

    async def write(self, data: bytes) -> None:
        """Bytes of the device's side."""
        self._inspection.pass_on("host", data)
        await self._slot.write(data)

    def close(self) -> None:
        """Let go of the slot."""
        self._slot.close()


async def redirect(domain: Domain, *, slot: str | None, bus: int | None, speed: int) -> tuple[str, ByteStream]:
    """A slot for one device, and the stream to it: the slot's alias and usbredir's bytes, we being QEMU's peer.

    `slot` is the alias of a declared `<redirdev>` that waits for a connection; without one a slot is plugged in, on the
    USB controller `bus` or on the one that fits a device of this `speed` (`packets.Speed`).
    """
    if slot is not None:
        return slot, await _declared(domain, slot)
    return await domain.change("plug in a USB slot", lambda: _plugged(domain, bus, speed))


async def _declared(domain: Domain, alias: str) -> ByteStream:
    from corral.model import device_set
    from corral.model.devices.hub import Redirdev

    run = domain.require_run()
    device = device_set.by_alias(run.live.document, alias)
    if not isinstance(device, Redirdev):
        raise DeviceMissing(f"no redirected USB device with alias {alias}")
    path = device.source.path if device.source is not None else None
    if device.type != "unix" or path is None or device.source is None or device.source.mode == "connect":
        raise InvalidArgument(f"'{alias}' is not a UNIX socket that QEMU listens on", hint="leave the slot out")
    if alias in run.sessions or not await _waits(run, alias):
        raise ResourceBusy(f"'{alias}' has its device already")
    return await _opened(run, alias, path, lambda: None)


async def _waits(run: Run, alias: str) -> bool:
    """Whether nobody is connected to the slot's socket."""
    chardevs = await run.require_machine().monitor.execute("query-chardev")
    names = {str(each["label"]): str(each["filename"]) for each in chardevs}
    return names.get(f"char{alias}", "").startswith("disconnected:")


async def _opened(run: Run, alias: str, path: str, ended: Callable[[], None]) -> ByteStream:
    """The connection to a slot's socket; one at a time."""

    def closed() -> None:
        if run.sessions.get(alias) is opened:
            del run.sessions[alias]
        ended()

    opened = Carried(await stream.open_socket(path, closed))
    run.sessions[alias] = opened
    return opened


async def _plugged(domain: Domain, bus: int | None, speed: int) -> tuple[str, ByteStream]:
    """A new slot; the job slot is held."""
    run = domain.require_run()
    prepared, chains = await plug.prepare(domain, run, _slot(run, bus, speed))
    await plug.run_plug(domain, run, prepared, chains, None, {})
    device = prepared.devices[-1]
    alias, path = device.alias.name if device.alias is not None else "", _path(device)

    def ended() -> None:
        if domain.run is run and not run.ending and not domain.hypervisor.closing:
            domain.hypervisor.spawn(_take_out(domain, run, path))

    try:
        return alias, await _opened(run, alias, path, ended)
    except CorralError:
        await unplug.run_unplug(domain, run, device, None)
        raise


def _slot(run: Run, bus: int | None, speed: int) -> Redirdev:
    """A redirected device that waits on a new socket of the run's directory.

    Never on one that was there: QEMU may remove a socket a moment after it has told that its device is gone.
    """
    from corral.model.address import USBAddress
    from corral.model.devices.chardev import ChardevSource
    from corral.model.devices.hub import Redirdev
    from corral.qemu import addresses

    document = run.live.document
    bus = addresses.usb_bus(document, speed) if bus is None else bus
    return Redirdev(
        type="unix",
        source=ChardevSource(mode="bind", path=str(run.directory / f"{PREFIX}{secrets.token_hex(4)}")),
        address=None if bus is None else USBAddress(bus=bus),
    )


def is_slot(run: Run, device: Redirdev) -> bool:
    """Whether a device is a slot that came with a client and goes with it."""
    path = Path(_path(device))
    return path.parent == run.directory and path.name.startswith(PREFIX)


def _path(device: Device) -> str:
    from corral.model.devices.hub import Redirdev

    found = device.source.path if isinstance(device, Redirdev) and device.source is not None else None
    return found or ""


async def _take_out(domain: Domain, run: Run, path: str) -> None:
    """The client has gone, or QEMU has: so does the slot, as soon as the domain's job slot is free."""
    while domain.run is run and not (run.ending or domain.hypervisor.closing):
        try:
            await domain.change("take out a USB slot", lambda: _taken_out(domain, run, path))
            return
        except CorralError as error:
            log.warning("domain %s: the USB slot at %s is still there: %s", domain.name, path, error)
            await asyncio.sleep(AGAIN)


async def _taken_out(domain: Domain, run: Run, path: str) -> None:
    if domain.run is not run or run.machine is None:
        return
    device = next((each for each in run.live.document.devices.redirdevs if _path(each) == path), None)
    if device is not None:
        await unplug.run_unplug(domain, run, device, None)


def reconcile(domain: Domain, run: Run) -> None:
    """Slots of clients that went with the last daemon are taken out."""
    for device in run.live.document.devices.redirdevs:
        if is_slot(run, device):
            domain.hypervisor.spawn(_take_out(domain, run, _path(device)))
