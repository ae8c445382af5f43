"""This computer's USB, through libusb: its devices listed, found by what a person calls them, and taken.

The one file that drives libusb's events: its descriptors are watched by the event loop, so callbacks run on its thread.
"""

from __future__ import annotations

import asyncio
import select
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corral.errors import AccessDenied, DeviceMissing, HostError, InvalidArgument, ResourceBusy
from corral.usb.packets import Speed
from corral.usb.physical import LIBUSB_SPEEDS, Physical

_HUB = 0x09
_SYSFS = Path("/sys/bus/usb/devices")
_DRAIN = 3.0
"""Seconds that a device gets to end the transfers under way when it is let go of."""


@dataclass(frozen=True, slots=True)
class Found:
    """A device of this computer: where it is (`place`, as the kernel writes it: `3-1.2`), and what it says it is."""

    bus: int
    address: int
    place: str
    vendor: int
    product: int
    speed: Speed
    name: str
    raw: Any = field(repr=False, compare=False, default=None)
    """libusb's own object."""

    @property
    def identity(self) -> str:
        """`vendor:product` in hexadecimal, as lsusb has it."""
        return f"{self.vendor:04x}:{self.product:04x}"

    @property
    def number(self) -> str:
        """`bus.device`."""
        return f"{self.bus}.{self.address}"

    def __str__(self) -> str:
        return f"{self.identity} {self.name} ({self.number})"


class Computer:
    """`async with Computer() as computer:` on a running event loop; `library` is the module usb1."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = import_module("usb1")
            except (ImportError, OSError) as error:
                raise HostError(f"libusb cannot be loaded: {error}", hint="apt install libusb-1.0-0") from error
        self._library = library
        self._loop = asyncio.get_running_loop()
        self._context = library.USBContext()
        self._watched: dict[int, int] = {}
        self._held: dict[tuple[int, int], Physical] = {}

    async def __aenter__(self) -> Self:
        try:
            self._context.open()
        except self._library.USBError as error:
            raise HostError(f"libusb: {error}") from error
        for descriptor, events in self._context.getPollFDList():
            self._watch(descriptor, events)
        self._context.setPollFDNotifiers(self._watch, self._unwatch)
        if self._context.hasCapability(self._library.CAP_HAS_HOTPLUG):
            self._context.hotplugRegisterCallback(self._left, events=self._library.HOTPLUG_EVENT_DEVICE_LEFT, flags=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Hand back what was taken."""
        for device in list(self._held.values()):
            await self.hand_back(device)
        for descriptor in list(self._watched):
            self._unwatch(descriptor)
        self._context.close()

    # -- events -----------------------------------------------------------------------------------------------------

    def _watch(self, descriptor: int, events: int, _data: object = None) -> None:
        self._watched[descriptor] = events
        if events & select.POLLIN:
            self._loop.add_reader(descriptor, self._handle)
        if events & select.POLLOUT:
            self._loop.add_writer(descriptor, self._handle)

    def _unwatch(self, descriptor: int, _data: object = None) -> None:
        events = self._watched.pop(descriptor, 0)
        if events & select.POLLIN:
            self._loop.remove_reader(descriptor)
        if events & select.POLLOUT:
            self._loop.remove_writer(descriptor)

    def _handle(self) -> None:
        """Have libusb do what it has to, and call the callbacks of what is done."""
        self._context.handleEventsTimeout(0)

    def _left(self, _context: object, device: Any, _event: int) -> bool:
        held = self._held.get((device.getBusNumber(), device.getDeviceAddress()))
        if held is not None:
            held.leave()
        return False

    # -- devices ----------------------------------------------------------------------------------------------------

    def devices(self) -> list[Found]:
        """What is plugged in, hubs left out, in the order of their places."""
        found = [_found(each) for each in self._context.getDeviceIterator(skip_on_error=True) if not _is_hub(each)]
        return sorted(found, key=lambda each: (each.bus, each.address))

    def find(self, text: str) -> Found:
        """The one device that `text` means: `vendor:product`, `bus.device`, or a part of its name.

        DeviceMissing lists what there is, InvalidArgument the several that fit.
        """
        devices = self.devices()
        fits = [each for each in devices if text.lower() in (each.identity, each.number, each.place)]
        fits = fits or [each for each in devices if text.lower() in each.name.lower()]
        if len(fits) == 1:
            return fits[0]
        listed = "; ".join(map(str, fits or devices))
        if fits:
            raise InvalidArgument(f"'{text}' is {len(fits)} USB devices: {listed}", hint="name one by bus.device")
        there = f"there are {listed}" if devices else "there are none"
        raise DeviceMissing(f"no USB device of this computer is '{text}'; {there}")

    async def take(self, found: Found) -> Physical:
        """Take a device from this computer's drivers. `hand_back` gives it back.

        AccessDenied where that is not allowed, ResourceBusy when another program has it.
        """
        library = self._library
        try:
            handle = found.raw.open()
        except library.USBError as error:
            raise self._refusal(found, error) from error
        device = Physical(found.raw, handle, library)
        try:
            await asyncio.to_thread(device.claim)
        except library.USBError as error:
            await asyncio.to_thread(device.release)
            handle.close()
            raise self._refusal(found, error) from error
        self._held[found.bus, found.address] = device
        return device

    def _refusal(self, found: Found, error: Exception) -> Exception:
        library = self._library
        if isinstance(error, library.USBErrorAccess):
            path = f"/dev/bus/usb/{found.bus:03}/{found.address:03}"
            return AccessDenied(f"{found}: {path} may not be opened", hint="run it as root, or give yourself the right")
        if isinstance(error, library.USBErrorBusy):
            return ResourceBusy(f"{found}: another program uses it", hint="unmount it, or end that program")
        return HostError(f"{found}: {error}")

    async def hand_back(self, device: Physical) -> None:
        """End what is under way, and let this computer's drivers have the device again."""
        self._held = {place: each for place, each in self._held.items() if each is not device}
        device.cancel_all()
        with suppress(TimeoutError):  # closing it ends the rest
            async with asyncio.timeout(_DRAIN):
                await device.idle(self._loop)
        await asyncio.to_thread(device.release)
        device.close()


def _is_hub(device: Any) -> bool:
    return bool(device.getDeviceClass() == _HUB)


def _found(device: Any) -> Found:
    bus, ports = device.getBusNumber(), device.getPortNumberList()
    place = f"{bus}-{'.'.join(map(str, ports))}" if ports else f"{bus}-?"
    words = [_said(place, name) for name in ("manufacturer", "product")]
    return Found(
        bus=bus,
        address=device.getDeviceAddress(),
        place=place,
        vendor=device.getVendorID(),
        product=device.getProductID(),
        speed=LIBUSB_SPEEDS.get(device.getDeviceSpeed(), Speed.UNKNOWN),
        name=" ".join(word for word in words if word) or "without a name",
        raw=device,
    )


def _said(place: str, name: str) -> str:
    """A string of the device's, as the kernel has read it: to ask the device itself takes the right to open it."""
    try:
        return (_SYSFS / place / name).read_text(errors="replace").strip()
    except OSError:
        return ""
