"""Disks. https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_xml import attr, element

from corral.model.address import HostPCIAddress
from corral.model.devices.device import BootableDevice, DeviceSeclabel, Queues, VirtioOptions
from corral.model.devices.iotune import IOTune
from corral.model.devices.remote import (
    SSL,
    Auth,
    Encryption,
    Initiator,
    Protocol,
    Readahead,
    Reconnect,
    Reservations,
    SourceHost,
    Timeout,
    place,
)
from corral.model.element import Element, OnOff, Unsigned, YesNo
from corral.model.units import ScaledSize

DiskType = Literal["file", "block", "network", "nvme"]
DiskBus = Literal["virtio", "scsi", "sata", "ide", "usb", "nvme"]
BUS_OF_PREFIX: dict[str, DiskBus] = {"hd": "ide", "sd": "scsi", "vd": "virtio", "nv": "nvme"}
"""The bus that a target name stands for when the document says none, by its first letters."""
ImageFormat = Literal[
    "raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhd", "luks", "dmg", "bochs", "cloop", "iso", "cow", "fat"
]
StartupPolicy = Literal["mandatory", "requisite", "optional"]


PathOrNothing = Annotated[str | None, BeforeValidator(lambda path: path or None)]
"""An empty path means none, as management programs write it for an empty drive."""


class MetadataCache(Element, tag="metadata_cache"):
    """How much of a qcow2 image's tables QEMU keeps in memory; without it enough for the whole image."""

    max_size: ScaledSize | None = element(default=None)


class QueueOfThread(Element, tag="queue"):
    id: Unsigned = attr()


class ThreadOfDisk(Element, tag="iothread"):
    """An I/O thread and the queues that it serves; without any all threads share them in turn."""

    id: Annotated[int, Field(ge=1)] = attr()
    queues: list[QueueOfThread] = element(tag="queue", default_factory=list)


class ThreadsOfDisk(Element, tag="iothreads"):
    threads: list[ThreadOfDisk] = element(tag="iothread", default_factory=list)


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
    metadata_cache: MetadataCache | None = element(default=None)
    iothreads: ThreadsOfDisk | None = element(default=None)


class DiskSource(Element, tag="source"):
    """Where the image is: `file` for type file, `dev` for type block, `protocol` and hosts for type network.

    For type nvme the `namespace` of a drive of the host's at the PCI `address`, which QEMU drives itself; `managed` as
    for a PCI function that is lent. `index` is its node's number in a running domain.
    """

    file: PathOrNothing = attr(default=None)
    dev: PathOrNothing = attr(default=None)
    type: Literal["pci"] | None = attr(default=None)
    managed: YesNo | None = attr(default=None)
    namespace: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = attr(default=None)
    protocol: Protocol | None = attr(default=None)
    name: str | None = attr(default=None)
    query: str | None = attr(default=None)
    startup_policy: StartupPolicy | None = attr(name="startupPolicy", default=None)
    index: Unsigned | None = attr(default=None)
    address: HostPCIAddress | None = element(default=None)
    hosts: list[SourceHost] = element(tag="host", default_factory=list)
    ssl: SSL | None = element(default=None)
    readahead: Readahead | None = element(default=None)
    timeout: Timeout | None = element(default=None)
    reconnect: Reconnect | None = element(default=None)
    auth: Auth | None = element(default=None)
    encryption: Encryption | None = element(default=None)
    initiator: Initiator | None = element(default=None)
    reservations: Reservations | None = element(default=None)
    seclabels: list[DeviceSeclabel] = element(tag="seclabel", default_factory=list)

    @property
    def path(self) -> str | None:
        """The file or block device; None for an image elsewhere, and for none."""
        return self.file if self.file is not None else self.dev

    @property
    def where(self) -> str | None:
        """The path, or the URL of an image elsewhere (of a drive's namespace as QEMU has it); None for no image."""
        if self.address is not None:
            return f"nvme://{self.address}/{self.namespace}"
        return place(self.protocol, self.hosts, self.name) if self.protocol is not None else self.path


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


class Transient(Element, tag="transient"):
    """What the guest writes is thrown away when it ends."""

    share_backing: YesNo | None = attr(name="shareBacking", default=None)


class ThrottleFilter(Element, tag="throttlefilter"):
    """A group whose limits the disk shares."""

    group: str = attr()


class ThrottleFilters(Element, tag="throttlefilters"):
    filters: list[ThrottleFilter] = element(tag="throttlefilter", default_factory=list)


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
    """A disk or CD-ROM drive; a CD-ROM without a source is an empty drive.

    A `lun` is a SCSI device of the host or of a target, to which the guest's commands go as they are.
    """

    type: DiskType = attr(default="file")
    device: Literal["disk", "cdrom", "lun"] = attr(default="disk")
    rawio: YesNo | None = attr(default=None)
    sgio: Literal["filtered", "unfiltered"] | None = attr(default=None)
    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = attr(default=None)
    snapshot: Literal["internal", "external", "manual", "no"] | None = attr(default=None)
    driver: DiskDriver | None = element(default=None)
    source: DiskSource | None = element(default=None)
    backing_store: BackingStore | None = element(tag="backingStore", default=None)
    geometry: Geometry | None = element(default=None)
    blockio: BlockIO | None = element(default=None)
    target: DiskTarget = element()
    iotune: IOTune | None = element(default=None)
    throttlefilters: ThrottleFilters | None = element(default=None)
    readonly: bool = element(default=False)
    shareable: bool = element(default=False)
    transient: Transient | None = element(default=None)
    serial: str | None = element(default=None)
    wwn: Annotated[str, Field(pattern=r"^(0x)?[0-9a-fA-F]{16}$")] | None = element(default=None)
    vendor: Annotated[str, Field(max_length=8)] | None = element(default=None)
    product: Annotated[str, Field(max_length=16)] | None = element(default=None)

    @property
    def lent(self) -> HostPCIAddress | None:
        """The host's NVMe drive that it is on."""
        return self.source.address if self.source is not None else None

    @property
    def managed(self) -> YesNo | None:
        """Whether that drive is taken from the host's driver at the start and given back at the end."""
        return self.source.managed if self.source is not None else None

    @property
    def bus(self) -> DiskBus | None:
        """The bus that the document says, else that of the name; None where neither tells."""
        return self.target.bus or BUS_OF_PREFIX.get(self.target.dev[:2])
