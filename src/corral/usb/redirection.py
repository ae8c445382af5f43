"""The usb-host side of a redirection without I/O: a device behind a connection.

The adapter that owns the stream does, whenever bytes arrive, a job is done, time passes or the device has news:

    redirection.receive_data(data, now)        # b"" means end of file
    redirection.tick(now)
    for job in redirection.take_jobs(): run job.attempt() in a thread, then redirection.settle(job, result, now)
    write(redirection.data_to_send())
    arm the timer for redirection.next_deadline()
    if redirection.ended is not None and not redirection.data_to_send(): close the stream

`device.news` is the adapter's to set.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Final

from corral.errors import InvalidArgument
from corral.usb import isochronous
from corral.usb import packets as p
from corral.usb.connection import MAX_TRANSFER, Connection, Lost
from corral.usb.descriptors import Endpoint
from corral.usb.filter import Filter
from corral.usb.packets import DATA_IN, Packet, Speed, Status, TransferType
from corral.usb.state import CANCELLED, Phase
from corral.usb.transfer import Job, Setup, Target, Transfer

MAX_RECEIVING: Final = 64
"""Transfers that a guest may have kept in flight on one endpoint."""

_ENDED_BY_ITSELF = (Status.STALL, Status.IOERROR, Status.BABBLE, Status.TIMEOUT, Status.INVAL)


class Redirection:
    """One device given to one guest.

    `filter` is ours: a device that it keeps out is never announced. After the end `ended` says why; `failed` is whether
    that is an error rather than a parting.
    """

    def __init__(self, device: Target, *, filter: Filter | None = None) -> None:
        self.device = device
        self.connection = Connection("host")
        self.ended: str | None = None
        self.failed = False
        self._filter = filter
        self._now = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._transfers: dict[tuple[type[Packet], int], Transfer] = {}
        self._receiving: dict[int, _Receiving] = {}
        self._streams: dict[int, isochronous.Stream] = {}

    @property
    def connected(self) -> bool:
        """Whether the guest has been told of the device."""
        return self.connection.phase is Phase.CONNECTED

    # -- the adapter's side -----------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes from the guest."""
        self._now = now
        for packet in self.connection.receive_data(data):
            if self.ended is not None:
                return
            _HANDLERS[type(packet)](self, packet)

    def data_to_send(self) -> bytes:
        """Bytes for the guest."""
        return self.connection.data_to_send()

    def take_jobs(self) -> list[Job]:
        """Blocking work, to be done in threads."""
        return self.device.take_jobs()

    def settle(self, job: Job, result: Any, now: float) -> None:
        """A job is done; `result` is what `attempt` gave."""
        self._now = now
        job.done(result)

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return self._timers[0][0] if self._timers else None

    def tick(self, now: float) -> None:
        """Let time pass, and look whether the device is still there."""
        self._now = now
        if self.device.gone is not None:
            self.unplug(self.device.gone)
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def unplug(self, why: str = "unplugged") -> None:
        """Take the device from the guest; the stream may be closed once the data is out."""
        if self.ended is not None:
            return
        self._drop_all()
        if self.connected:
            self.connection.send(p.DeviceDisconnect())
        self._end(why)

    def _end(self, why: str, failed: bool = False) -> None:
        if self.ended is None:
            self.ended = why
            self.failed = failed
            self._timers.clear()
            self._drop_all()

    def _drop_all(self) -> None:
        """End all that is in progress: the guest is told of each ("cancelled") before the device leaves."""
        self._streams.clear()
        receiving, self._receiving = self._receiving, {}
        for stream in receiving.values():
            stream.stop(self.device)
        for transfer in list(self._transfers.values()):
            self.device.cancel(transfer)

    # -- packets ----------------------------------------------------------------------------------------------------

    def _lost(self, packet: Lost) -> None:
        self._end(packet.reason, failed=not packet.clean)

    def _hello(self, _packet: Packet) -> None:
        if self._filter is not None and not self._passes(self._filter):
            self._end("our filter keeps this device out", failed=True)
            return
        self._announce()
        d = self.device.descriptor
        self.connection.send(
            p.DeviceConnect(self.device.speed, d.device_class, d.subclass, d.protocol, d.vendor, d.product, d.version)
        )

    def _passes(self, filter: Filter) -> bool:
        d = self.device.descriptor
        interfaces = [each[1:] for each in self.device.interfaces()]
        return filter.allows(d.device_class, d.vendor, d.product, d.version, interfaces)

    def _announce(self) -> None:
        """The endpoints, then the interfaces: what comes before a connect and before each change's answer."""
        info = [[255, 0, 0, 0, 0] for _ in range(p.ENDPOINTS)]
        info[0][0] = info[16][0] = TransferType.CONTROL
        info[0][3] = info[16][3] = 512 if self.device.speed is Speed.SUPER else self.device.descriptor.max_packet
        for endpoint, interface in self.device.endpoints():
            info[p.index(endpoint.address)] = [
                *(endpoint.type, endpoint.interval, interface, endpoint.max_packet, endpoint.max_streams)
            ]
        types, intervals, interfaces, sizes, streams = (tuple(column) for column in zip(*info, strict=True))
        self.connection.send(p.EpInfo(types, intervals, interfaces, sizes, streams))
        self.connection.send(p.InterfaceInfo(self.device.interfaces()[: p.INTERFACES]))

    def _filter_filter(self, packet: p.FilterFilter) -> None:
        try:
            theirs = Filter.parse(packet.filter)
        except InvalidArgument as error:
            self.unplug(f"the guest's filter cannot be read: {error.detail}")
            self.failed = True
            return
        if not self._passes(theirs):
            self._reject()

    def _reject(self, _packet: Packet | None = None) -> None:
        self.unplug("the guest's filter keeps this device out")
        self.failed = True

    def _reset(self, _packet: Packet) -> None:
        self._drop_all()
        self.device.reset()

    def _set_configuration(self, packet: p.SetConfiguration) -> None:
        self._drop_all()
        self.device.set_configuration(packet.configuration, partial(self._configured, packet.id))

    def _configured(self, id: int, status: Status) -> None:
        if not self._open():
            return
        if status is Status.SUCCESS:
            self._announce()
        self.connection.send(p.ConfigurationStatus(status, self.device.configuration(), id))

    def _get_configuration(self, packet: p.GetConfiguration) -> None:
        self.connection.send(p.ConfigurationStatus(Status.SUCCESS, self.device.configuration(), packet.id))

    def _set_alt_setting(self, packet: p.SetAltSetting) -> None:
        done = partial(self._alt_set, packet.id, packet.interface)
        for endpoint, interface in list(self.device.endpoints()):
            if interface == packet.interface:
                self._streams.pop(endpoint.address, None)
                if endpoint.address in self._receiving:
                    self._receiving.pop(endpoint.address).stop(self.device)
        self.device.set_alt_setting(packet.interface, packet.alt, done)

    def _alt_set(self, id: int, interface: int, status: Status) -> None:
        if not self._open():
            return
        if status is Status.SUCCESS:
            self._announce()
        alt = self.device.alt_setting(interface) or 0
        self.connection.send(p.AltSettingStatus(status, interface, alt, id))

    def _get_alt_setting(self, packet: p.GetAltSetting) -> None:
        alt = self.device.alt_setting(packet.interface)
        status = Status.INVAL if alt is None else Status.SUCCESS
        self.connection.send(p.AltSettingStatus(status, packet.interface, alt or 0, packet.id))

    def _bulk_streams(self, packet: p.AllocBulkStreams | p.FreeBulkStreams) -> None:
        """No device here has streams: they exist at SuperSpeed only."""
        self.connection.send(p.BulkStreamsStatus(packet.endpoints, 0, Status.INVAL, packet.id))

    def _open(self) -> bool:
        return self.connected and self.connection.lost is None

    # -- transfers --------------------------------------------------------------------------------------------------

    def _control_packet(self, packet: p.ControlPacket) -> None:
        if (packet.endpoint ^ packet.requesttype) & DATA_IN or packet.endpoint & 0x7F:
            self._answer(packet, Status.INVAL)
            return
        setup = Setup(packet.requesttype, packet.request, packet.value, packet.index, packet.length)
        self._submit(packet, Transfer(TransferType.CONTROL, packet.endpoint, packet.length, _unset, setup=setup))

    def _bulk_packet(self, packet: p.BulkPacket) -> None:
        self._submit(
            packet, Transfer(TransferType.BULK, packet.endpoint, packet.length, _unset, stream=packet.stream_id)
        )

    def _interrupt_packet(self, packet: p.InterruptPacket) -> None:
        self._submit(packet, Transfer(TransferType.INTERRUPT, packet.endpoint, packet.length, _unset))

    def _submit(self, packet: p.ControlPacket | p.BulkPacket | p.InterruptPacket, transfer: Transfer) -> None:
        transfer.data = packet.data
        transfer.done = partial(self._finished, packet)
        self._transfers[type(packet), packet.id] = transfer
        self.device.submit(transfer)

    def _finished(self, packet: p.ControlPacket | p.BulkPacket | p.InterruptPacket, transfer: Transfer) -> None:
        key = type(packet), packet.id
        if self._transfers.get(key) is transfer:  # a cancelled one's id may be another's by now
            del self._transfers[key]
        self._answer(packet, transfer.status, transfer.data, transfer.actual)

    def _answer(
        self,
        packet: p.ControlPacket | p.BulkPacket | p.InterruptPacket,
        status: Status,
        data: bytes | memoryview = b"",
        actual: int = 0,
    ) -> None:
        """The packet goes back with what became of it."""
        if not self._open():
            return
        packet.status = status
        if packet.endpoint & DATA_IN:
            # A device that gives more than it was asked for babbles (USB 2.0, 8.7.4).
            if len(data) > packet.length:
                data, packet.status = data[: packet.length], Status.BABBLE
            packet.data, packet.length = data, len(data)
        else:
            packet.data, packet.length = b"", min(actual, packet.length)
        self.connection.send(packet)

    def _cancel(self, packet: p.CancelDataPacket) -> None:
        """Cancel what is still in progress; what is done has been answered already."""
        for cls in CANCELLED:
            transfer = self._transfers.get((cls, packet.id))
            if transfer is not None:
                self.device.cancel(transfer)

    # -- endpoints that are polled ------------------------------------------------------------------------------------

    def _place(self, endpoint: int, type: TransferType) -> Endpoint | None:
        found = (each.endpoint for each in self.device.endpoints() if each.endpoint.address == endpoint)
        return next((each for each in found if each.type is type), None)

    def _start_interrupt(self, packet: p.StartInterruptReceiving) -> None:
        place = self._place(packet.endpoint, TransferType.INTERRUPT)
        if place is None or packet.endpoint in self._receiving:
            self.connection.send(p.InterruptReceivingStatus(Status.INVAL, packet.endpoint, packet.id))
        else:
            self.connection.send(p.InterruptReceivingStatus(Status.SUCCESS, packet.endpoint, packet.id))
            pause = _interval(place.interval, self.device.speed) if self.device.paced else 0.0
            size = place.max_packet & 0x7FF
            stream = _Receiving(TransferType.INTERRUPT, packet.endpoint, size, pause, id=packet.id)
            self._receive(stream, 1)

    def _stop_interrupt(self, packet: p.StopInterruptReceiving) -> None:
        self._stop(packet.endpoint)
        self.connection.send(p.InterruptReceivingStatus(Status.SUCCESS, packet.endpoint, packet.id))

    def _start_bulk(self, packet: p.StartBulkReceiving) -> None:
        place = self._place(packet.endpoint, TransferType.BULK)
        size = packet.bytes_per_transfer
        whole = place is not None and 0 < size <= MAX_TRANSFER and size % place.max_packet == 0
        good = whole and packet.endpoint not in self._receiving and not packet.stream_id
        good = good and 0 < packet.no_transfers <= MAX_RECEIVING
        status = Status.SUCCESS if good else Status.INVAL
        self.connection.send(p.BulkReceivingStatus(packet.stream_id, packet.endpoint, status, packet.id))
        if good:
            self._receive(_Receiving(TransferType.BULK, packet.endpoint, size, 0.0, packet.id), packet.no_transfers)

    def _stop_bulk(self, packet: p.StopBulkReceiving) -> None:
        self._stop(packet.endpoint)
        self.connection.send(p.BulkReceivingStatus(packet.stream_id, packet.endpoint, Status.SUCCESS, packet.id))

    def _stop(self, endpoint: int) -> None:
        stream = self._receiving.pop(endpoint, None)
        if stream is not None:
            stream.stop(self.device)
            self.device.unpolled(endpoint)

    def _receive(self, stream: _Receiving, transfers: int) -> None:
        self._receiving[stream.endpoint] = stream
        for _ in range(transfers):
            self._poll(stream)

    def _poll(self, stream: _Receiving) -> None:
        """Have one more transfer in flight on a polled endpoint."""
        if self._receiving.get(stream.endpoint) is not stream:
            return
        transfer = Transfer(stream.type, stream.endpoint, stream.size, partial(self._polled, stream))
        stream.transfers.append(transfer)
        self.device.submit(transfer)

    def _polled(self, stream: _Receiving, transfer: Transfer) -> None:
        if transfer in stream.transfers:
            stream.transfers.remove(transfer)
        if self._receiving.get(stream.endpoint) is not stream or not self._open():
            return
        if transfer.status in _ENDED_BY_ITSELF:
            self._stop(stream.endpoint)
            self.connection.send(stream.ended())
            return
        if transfer.status is Status.CANCELLED:
            return
        self.connection.send(stream.packet(bytes(transfer.data)))
        # Even without a pause it is the timer that polls again: a device that always has data must not recurse.
        again: Callable[[], None] = partial(self._poll, stream)
        self._at(self._now + stream.pause, again)

    # -- isochronous streams ------------------------------------------------------------------------------------------

    def _start_iso(self, packet: p.StartIsoStream) -> None:
        """Only for a device that is at our pace: a physical one has its own, and libusb's is not driven here."""
        place = self._place(packet.endpoint, TransferType.ISO)
        status = Status.INVAL
        if place is not None and self.device.paced and packet.pkts_per_urb and packet.no_urbs:
            shape = packet.pkts_per_urb, packet.no_urbs
            stream = isochronous.Stream(place, self.device.speed, *shape, self._now)
            if self._streams.setdefault(packet.endpoint, stream) is stream:
                status = Status.SUCCESS
                if packet.endpoint & DATA_IN:
                    self._at(stream.next, partial(self._iso_due, stream))
        self.connection.send(p.IsoStreamStatus(status, packet.endpoint, packet.id))

    def _stop_iso(self, packet: p.StopIsoStream) -> None:
        self._streams.pop(packet.endpoint, None)
        self.connection.send(p.IsoStreamStatus(Status.SUCCESS, packet.endpoint, packet.id))

    def _iso_due(self, stream: isochronous.Stream) -> None:
        """Fetch what the device has for the time that has passed."""
        for _ in range(stream.due(self._now)):
            if self._streams.get(stream.endpoint) is not stream:
                return
            done = partial(self._iso_in, stream)
            self.device.submit(Transfer(TransferType.ISO, stream.endpoint, stream.size, done))
        self._at(stream.next, partial(self._iso_due, stream))

    def _iso_in(self, stream: isochronous.Stream, transfer: Transfer) -> None:
        if self._streams.get(stream.endpoint) is stream and self._open():
            data = transfer.data[: stream.size]
            packet = p.IsoPacket(stream.endpoint, transfer.status, len(data), next(stream.ids), data)
            self.connection.send(packet)

    def _iso_out(self, packet: p.IsoPacket) -> None:
        """Data for the device, without an answer; that of no stream is dropped."""
        if packet.endpoint in self._streams:
            transfer = Transfer(TransferType.ISO, packet.endpoint, packet.length, _untold, data=bytes(packet.data))
            self.device.submit(transfer)

    def _at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), do))

    def _ignore(self, _packet: Packet) -> None:
        """An acknowledgement."""


