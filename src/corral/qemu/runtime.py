"""What only the start of a machine knows, and the parts that a plan is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PartKind = Literal["fdset", "fd", "blockdev", "object", "netdev", "chardev", "device"]
Command = tuple[str, dict[str, Any]]
"""A QMP command and its arguments."""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a machine.

    `props` is in QMP's form without the id and, for a device, with its `driver`; for an object with its `qom-type`;
    for a blockdev with its `driver`; for a netdev with its `type`. A chardev's is its ChardevBackend:
    `{"type": "socket", "data": {…}}`; a descriptor set's is the file to open (`corral.qemu.descriptors`). A `fd`
    has none: its descriptor comes from whoever starts or plugs, and a netdev names it by its id. `id` is the device id,
    object id, chardev id, netdev id, node name or set number.
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
    tables: int = 0
    """Bytes of a qcow2 image's tables that say where all of its clusters are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphicsPorts:
    """The TCP ports taken for one `<graphics>`; None where it has no such port."""

    port: int | None = None
    tls_port: int | None = None
    websocket: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayTLS:
    """Certificates of displays: `directory` has ca-cert.pem, server-cert.pem and server-key.pem, readable for QEMU.

    SPICE uses them on its TLS port. `vnc`: VNC clients must speak TLS; `verify`: and show a certificate of that CA.
    """

    directory: Path
    vnc: bool = False
    verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What only the start knows. All paths are absolute; nothing here is opened or created by the plan.

    `accel`: the accelerator to use; the caller has refused `<domain type='kvm'>` where KVM is not to be used.
    `run_dir`: the domain's own existing directory, in which QEMU is started. QEMU makes the sockets of channels without
    a path there (`channel-NAME`), and that of a VNC server with `<listen type='socket'/>` without one (`vnc.sock`); the
    kernel limits such paths to 107 bytes.
    `monitor_fd`: number of the listening UNIX socket that QEMU inherits for its QMP monitor; None: QEMU listens itself
    at `run_dir/monitor.sock`.
    `chains`: for each disk's target name (`vda`) its images from the top down to the base. A disk missing here has the
    chain that its document tells: `<source>` and explicit `<backingStore>`. Empty drives need no entry.
    `graphics`: ports by the index of the `<graphics>` in the document. One missing here has the ports of the document.
    `listen`: the address of displays whose document names none. `tls`: their certificates; None: there are none.
    `nvram`: the domain's own UEFI variable store, existing; None: the path in `<nvram>`.
    `now`: seconds since 1970, for `<clock offset='variable'>`.
    `reserve`: False where the guest's memory is more than the host has: it is promised, and found page by page.
    `vhost`: whether the host's kernel can move the packets of virtio cards on taps (vhost-net).
    `engines`: how the host's kernel takes asynchronous I/O, in QEMU's words, the best first.
    `generics`: the files of the host's SCSI devices (`/dev/sg0`) by host, channel, target and LUN (`0:0:0:0`).
    `fds`: copies that QEMU inherits of files to be read that it may not open itself: path → descriptor.
    """

    accel: Literal["kvm", "tcg"]
    run_dir: Path
    monitor_fd: int | None = None
    chains: Mapping[str, tuple[Image, ...]] = field(default_factory=dict)
    graphics: Mapping[int, GraphicsPorts] = field(default_factory=dict)
    listen: str = "127.0.0.1"
    tls: DisplayTLS | None = None
    nvram: Path | None = None
    now: float = 0.0
    reserve: bool = True
    vhost: bool = False
    fds: Mapping[str, int] = field(default_factory=dict)
    engines: tuple[str, ...] = ()
    generics: Mapping[str, str] = field(default_factory=dict)
