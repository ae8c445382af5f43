"""Disks: a chain of block nodes and the drive on top of it.

Block nodes carry the number that libvirt shows as `index` of a source: `libvirt-3-storage` is the file or block device,
`libvirt-3-format` the image format over it; a raw image needs no node of its own for its format.
"""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.address import DriveAddress
from corral.model.devices.controller import Controller
from corral.model.devices.disk import BackingStore, Disk, DiskDriver, DiskSource
from corral.qemu import descriptors
from corral.qemu.context import Context, Properties, alias, given, iothreads, switch, virtio_options
from corral.qemu.runtime import Part

WIDE_SCSI = ("virtio-scsi", "virtio-transitional", "virtio-non-transitional", "virtio", "vmpvscsi")
CACHE: dict[str, tuple[bool, bool, bool]] = {
    "none": (True, False, True),
    "writeback": (False, False, True),
    "writethrough": (False, False, False),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}
"""cache mode → cache.direct, cache.no-flush, write-cache"""
FORMATS = {"iso": "raw", "vhd": "vpc"}
"""libvirt's names of formats that QEMU names otherwise."""


def parts(disk: Disk, context: Context) -> list[Part]:
    """Files and block nodes from the base up, then the device."""
    nodes = media(disk, context)
    return [*nodes, _device(disk, nodes[-1].id if nodes else None, context)]


def media(disk: Disk, context: Context) -> list[Part]:
    """The files and block nodes of what is in the drive, from the base up; none for an empty drive."""
    if disk.source is None or disk.source.path is None:
        if disk.device == "disk":
            raise ConfigUnsupported(f"disk '{disk.target.dev}' has no source; only a CD-ROM drive may be empty")
        return []
    driver = disk.driver or DiskDriver()
    nodes = _backing(disk.backing_store, driver, context)
    below = nodes[-1].id if nodes else None
    closed = disk.backing_store is not None
    nodes += _image(disk.source, driver.type or "raw", driver, context, below=below, closed=closed, disk=disk)
    if driver.copy_on_read == "on" and not disk.readonly:
        props = {"driver": "copy-on-read", "file": nodes[-1].id}
        nodes.append(Part("blockdev", f"libvirt-CoR-{disk.target.dev}", props))
    return nodes


def _backing(store: BackingStore | None, driver: DiskDriver, context: Context) -> list[Part]:
    """The files and nodes below the top image, from the base up."""
    if store is None or store.terminator or store.source is None:
        return []
    nodes = _backing(store.backing_store, driver, context)
    below = nodes[-1].id if nodes else None
    image_format = store.format.type if store.format is not None else "raw"
    closed = store.backing_store is not None
    return nodes + _image(store.source, image_format, driver, context, below=below, closed=closed, disk=None)


def _image(
    source: DiskSource,
    image_format: str,
    driver: DiskDriver,
    context: Context,
    *,
    below: str | None,
    closed: bool,
    disk: Disk | None,
) -> list[Part]:
    """One image: its storage node and, unless it is raw, its format node.

    `below`: the node of its backing image; `closed`: without `below` there is none, whatever its header says.
    `disk`: the drive, for the top image; None makes the image read-only.
    """
    qemu_format = FORMATS.get(image_format, image_format)
    if not context.binary.has_argument("blockdev-add", f"driver={qemu_format}"):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' cannot read images of format '{image_format}'")
    readonly = disk is None or disk.readonly
    cache = _cache(driver)
    index = source.index
    file = descriptors.image(
        index or 0, source.path or "", writable=not readonly, direct=(CACHE.get(driver.cache or "") or (False,))[0]
    )
    storage: Properties = {"driver": "host_device" if source.dev is not None else "file"}
    storage |= {"filename": descriptors.reference(file)} | given(aio=_aio(driver, context))
    tuning: Properties = {"read-only": readonly} | cache
    if disk is not None and not readonly:
        tuning |= given({"discard": driver.discard, "detect-zeroes": driver.detect_zeroes})
    if qemu_format == "raw":
        return [file, Part("blockdev", f"libvirt-{index}-storage", storage | tuning)]
    # What is only read now may be written by a block job, which adds the descriptor for it.
    storage |= {"auto-read-only": True} if readonly else {"read-only": False}
    storage |= {"discard": "unmap"} | cache
    top: Properties = {"driver": qemu_format, "file": f"libvirt-{index}-storage"} | tuning
    if driver.discard_no_unref is not None:
        if not context.binary.has_argument("blockdev-add", f"driver={qemu_format}/discard-no-unref"):
            raise ConfigUnsupported(f"discard_no_unref is not supported by QEMU binary '{context.binary.path}'")
        top["discard-no-unref"] = driver.discard_no_unref == "on"
    if qemu_format in ("qcow2", "qcow", "qed", "vmdk") and (below is not None or closed):
        top["backing"] = below
    nodes = [Part("blockdev", f"libvirt-{index}-storage", storage), Part("blockdev", f"libvirt-{index}-format", top)]
    return [file, *nodes]


def _cache(driver: DiskDriver) -> Properties:
    mode = CACHE.get(driver.cache or "default")
    return {} if mode is None else {"cache": {"direct": mode[0], "no-flush": mode[1]}}


def _aio(driver: DiskDriver, context: Context) -> str | None:
    match driver.io:
        case "native" if driver.cache not in ("none", "directsync"):
            raise ConfigUnsupported(
                "native I/O needs either no disk cache or directsync cache mode, QEMU will fallback to aio=threads"
            )
        case "io_uring" if not context.binary.has_argument("blockdev-add", "driver=file/aio=io_uring"):
            raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' was built without io_uring")
    return driver.io


