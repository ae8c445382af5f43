"""Which events one client registered for, and the messages that an event becomes for it.

libvirt has two forms of each event message: the old one, for registrations of all domains without an id, and the one
with a callback id, which wraps the old message or repeats its members. `FORMS` says it for each event we produce.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from corral.constants import DomainEventID, SecretEventID, StoragePoolEventID
from corral.errors import InternalError, InvalidArgument
from corral.hypervisor import events
from corral.hypervisor.events import Autoscale, Event, Identity, MonitorEvent
from corral.protocol.procedures import Procedure, procedure

if TYPE_CHECKING:
    from corral.hypervisor.hypervisor import Hypervisor
    from corral.hypervisor.pools.pools import PoolEvent
    from corral.hypervisor.secrets import SecretEvent

#: One more than the greatest virDomainEventID.
EVENT_IDS = 1 + max(value for name, value in vars(DomainEventID).items() if name.isupper())

#: Characters of the name, or pattern, of QEMU's events that a client registers for.
PATTERN_MAX = 512
#: Registrations one client may have: every kind of event for some thousand domains.
CALLBACKS_MAX = 32768

#: virStoragePoolEventID → the message's procedure.
POOL_EVENTS = {
    StoragePoolEventID.LIFECYCLE: "storage_pool_event_lifecycle",
    StoragePoolEventID.REFRESH: "storage_pool_event_refresh",
}

#: virSecretEventID → the message's procedure.
SECRET_EVENTS = {
    SecretEventID.LIFECYCLE: "secret_event_lifecycle",
    SecretEventID.VALUE_CHANGED: "secret_event_value_changed",
}

Send = Callable[[Procedure, dict[str, Any]], None]


class Form(NamedTuple):
    """How an event goes over the wire: the two messages' procedures, the members that follow `dom`, what wraps them."""

    plain: str | None
    callback: str
    members: Callable[[Any], dict[str, Any]]
    nested: bool = True
    wrapper: tuple[tuple[str, int], ...] = ()


def _nothing(event: Event) -> dict[str, Any]:
    return {}


def _address(address: events.GraphicsAddress) -> dict[str, Any]:
    return {"family": address.family, "node": address.node, "service": address.service}


