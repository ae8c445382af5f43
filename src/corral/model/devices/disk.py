"""Disks. https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_xml import attr, element

from corral.model.devices.device import BootableDevice, DeviceSeclabel, Queues, VirtioOptions
from corral.model.element import Element, OnOff, Unsigned

DiskType = Literal["file", "block"]
DiskBus = Literal["virtio", "scsi", "sata", "ide", "usb"]
ImageFormat = Literal[
    "raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhd", "luks", "dmg", "bochs", "cloop", "iso", "cow", "fat"
]
StartupPolicy = Literal["mandatory", "requisite", "optional"]


PathOrNothing = Annotated[str | None, BeforeValidator(lambda path: path or None)]
"""An empty path means none, as management programs write it for an empty drive."""


class DiskDriver(VirtioOptions, tag="driver"):
    """How the host serves the image."""

    name: str | None = attr(default=None)
    type: ImageFormat | None = attr(default=None)
    cache: Literal["default", "none", "writethrough", "writeback", "directsync", "unsafe"] | None = attr(default=None)
    error_policy: Literal["stop", "report", "ignore", "enospace"] | None = attr(default=None)
    rerror_policy: Literal["stop", "report", "ignore"] | None = attr(default=None)
    io: Literal["native", "threads", "io_uring"] | None = attr(default=None)
    ioeventfd: OnOff | None = attr(default=None)
    event_idx: OnOff | None = attr(default=None)
    copy_on_read: OnOff | None = attr(default=None)
    discard: Literal["unmap", "ignore"] | None = attr(default=None)
    iothread: Annotated[int, Field(ge=1)] | None = attr(default=None)
    detect_zeroes: Literal["off", "on", "unmap"] | None = attr(default=None)
    discard_no_unref: OnOff | None = attr(default=None)
    queues: Queues | None = attr(default=None)
    queue_size: Queues | None = attr(default=None)


class DiskSource(Element, tag="source"):
    """Where the image is: `file` for type file, `dev` for type block.

    `index` is its node's number in a running domain.
    """

    file: PathOrNothing = attr(default=None)
    dev: PathOrNothing = attr(default=None)
    startup_policy: StartupPolicy | None = attr(name="startupPolicy", default=None)
    index: Unsigned | None = attr(default=None)
    seclabels: list[DeviceSeclabel] = element(tag="seclabel", default_factory=list)

    @property
    def path(self) -> str | None:
        return self.file if self.file is not None else self.dev


class BackingFormat(Element, tag="format"):
    type: ImageFormat = attr()


class BackingStore(Element, tag="backingStore"):
    """One image below another; without a type it is `<backingStore/>`, the end of an explicit chain."""

    type: DiskType | None = attr(default=None)
    index: Unsigned | None = attr(default=None)
    format: BackingFormat | None = element(default=None)
    source: DiskSource | None = element(default=None)
    backing_store: BackingStore | None = element(tag="backingStore", default=None)

    @property
    def terminator(self) -> bool:
        return self.type is None and self.source is None


class DiskTarget(Element, tag="target"):
    """What the guest sees: a name hint and a bus."""

    dev: str = attr()
    bus: DiskBus | None = attr(default=None)
    tray: Literal["open", "closed"] | None = attr(default=None)
    removable: OnOff | None = attr(default=None)
    rotation_rate: Annotated[int, Field(ge=1, le=65534)] | None = attr(default=None)


class Geometry(Element, tag="geometry"):
    cyls: Unsigned = attr()
    heads: Unsigned = attr()
    secs: Unsigned = attr()
    trans: Literal["auto", "none", "lba"] | None = attr(default=None)


class BlockIO(Element, tag="blockio"):
    """Sector sizes shown to the guest, in bytes."""

    logical_block_size: Unsigned | None = attr(default=None)
    physical_block_size: Unsigned | None = attr(default=None)
    discard_granularity: Unsigned | None = attr(default=None)


class Disk(BootableDevice, tag="disk"):
    """A disk or CD-ROM drive; a CD-ROM without a source is an empty drive."""

    type: DiskType = attr(default="file")
    device: Literal["disk", "cdrom"] = attr(default="disk")
    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = attr(default=None)
    snapshot: Literal["internal", "external", "manual", "no"] | None = attr(default=None)
    driver: DiskDriver | None = element(default=None)
    source: DiskSource | None = element(default=None)
    backing_store: BackingStore | None = element(tag="backingStore", default=None)
    geometry: Geometry | None = element(default=None)
    blockio: BlockIO | None = element(default=None)
    target: DiskTarget = element()
    readonly: bool = element(default=False)
    shareable: bool = element(default=False)
    serial: str | None = element(default=None)
    wwn: Annotated[str, Field(pattern=r"^(0x)?[0-9a-fA-F]{16}$")] | None = element(default=None)
    vendor: Annotated[str, Field(max_length=8)] | None = element(default=None)
    product: Annotated[str, Field(max_length=16)] | None = element(default=None)
