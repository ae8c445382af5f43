"""What happens to domains, as typed values; `listening` brings them as they come.

One class an event of libvirt (virConnectDomainEventID in libvirt-domain.h); `KINDS` says which message carries it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from corral import constants
from corral.constants import DomainEventID, name_of

if TYPE_CHECKING:
    from corral.client.domain import Domain


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to `domain`; `time` is when we heard of it, in seconds since 1970."""

    kind: ClassVar[str] = "event"
    domain: Domain
    time: float = field(default_factory=time.time)

    def details(self) -> dict[str, Any]:
        """What is particular to this kind, ready for JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("domain", "time")}

    def __str__(self) -> str:
        """One line for a person, without the domain's name and the time."""
        said = ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in self.details().items() if value not in (None, "")
        )
        return f"{self.kind.replace('-', ' ')}{f': {said}' if said else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle(Event):
    """The domain was defined, started, suspended, stopped, …; `detail` says why, both in libvirt's words."""

    kind: ClassVar[str] = "lifecycle"
    event: str
    detail: str

    def __str__(self) -> str:
        return f"{self.event} ({self.detail})" if self.detail else self.event


@dataclass(frozen=True, slots=True, kw_only=True)
class Reboot(Event):
    """The guest rebooted."""

    kind: ClassVar[str] = "reboot"

    def __str__(self) -> str:
        return "rebooted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RTCChange(Event):
    """The guest set its clock; `offset` is in seconds from UTC."""

    kind: ClassVar[str] = "rtc-change"
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog(Event):
    """The guest's watchdog fired; `action` is what was done."""

    kind: ClassVar[str] = "watchdog"
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IOError(Event):
    """A disk failed."""

    kind: ClassVar[str] = "io-error"
    path: str
    alias: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics(Event):
    """A viewer connected to or left the graphics server; addresses are `node:service`."""

    kind: ClassVar[str] = "graphics"
    phase: str
    local: str
    remote: str
    auth_scheme: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlError(Event):
    """The daemon lost its hold on the domain's QEMU."""

    kind: ClassVar[str] = "control-error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscale(Event):
    """The autoscaler decided something else than before, or has done it (`result`); Corral's own daemon only."""

    kind: ClassVar[str] = "autoscale"
    resource: str
    verdict: str
    amount: int
    wanted: int
    reason: str
    inputs: dict[str, float]
    dry_run: bool
    result: str = ""

    def __str__(self) -> str:
        to = f" to {self.amount}" if self.verdict in ("up", "down") else ""
        figures = ", ".join(f"{name} {value:g}" for name, value in self.inputs.items())
        return (
            f"{self.resource} {self.verdict}{to}: {self.result or self.reason} ({figures})"
            f"{', dry run' if self.dry_run else ''}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskChange(Event):
    """A disk's medium was dropped because it is missing."""

    kind: ClassVar[str] = "disk-change"
    alias: str
    old_path: str | None
    new_path: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrayChange(Event):
    """A removable medium's tray opened or closed."""

    kind: ClassVar[str] = "tray-change"
    alias: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakeup(Event):
    """The guest woke up."""

    kind: ClassVar[str] = "pmwakeup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend(Event):
    """The guest suspended itself to memory."""

    kind: ClassVar[str] = "pmsuspend"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendDisk(Event):
    """The guest suspended itself to disk."""

    kind: ClassVar[str] = "pmsuspend-disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalloonChange(Event):
    """The guest's memory is now `memory` KiB."""

    kind: ClassVar[str] = "balloon-change"
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAdded(Event):
    """A device was plugged in."""

    kind: ClassVar[str] = "device-added"
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRemoved(Event):
    """A device is gone: the guest has let go of it."""

    kind: ClassVar[str] = "device-removed"
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRemovalFailed(Event):
    """The guest refused to let a device go."""

    kind: ClassVar[str] = "device-removal-failed"
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJob(Event):
    """A job on a disk (copy, commit, pull) ended, or became ready."""

    kind: ClassVar[str] = "block-job"
    disk: str
    job: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable(Event):
    """Settings of the running domain changed."""

    kind: ClassVar[str] = "tunable"
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLifecycle(Event):
    """The guest agent connected or went away."""

    kind: ClassVar[str] = "agent-lifecycle"
    state: str
    reason: str

    def __str__(self) -> str:
        return f"agent {self.state}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationIteration(Event):
    """A migration began its next pass over memory."""

    kind: ClassVar[str] = "migration-iteration"
    iteration: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCompleted(Event):
    """A long job ended; `params` is its statistics."""

    kind: ClassVar[str] = "job-completed"
    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataChange(Event):
    """The title, description or an application's metadata changed."""

    kind: ClassVar[str] = "metadata-change"
    type: str
    uri: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockThreshold(Event):
    """A disk was written beyond the mark that was set; bytes."""

    kind: ClassVar[str] = "block-threshold"
    disk: str
    path: str | None
    threshold: int
    excess: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFailure(Event):
    """The host's memory failed under the guest."""

    kind: ClassVar[str] = "memory-failure"
    recipient: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryDeviceSizeChange(Event):
    """A memory device of the guest has another size; KiB."""

    kind: ClassVar[str] = "memory-device-size-change"
    alias: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NICMACChange(Event):
    """The guest changed an interface's address."""

    kind: ClassVar[str] = "nic-mac-change"
    alias: str
    old: str
    new: str


def _word(group: type, value: int) -> str:
    return name_of(group, value) or str(value)


LIFECYCLE_DETAILS: dict[int, type] = {
    constants.DomainEventType.DEFINED: constants.DomainEventDefinedDetailType,
    constants.DomainEventType.UNDEFINED: constants.DomainEventUndefinedDetailType,
    constants.DomainEventType.STARTED: constants.DomainEventStartedDetailType,
    constants.DomainEventType.SUSPENDED: constants.DomainEventSuspendedDetailType,
    constants.DomainEventType.RESUMED: constants.DomainEventResumedDetailType,
    constants.DomainEventType.STOPPED: constants.DomainEventStoppedDetailType,
    constants.DomainEventType.SHUTDOWN: constants.DomainEventShutdownDetailType,
    constants.DomainEventType.PMSUSPENDED: constants.DomainEventPMSuspendedDetailType,
    constants.DomainEventType.CRASHED: constants.DomainEventCrashedDetailType,
}


def _lifecycle(msg: Any) -> dict[str, Any]:
    group = LIFECYCLE_DETAILS.get(msg.event)
    detail = _word(group, msg.detail) if group else str(msg.detail)
    return {"event": _word(constants.DomainEventType, msg.event), "detail": detail}


def _params(msg: Any) -> dict[str, Any]:
    from corral.protocol.typed_params import unpack

    return {"params": unpack(msg.params)}


def _alias(msg: Any) -> dict[str, Any]:
    return {"alias": msg.devAlias}


def _nothing(msg: Any) -> dict[str, Any]:
    return {}


def _endpoint(address: Any) -> str:
    return f"{address.node}:{address.service}" if address.service else str(address.node)


Build = Callable[[Any], dict[str, Any]]

# Event id → the message that carries it, its class, and its fields from the message.
KINDS: dict[int, tuple[str, type[Event], Build]] = {
    DomainEventID.LIFECYCLE: ("domain_event_callback_lifecycle", Lifecycle, _lifecycle),
    DomainEventID.REBOOT: ("domain_event_callback_reboot", Reboot, _nothing),
    DomainEventID.RTC_CHANGE: ("domain_event_callback_rtc_change", RTCChange, lambda msg: {"offset": msg.offset}),
    DomainEventID.WATCHDOG: (
        "domain_event_callback_watchdog",
        Watchdog,
        lambda msg: {"action": _word(constants.DomainEventWatchdogAction, msg.action)},
    ),
    DomainEventID.GRAPHICS: (
        "domain_event_callback_graphics",
        Graphics,
        lambda msg: {
            "phase": _word(constants.DomainEventGraphicsPhase, msg.phase),
            "local": _endpoint(msg.local),
            "remote": _endpoint(msg.remote),
            "auth_scheme": msg.authScheme,
        },
    ),
    DomainEventID.IO_ERROR_REASON: (
        "domain_event_callback_io_error_reason",
        IOError,
        lambda msg: {
            "path": msg.srcPath,
            "alias": msg.devAlias,
            "action": _word(constants.DomainEventIOErrorAction, msg.action),
            "reason": msg.reason,
        },
    ),
    DomainEventID.CONTROL_ERROR: ("domain_event_callback_control_error", ControlError, _nothing),
    DomainEventID.DISK_CHANGE: (
        "domain_event_callback_disk_change",
        DiskChange,
        lambda msg: {
            "alias": msg.devAlias,
            "old_path": msg.oldSrcPath,
            "new_path": msg.newSrcPath,
            "reason": _word(constants.ConnectDomainEventDiskChangeReason, msg.reason),
        },
    ),
    DomainEventID.TRAY_CHANGE: (
        "domain_event_callback_tray_change",
        TrayChange,
        lambda msg: {"alias": msg.devAlias, "reason": _word(constants.DomainEventTrayChangeReason, msg.reason)},
    ),
    DomainEventID.PMWAKEUP: ("domain_event_callback_pmwakeup", Wakeup, _nothing),
    DomainEventID.PMSUSPEND: ("domain_event_callback_pmsuspend", Suspend, _nothing),
    DomainEventID.BALLOON_CHANGE: (
        "domain_event_callback_balloon_change",
        BalloonChange,
        lambda msg: {"memory": msg.actual},
    ),
    DomainEventID.PMSUSPEND_DISK: ("domain_event_callback_pmsuspend_disk", SuspendDisk, _nothing),
    DomainEventID.DEVICE_REMOVED: ("domain_event_callback_device_removed", DeviceRemoved, _alias),
    DomainEventID.BLOCK_JOB_2: (
        "domain_event_block_job_2",
        BlockJob,
        lambda msg: {
            "disk": msg.dst,
            "job": _word(constants.DomainBlockJobType, msg.type),
            "status": _word(constants.ConnectDomainEventBlockJobStatus, msg.status),
        },
    ),
    DomainEventID.TUNABLE: ("domain_event_callback_tunable", Tunable, _params),
    DomainEventID.AGENT_LIFECYCLE: (
        "domain_event_callback_agent_lifecycle",
        AgentLifecycle,
        lambda msg: {
            "state": _word(constants.ConnectDomainEventAgentLifecycleState, msg.state),
            "reason": _word(constants.ConnectDomainEventAgentLifecycleReason, msg.reason),
        },
    ),
    DomainEventID.DEVICE_ADDED: ("domain_event_callback_device_added", DeviceAdded, _alias),
    DomainEventID.MIGRATION_ITERATION: (
        "domain_event_callback_migration_iteration",
        MigrationIteration,
        lambda msg: {"iteration": msg.iteration},
    ),
    DomainEventID.JOB_COMPLETED: ("domain_event_callback_job_completed", JobCompleted, _params),
    DomainEventID.DEVICE_REMOVAL_FAILED: (
        "domain_event_callback_device_removal_failed",
        DeviceRemovalFailed,
        _alias,
    ),
    DomainEventID.METADATA_CHANGE: (
        "domain_event_callback_metadata_change",
        MetadataChange,
        lambda msg: {"type": _word(constants.DomainMetadataType, msg.type), "uri": msg.nsuri},
    ),
    DomainEventID.BLOCK_THRESHOLD: (
        "domain_event_block_threshold",
        BlockThreshold,
        lambda msg: {"disk": msg.dev, "path": msg.path, "threshold": msg.threshold, "excess": msg.excess},
    ),
    DomainEventID.MEMORY_FAILURE: (
        "domain_event_memory_failure",
        MemoryFailure,
        lambda msg: {
            "recipient": _word(constants.DomainMemoryFailureRecipientType, msg.recipient),
            "action": _word(constants.DomainMemoryFailureActionType, msg.action),
        },
    ),
    DomainEventID.MEMORY_DEVICE_SIZE_CHANGE: (
        "domain_event_memory_device_size_change",
        MemoryDeviceSizeChange,
        lambda msg: {"alias": msg.alias, "size": msg.size},
    ),
    DomainEventID.NIC_MAC_CHANGE: (
        "domain_event_nic_mac_change",
        NICMACChange,
        lambda msg: {"alias": msg.alias, "old": msg.oldMAC, "new": msg.newMAC},
    ),
}

#: Corral's own events have numbers here that libvirt's will never have.
AUTOSCALE = 1 << 20
KINDS[AUTOSCALE] = (
    "corral.event_autoscale",
    Autoscale,
    lambda msg: {name: value for name, value in json.loads(msg.json).items() if name in Autoscale.__dataclass_fields__},
)

NAMES: dict[str, int] = {event_class.kind: number for number, (_, event_class, _) in KINDS.items()}
