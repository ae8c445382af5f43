"""A physical device of this computer as something that can be redirected: libusb's transfers behind `Target`.

Everything here runs on the event loop's thread but `claim`, `release` and what is a `Job`. What changes the device
itself (configuration, alternate setting, reset, a halt cleared) is blocking: it is done one after the other in threads,
and what the guest asks meanwhile waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from corral.usb.descriptors import Configuration, DeviceDescriptor, Endpoint, Interface
from corral.usb.packets import DATA_IN, Speed, Status, TransferType
from corral.usb.transfer import Job, Place, Setup, Transfer

LIBUSB_SPEEDS: Final = {1: Speed.LOW, 2: Speed.FULL, 3: Speed.HIGH, 4: Speed.SUPER, 5: Speed.SUPER}
"""enum libusb_speed."""
_CONTROL_TIMEOUT = 5000
"""Milliseconds; the other transfers wait as long as the guest does."""
_SET_ADDRESS, _SET_CONFIGURATION, _SET_INTERFACE, _CLEAR_FEATURE = 5, 9, 11, 1
_TO_DEVICE, _TO_INTERFACE, _TO_ENDPOINT = 0x00, 0x01, 0x02
_LEFT = "it was unplugged from this computer"


class Physical:
    """An open device. `library` is the module usb1, `device` and `handle` its objects."""

    paced = False

    def __init__(self, device: Any, handle: Any, library: Any) -> None:
        self._library = library
        self._handle = handle
        self.gone: str | None = None
        self.news: Callable[[], None] = _nothing
        self.speed = LIBUSB_SPEEDS.get(device.getDeviceSpeed(), Speed.UNKNOWN)
        self.descriptor = DeviceDescriptor(
            *(device.getVendorID(), device.getProductID(), device.getbcdDevice()),
            *(device.getDeviceClass(), device.getDeviceSubClass(), device.getDeviceProtocol()),
            max_packet=device.getMaxPacketSize0(),
        )
        self._offered = {each.value: each for each in map(_configuration, device.iterConfigurations())}
        self._configuration: int = handle.getConfiguration()
        self._alts: dict[int, int] = {}
        self._claimed: list[int] = []
        self._under_way: dict[Transfer, Any] = {}
        self._jobs: list[Job] = []
        self._changing = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._forget_alts()
        self._statuses = {
            library.TRANSFER_COMPLETED: Status.SUCCESS,
            library.TRANSFER_ERROR: Status.IOERROR,
            library.TRANSFER_TIMED_OUT: Status.TIMEOUT,
            library.TRANSFER_CANCELLED: Status.CANCELLED,
            library.TRANSFER_STALL: Status.STALL,
            library.TRANSFER_NO_DEVICE: Status.IOERROR,
            library.TRANSFER_OVERFLOW: Status.BABBLE,
        }

    # -- taking it and letting go; blocking -------------------------------------------------------------------------

    def claim(self) -> None:
        """Take every interface of the active configuration from its driver; libusb's errors."""
        self._handle.setAutoDetachKernelDriver(True)
        self._claim_all()

    def _claim_all(self) -> None:
        for number in {each.number for each in self._interfaces()}:
            self._handle.claimInterface(number)
            self._claimed.append(number)

    def _release_all(self) -> None:
        while self._claimed:
            with suppress(self._library.USBError):  # it is gone
                self._handle.releaseInterface(self._claimed.pop())

    def release(self) -> None:
        """Give the interfaces back to their drivers, which find the device as after it was plugged in."""
        if self.gone is None and self._claimed:
            try:
                self._handle.resetDevice()
            except self._library.USBError as error:
                self.gone = f"it did not come back from its reset: {error}"
        self._release_all()

    # -- the event loop's side --------------------------------------------------------------------------------------

    def leave(self, why: str = _LEFT) -> None:
        """The device is no longer there."""
        self.gone = self.gone or why
        self.news()

    async def idle(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until no transfer and no change is under way."""
        while self._under_way or self._changing:
            future: asyncio.Future[None] = loop.create_future()
            self._idle.append(future)
            await future

    def cancel_all(self) -> None:
        """Have everything end soon."""
        self._waiting.clear()
        for transfer in list(self._under_way):
            self.cancel(transfer)

    def close(self) -> None:
        """Close libusb's handle, which cancels what is still under way."""
        self._handle.close()

    # -- Target -----------------------------------------------------------------------------------------------------

    def _interfaces(self) -> tuple[Interface, ...]:
        active = self._offered.get(self._configuration)
        return active.interfaces if active is not None else ()

    def _current(self) -> list[Interface]:
        return [each for each in self._interfaces() if each.alt == self._alts.get(each.number, 0)]

    def interfaces(self) -> tuple[tuple[int, int, int, int], ...]:
        """Number, class, subclass and protocol of each interface as set."""
        return tuple((each.number, each.device_class, each.subclass, each.protocol) for each in self._current())

    def endpoints(self) -> Iterable[Place]:
        """The endpoints of the interfaces as set."""
        return [Place(endpoint, each.number) for each in self._current() for endpoint in each.endpoints]

    def configuration(self) -> int:
        """The active configuration's value, or 0."""
        return self._configuration

    def alt_setting(self, interface: int) -> int | None:
        """The alternate setting of an interface."""
        return self._alts.get(interface)

    def take_jobs(self) -> list[Job]:
        """Blocking work that is to be done now."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def set_configuration(self, value: int, done: Callable[[Status], None]) -> None:
        """Choose a configuration; the same again does nothing, as with usbredirhost."""
        if value == self._configuration:
            done(Status.SUCCESS)
        elif value and value not in self._offered:
            done(Status.STALL)
        else:
            self._change(partial(self._configure, value), partial(self._configured, value, done))

    def _configure(self, value: int) -> None:
        self._release_all()
        try:
            # libusb's word for "none" is -1.
            self._handle.setConfiguration(value or -1)
        except self._library.USBError:
            self._claim_all()
            raise
        self._configuration = value
        self._claim_all()

    def _configured(self, value: int, done: Callable[[Status], None], status: Status) -> None:
        if status is Status.SUCCESS:
            self._forget_alts()
        done(status)

    def _forget_alts(self) -> None:
        self._alts = {each.number: 0 for each in self._interfaces()}

    def set_alt_setting(self, interface: int, alt: int, done: Callable[[Status], None]) -> None:
        """Choose an alternate setting."""
        if not any((each.number, each.alt) == (interface, alt) for each in self._interfaces()):
            done(Status.STALL)
            return

        def chosen(status: Status) -> None:
            if status is Status.SUCCESS:
                self._alts[interface] = alt
            done(status)

        self._change(partial(self._handle.setInterfaceAltSetting, interface, alt), chosen)

    def reset(self) -> None:
        """Reset the device; one that does not come back as it was has left."""

        def done(status: Status) -> None:
            if status is Status.SUCCESS:
                self._forget_alts()
            else:
                self.leave("it did not come back from its reset")

        self._change(self._handle.resetDevice, done)

    def _change(self, run: Callable[[], Any], done: Callable[[Status], None]) -> None:
        """Do what blocks, after what blocks before it."""
        if self._changing:
            self._waiting.append(partial(self._change, run, done))
            return
        self._changing = True
        self._jobs.append(Job(partial(self._attempt, run), partial(self._changed, done)))
        self.news()

    def _attempt(self, run: Callable[[], Any]) -> Status:
        try:
            run()
        except self._library.USBErrorNoDevice:
            return Status.IOERROR
        except self._library.USBError:
            return Status.STALL
        return Status.SUCCESS

    def _changed(self, done: Callable[[Status], None], status: Status) -> None:
        self._changing = False
        done(status)
        while self._waiting and not self._changing:
            self._waiting.popleft()()
        self._look_idle()

    # -- transfers --------------------------------------------------------------------------------------------------

    def submit(self, transfer: Transfer) -> None:
        """Begin a transfer; a control request that changes the device goes the way of the guest's other changes."""
        if self._changing:
            self._waiting.append(partial(self.submit, transfer))
        elif transfer.finished:
            return
        elif self.gone is not None:
            transfer.finish(Status.IOERROR)
        elif transfer.setup is None or not self._changes(transfer, transfer.setup):
            self._start(transfer)

    def _changes(self, transfer: Transfer, setup: Setup) -> bool:
        """Do a standard request that the kernel and libusb must know of; False when it is none of those."""

        def done(status: Status) -> None:
            transfer.finish(status)
            self.news()

        match setup.request_type, setup.request:
            case (0x00, _) if setup.request == _SET_CONFIGURATION:
                self.set_configuration(setup.value & 0xFF, done)
            case (0x01, _) if setup.request == _SET_INTERFACE:
                self.set_alt_setting(setup.index, setup.value, done)
            case (0x02, _) if setup.request == _CLEAR_FEATURE and not setup.value:
                self._change(partial(self._handle.clearHalt, setup.index & 0xFF), done)
            case (0x00, _) if setup.request == _SET_ADDRESS:
                done(Status.STALL)
            case _:
                return False
        return True

    def _start(self, transfer: Transfer) -> None:
        setup, inwards = transfer.setup, bool(transfer.endpoint & DATA_IN)
        what = transfer.length if inwards else bytes(transfer.data)
        raw = self._handle.getTransfer(0)
        try:
            if setup is not None:
                request = (setup.request_type, setup.request, setup.value, setup.index)
                raw.setControl(*request, what, self._ended, transfer, _CONTROL_TIMEOUT)
            elif transfer.type is TransferType.BULK:
                raw.setBulk(transfer.endpoint, what, self._ended, transfer, 0)
            else:
                raw.setInterrupt(transfer.endpoint, what, self._ended, transfer, 0)
            self._under_way[transfer] = raw
            raw.submit()
        except self._library.USBError as error:
            self._under_way.pop(transfer, None)
            raw.close()
            if isinstance(error, self._library.USBErrorNoDevice):
                self.leave()
            transfer.finish(Status.IOERROR)

    def _ended(self, raw: Any) -> None:
        """libusb's callback."""
        transfer: Transfer = raw.getUserData()
        self._under_way.pop(transfer, None)
        status, actual = raw.getStatus(), raw.getActualLength()
        data = bytes(raw.getBuffer()[:actual]) if transfer.endpoint & DATA_IN else b""
        raw.close()
        if status == self._library.TRANSFER_NO_DEVICE:
            self.gone = self.gone or _LEFT
        transfer.finish(self._statuses.get(status, Status.IOERROR), data, actual)
        self._look_idle()
        self.news()

    def cancel(self, transfer: Transfer) -> None:
        """Have a transfer end; libusb tells when it has."""
        raw = self._under_way.get(transfer)
        if raw is None:
            transfer.finish(Status.CANCELLED)
            return
        with suppress(self._library.USBError):  # it is ending already, and its callback is to come
            raw.cancel()

    def unpolled(self, endpoint: int) -> None:
        """What QEMU has forgotten, a device of this computer's cannot give again."""

    def _look_idle(self) -> None:
        if not self._under_way and not self._changing:
            waiting, self._idle = self._idle, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)


def _configuration(raw: Any) -> Configuration:
    settings = [setting for interface in raw for setting in interface]
    return Configuration(tuple(map(_interface, settings)), raw.getConfigurationValue())


def _interface(raw: Any) -> Interface:
    return Interface(
        *(raw.getNumber(), raw.getClass(), raw.getSubClass(), raw.getProtocol()),
        tuple(map(_endpoint, raw)),
        raw.getAlternateSetting(),
    )


def _endpoint(raw: Any) -> Endpoint:
    attributes = raw.getAttributes()
    return Endpoint(
        *(raw.getAddress(), TransferType(attributes & 3), raw.getMaxPacketSize(), raw.getInterval()),
        attributes=attributes & 0xFC,
    )


def _nothing() -> None:
    """Nobody listens."""
