"""What the host side of a redirection asks of a device: transfers, and the few requests that change the device itself.

A device in Python (`device.Device`) and a physical one are both a `Target`. Everything is answered by a callback, at
once or later, always on the thread that asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from corral.usb.descriptors import DeviceDescriptor, Endpoint
from corral.usb.packets import Speed, Status, TransferType


@dataclass(frozen=True, slots=True)
class Setup:
    """The setup packet of a control transfer (USB 2.0, 9.3)."""

    request_type: int
    request: int
    value: int
    index: int
    length: int


class Transfer:
    """One transfer: `length` bytes are wanted (in), or `data` is given (out).

    Ends once: `finish(status, data, actual)`, with the bytes read, or the number of bytes written.
    """

    __slots__ = ("actual", "data", "done", "endpoint", "finished", "length", "setup", "status", "stream", "type")

    def __init__(
        self,
        type: TransferType,
        endpoint: int,
        length: int,
        done: Callable[[Transfer], None],
        *,
        data: bytes = b"",
        setup: Setup | None = None,
        stream: int = 0,
    ) -> None:
        self.type = type
        self.endpoint = endpoint
        self.length = length
        self.data: bytes | memoryview = data
        self.setup = setup
        self.stream = stream
        self.done = done
        self.finished = False
        self.status = Status.SUCCESS
        self.actual = 0

    def finish(self, status: Status, data: bytes | memoryview = b"", actual: int = 0) -> None:
        """End the transfer and tell who asked for it; a second end does nothing."""
        if self.finished:
            return
        self.finished = True
        self.status = status
        self.data = data
        self.actual = len(data) or actual
        self.done(self)


class Job:
    """Blocking work of a device: `run` in a thread, then `done` with what it gave or the OSError, on our own."""

    __slots__ = ("done", "run")

    def __init__(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.run = run
        self.done = done

    def attempt(self) -> Any:
        """What `run` gives, or the OSError that it raised."""
        try:
            return self.run()
        except OSError as error:
            return error


class Place(NamedTuple):
    """An endpoint and the interface that it belongs to."""

    endpoint: Endpoint
    interface: int


class Target(Protocol):
    """A device that can be redirected. `news` is set by its user: called when there may be jobs, transfers have
    ended outside a call of the user's, or the device has left."""

    descriptor: DeviceDescriptor
    speed: Speed
    paced: bool
    """Whether interrupt endpoints answer at once, so that who polls them must keep to their interval."""
    news: Callable[[], None]
    gone: str | None
    """Why the device is no longer there, if it is not."""

    def interfaces(self) -> tuple[tuple[int, int, int, int], ...]:
        """Number, class, subclass and protocol of each interface of the active configuration, as set."""

    def endpoints(self) -> Iterable[Place]:
        """The endpoints of the active configuration and alternate settings, without endpoint 0."""

    def configuration(self) -> int:
        """The value of the active configuration, 0 when there is none."""

    def set_configuration(self, value: int, done: Callable[[Status], None]) -> None:
        """Choose a configuration; transfers in progress end as cancelled."""

    def alt_setting(self, interface: int) -> int | None:
        """The alternate setting of an interface; None when there is no such interface."""

    def set_alt_setting(self, interface: int, alt: int, done: Callable[[Status], None]) -> None:
        """Choose an alternate setting."""

    def submit(self, transfer: Transfer) -> None:
        """Begin a transfer."""

    def cancel(self, transfer: Transfer) -> None:
        """Make a transfer end soon, as cancelled unless it is done."""

    def unpolled(self, endpoint: int) -> None:
        """The guest stopped the polling of an endpoint: QEMU has forgotten what it had fetched and not handed on."""

    def reset(self) -> None:
        """Reset the device; transfers in progress end as cancelled."""

    def take_jobs(self) -> list[Job]:
        """Blocking work that is to be done now."""

    def close(self) -> None:
        """Let go of everything; transfers in progress end as cancelled. May block."""
