"""A USB device written in Python: requests in, answers out.

A subclass gives `interfaces_offered` and answers `control_in` and `control_out` (class requests), `data_in` and
`data_out`. Standard requests (USB 2.0, 9.4), descriptors, halted endpoints and the queue of each endpoint are here.
A device does no I/O: what blocks is a `Job`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import ClassVar

from corral.errors import InvalidArgument
from corral.usb import descriptors
from corral.usb.descriptors import Configuration, DeviceDescriptor, Interface
from corral.usb.packets import DATA_IN, Speed, Status, TransferType
from corral.usb.transfer import Job, Place, Setup, Transfer

_STANDARD, _CLASS, _VENDOR = 0x00, 0x20, 0x40
_TYPE_MASK, _RECIPIENT_MASK = 0x60, 0x1F
_TO_DEVICE, _TO_INTERFACE, _TO_ENDPOINT = 0, 1, 2
_GET_STATUS, _CLEAR_FEATURE, _SET_FEATURE, _SET_ADDRESS, _GET_DESCRIPTOR = 0, 1, 3, 5, 6
_GET_CONFIGURATION, _SET_CONFIGURATION, _GET_INTERFACE, _SET_INTERFACE = 8, 9, 10, 11
_SET_SEL, _SET_ISOCH_DELAY = 48, 49
"""bRequest (USB 2.0, table 9-4; USB 3.0, table 9-4)."""
_ENDPOINT_HALT = 0
_POWER_FEATURES = (48, 49, 50)
"""U1_ENABLE, U2_ENABLE, LTM_ENABLE (USB 3.0, table 9-6): what saves power on a real bus."""


class Stall(Exception):
    """The device refuses: a request error on endpoint 0, a halted endpoint elsewhere (USB 2.0, 8.4.5)."""


class Device:
    """A device with one configuration, at high speed unless `speed` says full or super.

    The identity is class attributes; the default is the Linux Foundation's composite gadget.
    """

    vendor: ClassVar[int] = 0x1D6B
    product: ClassVar[int] = 0x0104
    version: ClassVar[int] = 0x0100
    device_class: ClassVar[tuple[int, int, int]] = (0, 0, 0)
    manufacturer: ClassVar[str] = "Corral"
    name: ClassVar[str] = "USB device"

    paced = True

    def __init__(self, *, speed: Speed = Speed.HIGH, serial: str = "000000000001") -> None:
        if speed not in (Speed.FULL, Speed.HIGH, Speed.SUPER):
            raise InvalidArgument(f"USB speed {speed.name}: devices in Python are full, high or super speed")
        self.speed: Speed = speed
        self.gone: str | None = None
        self.news: Callable[[], None] = _nothing
        # At SuperSpeed the size of endpoint 0's packets is a power of two: 512 (USB 3.0, 9.6.1).
        usb, first = (0x0300, 9) if speed is Speed.SUPER else (0x0200, 64)
        self.descriptor = DeviceDescriptor(
            *(self.vendor, self.product, self.version, *self.device_class), max_packet=first, usb=usb
        )
        self._strings = ("", self.manufacturer, self.name, serial)
        self._offered = Configuration(self.interfaces_offered(speed))
        self._configuration = self._offered.value
        self._alts = {interface.number: 0 for interface in self._offered.interfaces}
        self._halted: set[int] = set()
        self._queues: dict[int, deque[Transfer]] = {}
        self._pumping: set[int] = set()
        self._jobs: list[Job] = []

    # -- what a subclass says ---------------------------------------------------------------------------------------

    def interfaces_offered(self, speed: Speed) -> tuple[Interface, ...]:
        """All interfaces at a speed, in their order, with alternate settings."""
        raise NotImplementedError

    def control_in(self, setup: Setup) -> bytes:
        """Answer a class or vendor request with data; may be longer than asked. Raises Stall."""
        raise Stall

    def control_out(self, setup: Setup, data: bytes) -> None:
        """Do a class or vendor request without an answer. Raises Stall."""
        raise Stall

    def data_in(self, endpoint: int, length: int) -> bytes | memoryview | None:
        """Up to `length` bytes for the host; None when there are none until `ready` is called. Raises Stall.

        An isochronous endpoint does not wait, nor stall: with None its packet is empty.
        """
        raise Stall

    def data_out(self, endpoint: int, data: bytes) -> bool:
        """Take bytes from the host; False when they are to be offered again after `ready`. Raises Stall."""
        raise Stall

    def began(self) -> None:
        """The device was reset or configured: forget what was going on."""

    def unhalted(self, endpoint: int) -> bool:
        """Whether the host may clear the halt of an endpoint, which it does now."""
        return True

    # -- what a subclass calls --------------------------------------------------------------------------------------

    def ready(self, *endpoints: int) -> None:
        """Endpoints may have, or take, data now."""
        for endpoint in endpoints:
            self._pump(endpoint)
        self.news()

    def halt(self, *endpoints: int) -> None:
        """Halt endpoints: their transfers stall until the host clears it."""
        self._halted.update(endpoints)
        self.ready(*endpoints)

    def block(self, job: Job) -> None:
        """Have blocking work done."""
        self._jobs.append(job)
        self.news()

    def unplug(self, why: str = "unplugged") -> None:
        """The device leaves."""
        self.gone = self.gone or why
        self.news()

    # -- Target -----------------------------------------------------------------------------------------------------

    def take_jobs(self) -> list[Job]:
        """Blocking work that is to be done now."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def _current(self) -> list[Interface]:
        if not self._configuration:
            return []
        return [i for i in self._offered.interfaces if i.alt == self._alts[i.number]]

    def interfaces(self) -> tuple[tuple[int, int, int, int], ...]:
        """Number, class, subclass and protocol of each interface."""
        return tuple((i.number, i.device_class, i.subclass, i.protocol) for i in self._current())

    def endpoints(self) -> Iterable[Place]:
        """The endpoints of the interfaces as set."""
        return [Place(endpoint, i.number) for i in self._current() for endpoint in i.endpoints]

    def configuration(self) -> int:
        """The active configuration's value, or 0."""
        return self._configuration

    def set_configuration(self, value: int, done: Callable[[Status], None]) -> None:
        """Choose the configuration, or none with 0 (9.4.7)."""
        if value not in (0, self._offered.value):
            done(Status.STALL)
            return
        self._configuration = value
        self._begin()
        done(Status.SUCCESS)

    def alt_setting(self, interface: int) -> int | None:
        """The alternate setting of an interface."""
        return self._alts.get(interface) if self._configuration else None

    def set_alt_setting(self, interface: int, alt: int, done: Callable[[Status], None]) -> None:
        """Choose an alternate setting (9.4.10)."""
        if not self._configuration or (interface, alt) not in {(i.number, i.alt) for i in self._offered.interfaces}:
            done(Status.STALL)
            return
        self._alts[interface] = alt
        self._begin()
        done(Status.SUCCESS)

    def reset(self) -> None:
        """Forget halts and transfers; the configuration stays, as the guest chooses it anew."""
        self._configuration = self._offered.value
        self._alts = dict.fromkeys(self._alts, 0)
        self._begin()

    def _begin(self) -> None:
        self._halted.clear()
        self._cancel_all()
        self.began()

    def _cancel_all(self) -> None:
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            for transfer in queue:
                transfer.finish(Status.CANCELLED)

    def close(self) -> None:
        """End all transfers."""
        self._cancel_all()

    def submit(self, transfer: Transfer) -> None:
        """Begin a transfer."""
        if transfer.setup is not None:
            self._control(transfer, transfer.setup)
            return
        known = {place.endpoint.address: place.endpoint.type for place in self.endpoints()}
        if known.get(transfer.endpoint) is not transfer.type:
            transfer.finish(Status.INVAL)
            return
        if transfer.type is TransferType.ISO:
            self._isochronous(transfer)
            return
        self._queues.setdefault(transfer.endpoint, deque()).append(transfer)
        self._pump(transfer.endpoint)

    def _isochronous(self, transfer: Transfer) -> None:
        """One packet, now or never: what the device does not have is empty, and nothing is said again (5.6.5)."""
        data: bytes | memoryview = b""
        with suppress(Stall):
            if transfer.endpoint & DATA_IN:
                data = self.data_in(transfer.endpoint, transfer.length) or b""
            else:
                self.data_out(transfer.endpoint, bytes(transfer.data))
        transfer.finish(Status.SUCCESS, data, len(transfer.data))

    def cancel(self, transfer: Transfer) -> None:
        """Take a transfer out of its queue."""
        queue = self._queues.get(transfer.endpoint)
        if queue is not None and transfer in queue:
            queue.remove(transfer)
        transfer.finish(Status.CANCELLED)

    def unpolled(self, endpoint: int) -> None:
        """The host polls an endpoint no longer."""

    def _pump(self, endpoint: int) -> None:
        """Serve an endpoint's transfers in order as far as they go; what they cause may come back here."""
        if endpoint in self._pumping:
            return
        self._pumping.add(endpoint)
        try:
            while queue := self._queues.get(endpoint):
                transfer = queue[0]
                try:
                    if endpoint in self._halted:
                        raise Stall
                    if endpoint & DATA_IN:
                        data = self.data_in(endpoint, transfer.length)
                        if data is None:
                            return
                        actual = len(data)
                    else:
                        if not self.data_out(endpoint, bytes(transfer.data)):
                            return
                        data, actual = b"", transfer.length
                    status = Status.SUCCESS
                except Stall:
                    self._halted.add(endpoint)
                    data, actual, status = b"", 0, Status.STALL
                # Serving it may have reset the device, which has ended it then.
                if queue and queue[0] is transfer:
                    queue.popleft()
                transfer.finish(status, data, actual)
        finally:
            self._pumping.discard(endpoint)

    # -- endpoint 0 -------------------------------------------------------------------------------------------------

    def _control(self, transfer: Transfer, setup: Setup) -> None:
        try:
            if setup.request_type & DATA_IN:
                data = self._standard_in(setup) if _standard(setup) else self.control_in(setup)
                transfer.finish(Status.SUCCESS, data[: setup.length])
            else:
                if _standard(setup):
                    self._standard_out(setup)
                else:
                    self.control_out(setup, bytes(transfer.data))
                transfer.finish(Status.SUCCESS, actual=setup.length)
        except Stall:
            transfer.finish(Status.STALL)

    def _standard_in(self, setup: Setup) -> bytes:
        recipient = setup.request_type & _RECIPIENT_MASK
        if setup.request == _GET_DESCRIPTOR:
            return self._descriptor(setup)
        if setup.request == _GET_CONFIGURATION:
            return bytes((self._configuration,))
        if setup.request == _GET_INTERFACE:
            alt = self.alt_setting(setup.index)
            if alt is None:
                raise Stall
            return bytes((alt,))
        if setup.request == _GET_STATUS:
            return bytes((int(recipient == _TO_ENDPOINT and setup.index & 0xFF in self._halted), 0))
        raise Stall

    def _standard_out(self, setup: Setup) -> None:
        if setup.request in (_CLEAR_FEATURE, _SET_FEATURE):
            self._feature(setup)
        elif setup.request == _SET_CONFIGURATION:
            self.set_configuration(setup.value & 0xFF, _or_stall)
        elif setup.request == _SET_INTERFACE:
            self.set_alt_setting(setup.index, setup.value, _or_stall)
        elif setup.request != _SET_ADDRESS and not (
            self.speed is Speed.SUPER and setup.request in (_SET_SEL, _SET_ISOCH_DELAY)
        ):
            raise Stall

    def _feature(self, setup: Setup) -> None:
        """Only an endpoint's halt can be set and cleared (9.4.1, 9.4.9), and at SuperSpeed what saves power."""
        endpoint = setup.index & 0xFF
        recipient = setup.request_type & _RECIPIENT_MASK
        if self.speed is Speed.SUPER and recipient == _TO_DEVICE and setup.value in _POWER_FEATURES:
            return
        if recipient != _TO_ENDPOINT or setup.value != _ENDPOINT_HALT:
            raise Stall
        if endpoint & 0x7F and endpoint not in {place.endpoint.address for place in self.endpoints()}:
            raise Stall
        if setup.request == _SET_FEATURE:
            self.halt(endpoint)
        elif self.unhalted(endpoint):
            self._halted.discard(endpoint)
            self.ready(endpoint)

    def _descriptor(self, setup: Setup) -> bytes:
        kind, at = setup.value >> 8, setup.value & 0xFF
        if setup.request_type & _RECIPIENT_MASK == _TO_INTERFACE:
            return self.control_in(setup)  # class descriptors, such as HID reports, are asked for as standard requests
        if kind == descriptors.DEVICE:
            return self.descriptor.pack()
        if kind == descriptors.CONFIGURATION and at == 0:
            return self._offered.pack()
        if kind == descriptors.STRING:
            if at >= len(self._strings):
                raise Stall
            return descriptors.string(self._strings[at]) if at else descriptors.languages()
        if kind == descriptors.BOS and self.speed is Speed.SUPER:
            return descriptors.capabilities()
        # A device that is full speed only has no other speed to tell of (9.6.2).
        if self.speed is Speed.HIGH:
            if kind == descriptors.DEVICE_QUALIFIER:
                return self.descriptor.qualifier()
            if kind == descriptors.OTHER_SPEED_CONFIGURATION and at == 0:
                other = Configuration(self.interfaces_offered(Speed.FULL))
                return other.pack(descriptors.OTHER_SPEED_CONFIGURATION)
        raise Stall