FORMS: dict[type[Event], Form] = {
    events.Lifecycle: Form(
        "domain_event_lifecycle",
        "domain_event_callback_lifecycle",
        lambda e: {"event": e.event, "detail": e.detail},
    ),
    events.Reboot: Form("domain_event_reboot", "domain_event_callback_reboot", _nothing),
    events.RTCChange: Form(
        "domain_event_rtc_change", "domain_event_callback_rtc_change", lambda e: {"offset": e.offset}
    ),
    events.Watchdog: Form("domain_event_watchdog", "domain_event_callback_watchdog", lambda e: {"action": e.action}),
    events.IOError: Form(
        "domain_event_io_error",
        "domain_event_callback_io_error",
        lambda e: {"srcPath": e.src_path, "devAlias": e.dev_alias, "action": e.action},
    ),
    events.IOErrorReason: Form(
        "domain_event_io_error_reason",
        "domain_event_callback_io_error_reason",
        lambda e: {"srcPath": e.src_path, "devAlias": e.dev_alias, "action": e.action, "reason": e.reason},
    ),
    events.Graphics: Form(
        "domain_event_graphics",
        "domain_event_callback_graphics",
        lambda e: {
            "phase": e.phase,
            "local": _address(e.local),
            "remote": _address(e.remote),
            "authScheme": e.auth_scheme,
            "subject": [{"type": kind, "name": name} for kind, name in e.subject],
        },
    ),
    events.ControlError: Form("domain_event_control_error", "domain_event_callback_control_error", _nothing),
    events.TrayChange: Form(
        "domain_event_tray_change",
        "domain_event_callback_tray_change",
        lambda e: {"devAlias": e.dev_alias, "reason": e.reason},
    ),
    events.PMWakeup: Form(
        "domain_event_pmwakeup", "domain_event_callback_pmwakeup", _nothing, wrapper=(("reason", 0),)
    ),
    events.PMSuspend: Form(
        "domain_event_pmsuspend", "domain_event_callback_pmsuspend", _nothing, wrapper=(("reason", 0),)
    ),
    events.PMSuspendDisk: Form(
        "domain_event_pmsuspend_disk", "domain_event_callback_pmsuspend_disk", _nothing, wrapper=(("reason", 0),)
    ),
    events.BalloonChange: Form(
        "domain_event_balloon_change", "domain_event_callback_balloon_change", lambda e: {"actual": e.actual}
    ),
    events.MemoryDeviceSizeChange: Form(
        None, "domain_event_memory_device_size_change", lambda e: {"alias": e.alias, "size": e.size}, nested=False
    ),
    events.DeviceRemoved: Form(
        "domain_event_device_removed", "domain_event_callback_device_removed", lambda e: {"devAlias": e.dev_alias}
    ),
    events.DeviceAdded: Form(
        None, "domain_event_callback_device_added", lambda e: {"devAlias": e.dev_alias}, nested=False
    ),
    events.DeviceRemovalFailed: Form(
        None, "domain_event_callback_device_removal_failed", lambda e: {"devAlias": e.dev_alias}, nested=False
    ),
    events.AgentLifecycle: Form(
        None,
        "domain_event_callback_agent_lifecycle",
        lambda e: {"state": e.state, "reason": e.reason},
        nested=False,
    ),
    events.DiskChange: Form(
        "domain_event_disk_change",
        "domain_event_callback_disk_change",
        lambda e: {
            "oldSrcPath": e.old_src_path,
            "newSrcPath": e.new_src_path,
            "devAlias": e.dev_alias,
            "reason": e.reason,
        },
    ),
    events.BlockThreshold: Form(
        None,
        "domain_event_block_threshold",
        lambda e: {"dev": e.dev, "path": e.path, "threshold": e.threshold, "excess": e.excess},
        nested=False,
    ),
    events.Tunable: Form(
        None,
        "domain_event_callback_tunable",
        lambda e: {"params": [{"field": name, "value": (kind, value)} for name, kind, value in e.params]},
        nested=False,
    ),
    events.MetadataChange: Form(
        None,
        "domain_event_callback_metadata_change",
        lambda e: {"type": e.type, "nsuri": e.nsuri},
        nested=False,
    ),
    events.MemoryFailure: Form(
        None,
        "domain_event_memory_failure",
        lambda e: {"recipient": e.recipient, "action": e.action, "flags": e.flags},
        nested=False,
    ),
}


class _Callback(NamedTuple):
    """One registration with an id: of a kind of event, or of QEMU's events whose names match."""

    event_id: int | None
    uuid: UUID | None
    matches: Callable[[str], object] | None = None


def wire_identity(dom: Identity) -> dict[str, Any]:
    """A domain as it was when the event happened: struct remote_nonnull_domain."""
    return {"name": dom.name, "uuid": dom.uuid.bytes, "id": dom.id}