def _device(disk: Disk, node: str | None, context: Context) -> Part:
    driver = disk.driver or DiskDriver()
    props: Properties = {"driver": _driver(disk, context)} | _slot(disk, context) | given(drive=node)
    props |= context.boot_index(disk)
    mode = CACHE.get(driver.cache or "default")
    if mode is not None and node is not None and disk.target.bus != "usb":
        props["write-cache"] = "on" if mode[2] else "off"
    props |= given(serial=disk.serial, werror=_werror(driver.error_policy), rerror=driver.rerror_policy)
    if driver.error_policy is not None and driver.rerror_policy is None and driver.error_policy != "enospace":
        props["rerror"] = driver.error_policy
    if disk.shareable and disk.device == "disk":
        props["share-rw"] = True
    if disk.blockio is not None:
        props |= given(
            logical_block_size=disk.blockio.logical_block_size,
            physical_block_size=disk.blockio.physical_block_size,
            discard_granularity=disk.blockio.discard_granularity,
        )
    if disk.geometry is not None:
        props |= {"cyls": disk.geometry.cyls, "heads": disk.geometry.heads, "secs": disk.geometry.secs}
        if disk.geometry.trans is not None:
            if disk.target.bus not in ("ide", "sata"):
                raise ConfigUnsupported("geometry translation is only for ide and sata disks")
            props["bios-chs-trans"] = disk.geometry.trans
    if driver.iothread is not None and driver.iothread not in iothreads(context.domain):
        raise ConfigUnsupported(f"Disk iothread '{driver.iothread}' not defined in iothreadid")
    props |= _virtio(disk, driver) if disk.target.bus == "virtio" else _identity(disk)
    return Part("device", alias(disk), props)


def _driver(disk: Disk, context: Context) -> str:
    reads = "cd" if disk.device == "cdrom" else "hd"
    match disk.target.bus:
        case "virtio":
            if disk.device == "cdrom":
                raise ConfigUnsupported(f"disk type 'virtio' of '{disk.target.dev}' does not support ejectable media")
            return context.virtio("virtio-blk", disk.model)
        case "scsi":
            return context.driver(f"scsi-{reads}")
        case "sata" | "ide":
            if disk.readonly and disk.device == "disk":
                raise ConfigUnsupported(f"readonly {disk.target.bus} disks are not supported")
            return context.driver(f"ide-{reads}")
        case "usb":
            if disk.source is None:
                raise ConfigUnsupported(f"'{disk.target.dev}' on USB cannot be empty; use sata for a CD-ROM drive")
            return context.driver("usb-storage")
    raise ConfigUnsupported(f"disk '{disk.target.dev}' has no bus")


def _slot(disk: Disk, context: Context) -> Properties:
    """Where on its bus the drive sits."""
    address = disk.address
    if not isinstance(address, DriveAddress):
        return context.place(disk)
    if disk.target.bus == "ide":
        return {"bus": f"{context.bus('ide', 0)}.{address.bus}", "unit": address.unit}
    if disk.target.bus == "sata":
        return {"bus": f"{context.bus('sata', address.controller)}.{address.unit}"}
    bus = f"{context.bus('scsi', address.controller)}.0"
    if scsi_controller(disk, context).model in WIDE_SCSI:
        return {"bus": bus, "channel": address.bus, "scsi-id": address.target, "lun": address.unit}
    if address.target:
        raise ConfigUnsupported("target must be 0 for controller model 'lsilogic'")
    return {"bus": bus, "scsi-id": address.unit}


def scsi_controller(disk: Disk, context: Context) -> Controller:
    """The controller that a SCSI disk's address names."""
    address = disk.address
    for controller in context.domain.devices.controllers:
        if controller.type == "scsi" and isinstance(address, DriveAddress) and controller.index == address.controller:
            return controller
    raise ConfigUnsupported(f"disk '{disk.target.dev}' has no SCSI controller")


def _werror(policy: str | None) -> str | None:
    return "enospc" if policy == "enospace" else policy


def _virtio(disk: Disk, driver: DiskDriver) -> Properties:
    props = given(
        {"num-queues": driver.queues, "queue-size": driver.queue_size},
        ioeventfd=switch(driver.ioeventfd),
        event_idx=switch(driver.event_idx),
        iothread=f"iothread{driver.iothread}" if driver.iothread else None,
    )
    return props | virtio_options(driver)


def _identity(disk: Disk) -> Properties:
    """What the guest can ask a SCSI, ATA or USB drive about itself."""
    props: Properties = {}
    if disk.target.bus == "scsi":
        props["device_id"] = disk.serial or f"drive-{alias(disk)}"
        props |= given(vendor=disk.vendor, product=disk.product)
    if disk.target.bus in ("scsi", "sata", "ide"):
        props |= given(wwn=int(disk.wwn, 16) if disk.wwn else None)
        if disk.target.rotation_rate is not None and disk.device == "disk":
            props["rotation_rate"] = disk.target.rotation_rate
    if disk.target.bus == "usb" or disk.target.removable is not None:
        if disk.target.bus not in ("usb", "scsi"):
            raise ConfigUnsupported("removable is only valid for usb or scsi disks")
        props["removable"] = disk.target.removable == "on"
    return props