class _Receiving:
    """A polled endpoint: its packets' ids count from 0."""

    def __init__(self, type: TransferType, endpoint: int, size: int, pause: float, id: int) -> None:
        self.type = type
        self.endpoint = endpoint
        self.size = size
        self.pause = pause
        self.id = id
        self.transfers: list[Transfer] = []
        self._ids = count()

    def packet(self, data: bytes) -> Packet:
        """What a poll brought."""
        data = data[: self.size]
        if self.type is TransferType.INTERRUPT:
            return p.InterruptPacket(self.endpoint, Status.SUCCESS, len(data), next(self._ids), data)
        return p.BufferedBulkPacket(0, len(data), self.endpoint, Status.SUCCESS, next(self._ids), data)

    def ended(self) -> Packet:
        """It ended by itself: always told as a stall."""
        if self.type is TransferType.INTERRUPT:
            return p.InterruptReceivingStatus(Status.STALL, self.endpoint, self.id)
        return p.BulkReceivingStatus(0, self.endpoint, Status.STALL, self.id)

    def stop(self, device: Target) -> None:
        """Cancel the polls in flight."""
        for transfer in list(self.transfers):
            device.cancel(transfer)


def _interval(interval: int, speed: Speed) -> float:
    """Seconds between two polls of an interrupt endpoint (USB 2.0, 9.6.6)."""
    if speed in (Speed.HIGH, Speed.SUPER):
        return float(2 ** (min(max(interval, 1), 16) - 1)) * 0.000125
    return max(interval, 1) * 0.001


