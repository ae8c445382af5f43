"""The plan: what one QEMU process shall consist of, as data.

A domain becomes machine-level options and an ordered list of parts in QEMU's own vocabulary (QAPI). The plan is a pure
function of the document, of what the binary can do, and of the few facts that only the start knows (`Runtime`).
`corral.qemu.render` turns it into arguments for a cold start, or into QMP commands for a hotplug.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from corral.model.domain import Domain
from corral.qemu.binary import Binary

PartKind = Literal["blockdev", "object", "netdev", "chardev", "device"]


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a machine.

    `props` is in QMP's form without the id and, for a device, with its `driver`; for an object with its `qom-type`;
    for a blockdev with its `driver`; for a netdev with its `type`. A chardev's is its ChardevBackend:
    `{"type": "socket", "data": {…}}`. `id` is the device id, object id, chardev id, netdev id or node name.
    """

    kind: PartKind
    id: str
    props: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image file or block device of a disk's chain, as the caller found it in the image headers."""

    path: Path
    format: str
    """`raw`, `qcow2`, … as QEMU names its format drivers."""
    block: bool = False
    """True for a host block device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphicsPorts:
    """The TCP ports taken for one `<graphics>`; None where it has no such port."""

    port: int | None = None
    tls_port: int | None = None
    websocket: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What only the start knows. All paths are absolute; nothing here is opened or created by the plan.

    `accel`: the accelerator to use; the caller has refused `<domain type='kvm'>` where KVM is not to be used.
    `run_dir`: the domain's own existing directory for sockets (channels without a path get
    `run_dir/channel/<name>`'s place: see `channel_path`). Socket paths are limited to 107 bytes by the kernel.
    `monitor_fd`: number of the listening UNIX socket that QEMU inherits for its QMP monitor; None: QEMU listens itself
    at `run_dir/monitor.sock`.
    `chains`: for each disk's target name (`vda`) its images from the top down to the base. A disk missing here has the
    chain that its document tells: `<source>` and explicit `<backingStore>`. Empty drives need no entry.
    `graphics`: ports by the index of the `<graphics>` in the document. One missing here has the ports of the document.
    `nvram`: the domain's own UEFI variable store, existing; None: the path in `<nvram>`.
    `fds`: descriptors opened by the caller that QEMU inherits: name → number; `Plan.fds` lists those used.
    """

    accel: Literal["kvm", "tcg"]
    run_dir: Path
    monitor_fd: int | None = None
    chains: Mapping[str, tuple[Image, ...]] = field(default_factory=dict)
    graphics: Mapping[int, GraphicsPorts] = field(default_factory=dict)
    nvram: Path | None = None
    fds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One QEMU process: emulator, machine-level options (option and value together), parts in order, descriptors."""

    emulator: str
    options: tuple[tuple[str, ...], ...]
    parts: tuple[Part, ...]
    fds: tuple[int, ...] = ()


def plan(domain: Domain, binary: Binary, runtime: Runtime) -> Plan:
    """The plan of a domain that went through `defaults.complete` and `aliases.assign`.

    Raises ConfigUnsupported for what the binary lacks.
    """
    raise NotImplementedError


def device_parts(domain: Domain, device: Any, binary: Binary, runtime: Runtime) -> list[Part]:
    """The parts of one device of the domain, for a hotplug: the same as in the domain's own plan.

    `domain` is the live document with the device already inserted, completed and aliased.
    """
    raise NotImplementedError