class Subscriptions:
    """One client's registrations."""

    def __init__(self, send: Send, hypervisor: Hypervisor, loop: asyncio.AbstractEventLoop) -> None:
        """`send` sends the client a message."""
        self._send = send
        self._hypervisor = hypervisor
        self._loop = loop
        self._stop: Callable[[], None] | None = None
        self._plain: set[int] = set()
        self._callbacks: dict[int, _Callback] = {}
        #: Of what is no domain: the procedure of the messages, and which pool or secret.
        self._others: dict[int, tuple[str, UUID | None]] = {}
        self._stop_others: dict[str, Callable[[], None]] = {}
        self._next_id = 0
        self._close_watched = False
        self._scaling_watched = False

    def add_plain(self, event_id: int) -> None:
        """Register for a kind of event of all domains, without an id."""
        self._check(event_id)
        if event_id in self._plain:
            raise InternalError(f"domain event {event_id} already registered")
        self._plain.add(event_id)
        self._listen()
        self._loop.call_soon(self._tell_missed_plain, event_id)

    def remove_plain(self, event_id: int) -> None:
        """Undo it."""
        self._check(event_id)
        if event_id not in self._plain:
            raise InternalError(f"domain event {event_id} not registered")
        self._plain.remove(event_id)

    def add(self, event_id: int, uuid: UUID | None) -> int:
        """Register for a kind of event of one domain or all; the callback id."""
        self._check(event_id)
        return self._add(_Callback(event_id, uuid))

    def add_monitor(self, name: str | None, uuid: UUID | None, *, regex: bool, nocase: bool) -> int:
        """Register for QEMU's own events: of any name, of this one, or of those that match; the callback id."""
        matches: Callable[[str], object] | None = None
        if name is not None:
            if len(name) > PATTERN_MAX:
                raise InvalidArgument(f"an event's name of {len(name)} characters; {PATTERN_MAX} are enough for all")
            try:
                pattern = re.compile(name if regex else re.escape(name), re.IGNORECASE if nocase else 0)
            except re.error as error:
                raise InvalidArgument(f"failed to analyze regex '{name}': {error}") from error
            matches = pattern.search if regex else pattern.fullmatch
        return self._add(_Callback(None, uuid, matches))

    def add_silent(self) -> int:
        """Register for events of things that are not served; the callback id."""
        return self._add(_Callback(-1, None))

    def add_pool(self, event_id: int, uuid: UUID | None) -> int:
        """Register for a virStoragePoolEventID of one pool or all; the callback id."""
        if "pools" not in self._stop_others:
            self._stop_others["pools"] = self._hypervisor.pools.events.subscribe(self._deliver_pool)
        return self._add_other(POOL_EVENTS, event_id, uuid)

    def add_secret(self, event_id: int, uuid: UUID | None) -> int:
        """Register for a virSecretEventID of one secret or all; the callback id."""
        if "secrets" not in self._stop_others:
            self._stop_others["secrets"] = self._hypervisor.secrets.events.subscribe(self._deliver_secret)
        return self._add_other(SECRET_EVENTS, event_id, uuid)

    def _add_other(self, procedures: dict[int, str], event_id: int, uuid: UUID | None) -> int:
        if event_id not in procedures:
            raise InternalError(f"unsupported event ID {event_id}")
        callback_id = self.add_silent()
        self._others[callback_id] = (procedures[event_id], uuid)
        return callback_id

    def remove(self, callback_id: int) -> None:
        """Undo the registration with that id."""
        self._others.pop(callback_id, None)
        if self._callbacks.pop(callback_id, None) is None:
            raise InternalError(f"event callback {callback_id} not registered")

    def watch_close(self) -> None:
        """Register the close callback."""
        if self._close_watched:
            raise InternalError("A close callback is already registered")
        self._close_watched = True

    def unwatch_close(self) -> None:
        """Undo it."""
        if not self._close_watched:
            raise InternalError("close callback is not registered")
        self._close_watched = False

    def watch_scaling(self, on: bool) -> None:
        """Tell this client what the autoscaler decides, or no longer."""
        self._scaling_watched = on
        if on:
            self._listen()

    def clear(self) -> None:
        """Undo everything: the client is gone."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        for stop in self._stop_others.values():
            stop()
        self._stop_others.clear()
        self._plain.clear()
        self._callbacks.clear()
        self._others.clear()

    def deliver(self, event: Event) -> None:
        """Send the messages that an event becomes for this client."""
        if isinstance(event, MonitorEvent):
            self._deliver_monitor(event)
            return
        if isinstance(event, Autoscale):
            if self._scaling_watched:
                body = {"dom": wire_identity(event.dom), "json": event.details}
                self._send(procedure("corral.event_autoscale"), body)
            return
        if event.event_id in self._plain:
            self._deliver_plain(event)
        for callback_id, callback in tuple(self._callbacks.items()):
            if callback.event_id == event.event_id and callback.uuid in (None, event.dom.uuid):
                self._deliver_to(callback_id, event)

    def _deliver_plain(self, event: Event) -> None:
        form = FORMS[type(event)]
        if form.plain is not None:
            self._send(procedure(form.plain), {"dom": wire_identity(event.dom), **form.members(event)})

    def _deliver_to(self, callback_id: int, event: Event) -> None:
        form = FORMS[type(event)]
        members = {"dom": wire_identity(event.dom), **form.members(event)}
        body = {"callbackID": callback_id, **dict(form.wrapper), **({"msg": members} if form.nested else members)}
        self._send(procedure(form.callback), body)

    def _deliver_monitor(self, event: MonitorEvent) -> None:
        for callback_id, callback in tuple(self._callbacks.items()):
            if callback.event_id is not None or callback.uuid not in (None, event.dom.uuid):
                continue
            if callback.matches is not None and not callback.matches(event.event):
                continue
            body = {
                "callbackID": callback_id,
                "dom": wire_identity(event.dom),
                "event": event.event,
                "seconds": event.seconds,
                "micros": event.micros,
                "details": event.details,
            }
            self._send(procedure("qemu.domain_monitor_event"), body)

    def _deliver_pool(self, event: PoolEvent) -> None:
        pool = {"name": event.name, "uuid": event.uuid.bytes}
        kind = StoragePoolEventID.REFRESH if event.lifecycle is None else StoragePoolEventID.LIFECYCLE
        self._deliver_other(POOL_EVENTS[kind], event.uuid, {"pool": pool}, event.lifecycle)

    def _deliver_secret(self, event: SecretEvent) -> None:
        usage, name = event.usage
        secret = {"uuid": event.uuid.bytes, "usageType": usage, "usageID": name}
        kind = SecretEventID.VALUE_CHANGED if event.lifecycle is None else SecretEventID.LIFECYCLE
        self._deliver_other(SECRET_EVENTS[kind], event.uuid, {"secret": secret}, event.lifecycle)

    def _deliver_other(self, name: str, uuid: UUID, what: dict[str, Any], lifecycle: int | None) -> None:
        body = what if lifecycle is None else {**what, "event": lifecycle, "detail": 0}
        for callback_id, (wanted, of) in tuple(self._others.items()):
            if name == wanted and of in (None, uuid):
                self._send(procedure(name), {"callbackID": callback_id, **body})

    def _check(self, event_id: int) -> None:
        if not 0 <= event_id < EVENT_IDS:
            raise InternalError(f"unsupported event ID {event_id}")

    def _add(self, callback: _Callback) -> int:
        if len(self._callbacks) >= CALLBACKS_MAX:
            raise InternalError(f"too many event callbacks: at most {CALLBACKS_MAX}")
        callback_id, self._next_id = self._next_id, self._next_id + 1
        self._callbacks[callback_id] = callback
        self._listen()
        if callback.event_id is not None:
            self._loop.call_soon(self._tell_missed, callback_id)
        return callback_id

    def _listen(self) -> None:
        if self._stop is None:
            self._stop = self._hypervisor.events.subscribe(self.deliver)

    def _tell_missed(self, callback_id: int) -> None:
        """What happened while no daemon ran, once the client knows its callback's id."""
        callback = self._callbacks.get(callback_id)
        if callback is None:
            return
        for event in self._hypervisor.missed_events:
            if callback.event_id == event.event_id and callback.uuid in (None, event.dom.uuid):
                self._deliver_to(callback_id, event)

    def _tell_missed_plain(self, event_id: int) -> None:
        for event in self._hypervisor.missed_events if event_id in self._plain else ():
            if event.event_id == event_id:
                self._deliver_plain(event)