def _untold(_transfer: Transfer) -> None:
    """Nobody is told how an isochronous packet fared."""


def _unset(_transfer: Transfer) -> None:
    raise AssertionError("a transfer without an end")


_HANDLERS: dict[type[Packet], Callable[[Redirection, Any], None]] = {
    Lost: Redirection._lost,
    p.Hello: Redirection._hello,
    p.FilterFilter: Redirection._filter_filter,
    p.FilterReject: Redirection._reject,
    p.DeviceDisconnectAck: Redirection._ignore,
    p.Reset: Redirection._reset,
    p.SetConfiguration: Redirection._set_configuration,
    p.GetConfiguration: Redirection._get_configuration,
    p.SetAltSetting: Redirection._set_alt_setting,
    p.GetAltSetting: Redirection._get_alt_setting,
    p.StartIsoStream: Redirection._start_iso,
    p.StopIsoStream: Redirection._stop_iso,
    p.StartInterruptReceiving: Redirection._start_interrupt,
    p.StopInterruptReceiving: Redirection._stop_interrupt,
    p.AllocBulkStreams: Redirection._bulk_streams,
    p.FreeBulkStreams: Redirection._bulk_streams,
    p.CancelDataPacket: Redirection._cancel,
    p.StartBulkReceiving: Redirection._start_bulk,
    p.StopBulkReceiving: Redirection._stop_bulk,
    p.ControlPacket: Redirection._control_packet,
    p.BulkPacket: Redirection._bulk_packet,
    p.IsoPacket: Redirection._iso_out,
    p.InterruptPacket: Redirection._interrupt_packet,
}
