"""A USB device given to a machine over the connection to its daemon.

async with vm.usb(usb.MassStorage(Path("backup.img"))) as plugged:
    await plugged.ended()
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from corral.errors import CorralError, NoSupport
from corral.usb.packets import Speed
from corral.usb.stream import Service

if TYPE_CHECKING:
    from types import TracebackType

    from corral.client.domain import Domain
    from corral.client.stream import Stream
    from corral.model.devices.controller import Controller
    from corral.model.domain import Domain as Document
    from corral.usb.filter import Filter
    from corral.usb.transfer import Target

READ_SIZE = 1 << 18
PARTING = 2.0  # seconds that the last bytes may take to go out
NO_PROGRAM = (
    "this daemon is not Corral's, and libvirt's protocol does not carry USB; "
    "give the machine a <redirdev type='unix'> or 'tcp' in bind mode, and connect with corral.usb.serve(device, …)"
)


def xhci(document: Document, bus: int | None = None) -> int | None:
    """The bus of the first xHCI controller, or `bus` if it is one: it takes all speeds, and a guest that is late."""
    buses = (each.index or 0 for each in document.devices.controllers if each.type == "usb" and _is_xhci(each))
    return next((each for each in buses if bus is None or each == bus), None)


def _is_xhci(controller: Controller) -> bool:
    return (controller.model or "").endswith("xhci")


class Plugged:
    """One device in one machine while the block lasts; made by `Domain.usb`.

    `alias` is the slot's alias in the machine's document; `service.redirection.connected` whether the guest has been
    told of the device.
    """

    def __init__(
        self, domain: Domain, device: Target, *, slot: str | None, bus: int | None, filter: Filter | None
    ) -> None:
        self.device = device
        self.alias = ""
        self.service: Service
        self._domain = domain
        self._slot = slot
        self._bus = bus
        self._filter = filter
        self._stream: Stream
        self._transport: _Transport
        self._carrying: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        device = self.device
        args = {
            "dom": self._domain.reference,
            "slot": self._slot,
            "bus": -1 if self._bus is None else self._bus,
            "speed": device.speed if device.speed <= Speed.SUPER else Speed.SUPER,
            "flags": 0,
        }
        try:
            answer, self._stream = await self._domain.host.connection.open_stream("corral.usb_redirect", args)
        except NoSupport as error:
            raise NoSupport(error.detail, hint=NO_PROGRAM) from error
        self.alias = answer.alias
        self.service = Service(device, filter=self._filter)
        self._transport = _Transport(self._stream, self.service)
        self.service.connection_made(self._transport)
        self._carrying = asyncio.create_task(self._carry())
        return self

    async def _carry(self) -> None:
        """Bytes from the guest to the device, until the daemon has no more."""
        service, stream = self.service, self._stream
        lost: CorralError | None = None
        try:
            while data := await stream.read(READ_SIZE):
                service.data_received(data)
                await self._transport.readable()
        except CorralError as error:
            lost = error
        service.connection_lost(lost)

    async def ended(self) -> str:
        """Wait for the end; why it came. Raises what the redirection, or the connection to the daemon, ended with."""
        try:
            return await self.service.ended()
        finally:
            self._stream.check()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the device away: first from the guest, then the slot; the device stays open."""
        self.service.unplug()
        try:
            with suppress(TimeoutError, CorralError):
                async with asyncio.timeout(PARTING):
                    await self._transport.flushed()
                    await self._stream.finish()
        finally:
            self._carrying.cancel()
            self._transport.abort()
            self._stream.abort()
            with suppress(CorralError):
                await self.service.ended()


class _Transport(asyncio.Transport):
    """What `Service` writes to, on a stream of the connection."""

    def __init__(self, stream: Stream, service: Service) -> None:
        super().__init__()
        self._stream = stream
        self._service = service
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._most = 1 << 20
        self._reading = asyncio.Event()
        self._reading.set()
        self._writer: asyncio.Task[None] | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._most = self._most if high is None else high

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self._waiting.append(data)
        self._size += len(data)
        if self._writer is None:
            self._writer = asyncio.ensure_future(self._write())
        if self._size > self._most:
            self._service.pause_writing()

    async def _write(self) -> None:
        try:
            while self._waiting:
                data = self._waiting.popleft()
                await self._stream.write(data)
                self._size -= len(data)
                if self._size <= self._most:
                    self._service.resume_writing()
        except CorralError:
            self._waiting.clear()  # who reads the stream learns why
        finally:
            self._writer = None

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    async def readable(self) -> None:
        """Wait until the device takes more."""
        await self._reading.wait()

    async def flushed(self) -> None:
        """Wait until everything is on the connection."""
        if self._writer is not None:
            await self._writer

    def close(self) -> None:
        """The service has said all: the owner of the stream ends that."""
        self._reading.set()
        asyncio.get_running_loop().call_soon(self._service.connection_lost, None)

    def abort(self) -> None:
        self._waiting.clear()
        self._reading.set()
        if self._writer is not None:
            self._writer.cancel()
