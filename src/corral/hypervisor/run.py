"""One run of a domain: what is known of its QEMU process from the moment a start is decided to its last trace."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.errors import OperationInvalid, OperationTimeout
from corral.hypervisor.lifecycle import Cause

if TYPE_CHECKING:
    from corral.hypervisor.devices.lending import Lent
    from corral.hypervisor.documents import Definition
    from corral.hypervisor.guest.stream import ByteStream
    from corral.model.devices.device import Device
    from corral.qemu.agent import Agent
    from corral.qemu.machine import Machine
    from corral.qemu.monitor import MonitorEvent
    from corral.qemu.process import Process
    from corral.qemu.runtime import Part

#: The file in a run's directory on which QEMU's monitor listens.
MONITOR_SOCKET = "monitor.sock"


@dataclass(frozen=True, slots=True, eq=False)
class Leftover:
    """What a plug that failed has left in QEMU, until the guest lets go of it."""

    parts: tuple[Part, ...]
    devices: tuple[Device, ...]


@dataclass(slots=True, eq=False)
class Run:
    """The facts of one run; `base` is the document as started, `live` the same with what only a running one has."""

    id: int
    directory: Path
    log: Path
    log_offset: int
    base: Definition
    live: Definition
    process: Process | None = None
    machine: Machine | None = None
    #: The helper for persistent reservations, if one of its disks has any.
    reservations: Process | None = None
    agent: Agent | None = None
    #: Who shall take this run with them when they go (autodestroy); `autodestroy` survives them.
    owner: object | None = None
    autodestroy: bool = False
    #: It was to stay paused when its start was done.
    start_paused: bool = False
    #: KiB that the guest has now, 0 when unknown.
    balloon: int = 0
    #: The start is complete: from now on the end of the process is an event of its own, not a failure of the start.
    ready: bool = False
    #: Somebody is ending it and will report the end; `ended` is done when that is through.
    ending: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    #: What the next STOP or RESUME that QEMU reports is due to.
    stop_cause: Cause = Cause.STOP
    resume_cause: Cause = Cause.RESUME
    #: The next power-off of the guest's is the first half of a reboot that was asked for.
    fake_reboot: bool = False
    #: The guest has powered off and is being booted again: its stop and go are nobody's business.
    booting_again: bool = False
    #: Since when (monotonic seconds) the monitor does not answer although the process lives.
    monitor_lost: float | None = None
    starting: asyncio.Task[Any] | None = None
    #: What QEMU reported while the start was not complete: heard when it is.
    early: list[MonitorEvent] = field(default_factory=list)
    #: Who waits for the guest's answer to a plug or an unplug of a vCPU, by device alias (`answers`).
    answers: dict[str, asyncio.Future[str]] = field(default_factory=dict)
    #: The lowest number that no block node of this run has had; 0 when only the document tells.
    next_node: int = 0
    #: Sets of descriptors that QEMU shall close: 7.2 does so only when it is told while the machine runs.
    kept_files: set[int] = field(default_factory=set)
    #: Parts of plugs that failed, which the guest has yet to let go of.
    leftovers: list[Leftover] = field(default_factory=list)
    #: The macvtaps made for it: name → address; and the passt processes of its cards, by alias (`links`).
    macvtaps: dict[str, str] = field(default_factory=dict)
    passts: dict[str, Process] = field(default_factory=dict)
    #: The multicast groups that guests chose for macvtaps, by the macvtap's name.
    groups: dict[str, frozenset[str]] = field(default_factory=dict)
    #: PCI functions and SCSI devices of the host that this run has, by name (`lending`).
    lent: dict[str, Lent] = field(default_factory=dict)
    #: Programs beside QEMU that serve its devices, by device alias (`servers`).
    servers: dict[str, Process] = field(default_factory=dict)
    #: Open console and channel sessions by device alias: one at a time each.
    sessions: dict[str, ByteStream] = field(default_factory=dict)

    @property
    def monitor_path(self) -> Path:
        """QEMU's monitor socket."""
        return self.directory / MONITOR_SOCKET

    def require_machine(self) -> Machine:
        """The machine with its monitor; OperationInvalid while it is being made, OperationTimeout when it is lost."""
        if self.machine is not None and self.monitor_lost is None:
            return self.machine
        if self.monitor_lost is not None:
            raise OperationTimeout("the monitor of this domain's QEMU does not answer")
        raise OperationInvalid("domain is still being started")