def bulk_size(speed: Speed) -> int:
    """wMaxPacketSize of a bulk endpoint (5.8.3; USB 3.0, 9.6.6)."""
    return {Speed.FULL: 64, Speed.SUPER: 1024}.get(speed, 512)


def isochronous(address: int, size: int, speed: Speed) -> descriptors.Endpoint:
    """An isochronous endpoint without synchronisation (5.12.4.1), of a packet each millisecond."""
    return descriptors.Endpoint(address, TransferType.ISO, size, 1 if speed is Speed.FULL else 4)


def bulk(address: int, speed: Speed) -> descriptors.Endpoint:
    """A bulk endpoint."""
    extra = descriptors.companion() if speed is Speed.SUPER else b""
    return descriptors.Endpoint(address, TransferType.BULK, bulk_size(speed), extra=extra)


def interrupt(address: int, size: int, milliseconds: int, speed: Speed) -> descriptors.Endpoint:
    """An interrupt endpoint; from high speed on bInterval is a power of two of microframes (9.6.6)."""
    interval = milliseconds if speed is Speed.FULL else (milliseconds * 8).bit_length()
    extra = descriptors.companion(0, size) if speed is Speed.SUPER else b""
    return descriptors.Endpoint(address, TransferType.INTERRUPT, size, interval, extra=extra)


def _standard(setup: Setup) -> bool:
    return setup.request_type & _TYPE_MASK == _STANDARD


def _or_stall(status: Status) -> None:
    if status is not Status.SUCCESS:
        raise Stall


def _nothing() -> None:
    """Nobody listens."""
