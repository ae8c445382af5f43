"""What happens to domains, as values, and the bus that carries them to whoever listens.

One frozen class for each of libvirt's event ids that Corral produces (virDomainEventID); field names follow libvirt's
callback arguments. `dom` is the domain's identity at the moment of the event: after a stop its id is -1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

from corral.constants import DomainEventID

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Name, UUID and id (-1 when off) of a domain when something happened to it."""

    name: str
    uuid: UUID
    id: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a domain."""

    dom: Identity

    event_id: ClassVar[int] = -1


@dataclass(frozen=True, slots=True)
class Lifecycle(Event):
    """`event` is a virDomainEventType, `detail` the matching virDomainEvent*DetailType."""

    event: int
    detail: int
    event_id: ClassVar[int] = DomainEventID.LIFECYCLE


@dataclass(frozen=True, slots=True)
class Reboot(Event):
    """The guest was reset, by itself or by a call."""

    event_id: ClassVar[int] = DomainEventID.REBOOT


@dataclass(frozen=True, slots=True)
class RTCChange(Event):
    """The guest set its clock; `offset` in seconds from UTC (or from the clock's base)."""

    offset: int
    event_id: ClassVar[int] = DomainEventID.RTC_CHANGE


@dataclass(frozen=True, slots=True)
class Watchdog(Event):
    """The watchdog fired; `action` is a virDomainEventWatchdogAction."""

    action: int
    event_id: ClassVar[int] = DomainEventID.WATCHDOG


@dataclass(frozen=True, slots=True)
class IOError(Event):
    """A disk failed; `action` is a virDomainEventIOErrorAction."""

    src_path: str
    dev_alias: str
    action: int
    event_id: ClassVar[int] = DomainEventID.IO_ERROR


@dataclass(frozen=True, slots=True)
class IOErrorReason(Event):
    """The same with QEMU's word for why: "enospc" or ""."""

    src_path: str
    dev_alias: str
    action: int
    reason: str
    event_id: ClassVar[int] = DomainEventID.IO_ERROR_REASON


@dataclass(frozen=True, slots=True)
class GraphicsAddress:
    """`family` is a virDomainEventGraphicsAddressType."""

    family: int
    node: str
    service: str


@dataclass(frozen=True, slots=True)
class Graphics(Event):
    """A VNC or SPICE client came or went; `phase` is a virDomainEventGraphicsPhase, `subject` (type, name) pairs."""

    phase: int
    local: GraphicsAddress
    remote: GraphicsAddress
    auth_scheme: str
    subject: tuple[tuple[str, str], ...]
    event_id: ClassVar[int] = DomainEventID.GRAPHICS


@dataclass(frozen=True, slots=True)
class ControlError(Event):
    """The monitor can no longer be used though the machine lives."""

    event_id: ClassVar[int] = DomainEventID.CONTROL_ERROR


@dataclass(frozen=True, slots=True)
class TrayChange(Event):
    """A removable medium's tray moved; `reason` is a virDomainEventTrayChangeReason."""

    dev_alias: str
    reason: int
    event_id: ClassVar[int] = DomainEventID.TRAY_CHANGE


@dataclass(frozen=True, slots=True)
class PMWakeup(Event):
    """The guest woke from suspend to memory."""

    event_id: ClassVar[int] = DomainEventID.PMWAKEUP


@dataclass(frozen=True, slots=True)
class PMSuspend(Event):
    """The guest suspended itself to memory."""

    event_id: ClassVar[int] = DomainEventID.PMSUSPEND


@dataclass(frozen=True, slots=True)
class PMSuspendDisk(Event):
    """The guest suspended itself to disk."""

    event_id: ClassVar[int] = DomainEventID.PMSUSPEND_DISK


@dataclass(frozen=True, slots=True)
class BalloonChange(Event):
    """The guest's memory is now `actual` KiB."""

    actual: int
    event_id: ClassVar[int] = DomainEventID.BALLOON_CHANGE


@dataclass(frozen=True, slots=True)
class MemoryDeviceSizeChange(Event):
    """The guest has changed the size of a virtio-mem device to `size` KiB."""

    alias: str
    size: int
    event_id: ClassVar[int] = DomainEventID.MEMORY_DEVICE_SIZE_CHANGE


@dataclass(frozen=True, slots=True)
class DeviceEvent(Event):
    """What became of one device."""

    dev_alias: str


class DeviceAdded(DeviceEvent):
    """A device was plugged in."""

    __slots__ = ()
    event_id: ClassVar[int] = DomainEventID.DEVICE_ADDED


class DeviceRemoved(DeviceEvent):
    """The guest let go of a device."""

    __slots__ = ()
    event_id: ClassVar[int] = DomainEventID.DEVICE_REMOVED


class DeviceRemovalFailed(DeviceEvent):
    """The guest refused to let go of a device."""

    __slots__ = ()
    event_id: ClassVar[int] = DomainEventID.DEVICE_REMOVAL_FAILED


@dataclass(frozen=True, slots=True)
class AgentLifecycle(Event):
    """The guest agent came or went: virConnectDomainEventAgentLifecycleState and …Reason."""

    state: int
    reason: int
    event_id: ClassVar[int] = DomainEventID.AGENT_LIFECYCLE


@dataclass(frozen=True, slots=True)
class MetadataChange(Event):
    """Title, description or a metadata element changed; `type` is a virDomainMetadataType, `nsuri` the element's."""

    type: int
    nsuri: str | None
    event_id: ClassVar[int] = DomainEventID.METADATA_CHANGE


@dataclass(frozen=True, slots=True)
class MemoryFailure(Event):
    """Uncorrectable memory error: virDomainMemoryFailureRecipientType, …ActionType and flags."""

    recipient: int
    action: int
    flags: int
    event_id: ClassVar[int] = DomainEventID.MEMORY_FAILURE


@dataclass(frozen=True, slots=True)
class DiskChange(Event):
    """A disk has another image, or none: virConnectDomainEventDiskChangeReason."""

    old_src_path: str | None
    new_src_path: str | None
    dev_alias: str
    reason: int
    event_id: ClassVar[int] = DomainEventID.DISK_CHANGE


@dataclass(frozen=True, slots=True)
class BlockThreshold(Event):
    """An image was written beyond the mark that was set, by so many bytes."""

    dev: str
    path: str | None
    threshold: int
    excess: int
    event_id: ClassVar[int] = DomainEventID.BLOCK_THRESHOLD


@dataclass(frozen=True, slots=True)
class Tunable(Event):
    """Tuning was changed: `params` as virTypedParameters (name, type, value), such as `cputune.vcpupin0`."""

    params: tuple[tuple[str, int, int | str], ...]
    event_id: ClassVar[int] = DomainEventID.TUNABLE


@dataclass(frozen=True, slots=True)
class Autoscale(Event):
    """The autoscaler came to another decision, or has carried one out (Corral's own event); `details` is JSON text."""

    details: str
    event_id: ClassVar[int] = -2


@dataclass(frozen=True, slots=True)
class MonitorEvent(Event):
    """An event of QEMU's monitor as it came (the QEMU program's own events); `details` is JSON text or None."""

    event: str
    seconds: int
    micros: int
    details: str | None


E = TypeVar("E")


class EventBus(Generic[E]):
    """Carries events to subscribers, synchronously and in order.

    A subscriber runs inside the change that caused the event and before that change is acknowledged; it must not
    block, and its exceptions are logged and hurt nobody else.
    """

    def __init__(self) -> None:
        self._subscribers: dict[int, Callable[[E], None]] = {}
        self._next = 0

    def subscribe(self, subscriber: Callable[[E], None]) -> Callable[[], None]:
        """Call `subscriber` for every event from now on; returns the function that ends it."""
        token, self._next = self._next, self._next + 1
        self._subscribers[token] = subscriber
        return lambda: (self._subscribers.pop(token, None), None)[1]

    def emit(self, event: E) -> None:
        """Hand `event` to every subscriber."""
        for subscriber in tuple(self._subscribers.values()):
            try:
                subscriber(event)
            except Exception:
                log.exception("a subscriber failed on %r", event)
