"""The documents of storage pools and volumes. https://libvirt.org/formatstorage.html"""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from uuid import UUID

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element
from corral.model.units import ScaledSize

PoolType = Literal[
    "dir",
    "fs",
    "netfs",
    "logical",
    "disk",
    "iscsi",
    "iscsi-direct",
    "scsi",
    "mpath",
    "rbd",
    "sheepdog",
    "gluster",
    "zfs",
    "vstorage",
]
#: The same in libvirt's order (virStoragePoolType): the number of a type is part of an error text.
POOL_TYPES: tuple[str, ...] = get_args(PoolType)

Account = Annotated[int, Field(ge=-1, le=2**32 - 2)]
"""A user's or group's number; -1 stands for the daemon's own."""


class Permissions(Element, tag="permissions"):
    """Whose a file or directory is, and its mode in octal."""

    mode: Annotated[str, Field(pattern=r"^0*[0-7]{1,4}$", max_length=8)] | None = element(default=None)
    owner: Account | None = element(default=None)
    group: Account | None = element(default=None)
    label: str | None = element(default=None)


class Timestamps(Element, tag="timestamps"):
    """Seconds since 1970 with nanoseconds after a point; shown only."""

    atime: str | None = element(default=None)
    mtime: str | None = element(default=None)
    ctime: str | None = element(default=None)
    btime: str | None = element(default=None)


class PoolSource(Element, tag="source"):
    """Where a pool's contents come from; a directory has no source."""


class PoolTarget(Element, tag="target"):
    """Where a pool's volumes are on this host."""

    path: str | None = element(default=None)
    permissions: Permissions | None = element(default=None)


class Pool(Element, tag="pool"):
    """A storage pool; the three sizes are shown only."""

    type: PoolType = attr()
    name: str | None = element(default=None)
    uuid: UUID | None = element(default=None)
    capacity: ScaledSize | None = element(default=None)
    allocation: ScaledSize | None = element(default=None)
    available: ScaledSize | None = element(default=None)
    source: PoolSource | None = element(default=None)
    target: PoolTarget | None = element(default=None)


class VolumeFormat(Element, tag="format"):
    """An image format, or `dir`, or what QEMU does not know."""

    type: str = attr()


class VolumeFeatures(Element, tag="features"):
    """What a qcow2 image can do beyond its oldest form."""

    lazy_refcounts: bool = element(default=False)
    extended_l2: bool = element(default=False)


class VolumeTarget(Element, tag="target"):
    """The file that a volume is."""

    path: str | None = element(default=None)
    format: VolumeFormat | None = element(default=None)
    permissions: Permissions | None = element(default=None)
    timestamps: Timestamps | None = element(default=None)
    compat: Annotated[str, Field(pattern=r"^(0\.10|1\.1)$")] | None = element(default=None)
    nocow: bool = element(default=False)
    cluster_size: ScaledSize | None = element(tag="clusterSize", default=None)
    features: VolumeFeatures | None = element(default=None)


class VolumeBacking(Element, tag="backingStore"):
    """The image below; only its path and format are used on input."""

    path: str | None = element(default=None)
    format: VolumeFormat | None = element(default=None)
    permissions: Permissions | None = element(default=None)
    timestamps: Timestamps | None = element(default=None)


class VolumeSource(Element, tag="source"):
    """Extents of devices that a volume lies on; a file has none."""


class Volume(Element, tag="volume"):
    """A storage volume; key, physical size and times are shown only."""

    type: Literal["file", "block", "dir", "network", "netdir"] | None = attr(default=None)
    name: str | None = element(default=None)
    key: str | None = element(default=None)
    source: VolumeSource | None = element(default=None)
    capacity: ScaledSize | None = element(default=None)
    allocation: ScaledSize | None = element(default=None)
    physical: ScaledSize | None = element(default=None)
    target: VolumeTarget | None = element(default=None)
    backing_store: VolumeBacking | None = element(tag="backingStore", default=None)
