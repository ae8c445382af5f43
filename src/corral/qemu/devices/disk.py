"""Disks: a chain of block nodes and the drive on top of it.

A CD-ROM drive on USB is a SCSI one behind a bridge: QEMU's `usb-storage` is a hard disk whatever is in it.

Block nodes carry the number that libvirt shows as `index` of a source: `libvirt-3-storage` is the file or block device,
`libvirt-3-format` the image format over it; a raw image needs no node of its own for its format.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.errors import ConfigUnsupported
from corral.model.address import DriveAddress
from corral.model.devices.controller import Controller
from corral.model.devices.disk import BackingStore, Disk, DiskDriver, DiskSource, ThreadOfDisk
from corral.qemu import descriptors
from corral.qemu.binary import Binary
from corral.qemu.context import Context, Properties, alias, given, iothreads, switch, virtio_options
from corral.qemu.devices.storage import passphrase, storage
from corral.qemu.devices.throttle import group_id
from corral.qemu.runtime import Command, Part

WIDE_SCSI = ("virtio-scsi", "virtio-transitional", "virtio-non-transitional", "virtio", "vmpvscsi")
CACHE: dict[str, tuple[bool, bool, bool]] = {
    "none": (True, False, True),
    "writeback": (False, False, True),
    "writethrough": (False, False, False),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}
"""cache mode → cache.direct, cache.no-flush, write-cache"""
TABLES_DEFAULT, TABLES_MOST, CLUSTER_MOST = 32 << 20, 256 << 20, 2 << 20
"""Bytes of an image's tables that QEMU keeps by itself, that we have it keep, and the largest cluster."""
FORMATS = {"iso": "raw", "vhd": "vpc"}
"""libvirt's names of formats that QEMU names otherwise."""


def parts(disk: Disk, context: Context) -> list[Part]:
    """Files and block nodes from the base up, then the device."""
    nodes = media(disk, context)
    device = _device(disk, nodes[-1].id if nodes else None, context)
    return [*nodes, *([_bridge(disk, context)] if _bridged(disk) else []), device]


def attach(disk: Disk) -> list[Command]:
    """A bridge that was plugged shows itself to the guest when it is told that its drive is there."""
    if not _bridged(disk):
        return []
    path = f"/machine/peripheral/{alias(disk)}-bridge"
    return [("qom-set", {"path": path, "property": "attached", "value": True})]


def _bridged(disk: Disk) -> bool:
    return disk.target.bus == "usb" and disk.device == "cdrom"


def _bridge(disk: Disk, context: Context) -> Part:
    props = {"driver": context.driver("usb-bot")} | context.place(disk) | given(serial=disk.serial)
    return Part("device", f"{alias(disk)}-bridge", props)


def media(disk: Disk, context: Context) -> list[Part]:
    """The files and block nodes of what is in the drive, from the base up; none for an empty drive."""
    if disk.source is None or disk.source.where is None:
        if disk.device != "cdrom":
            raise ConfigUnsupported(f"disk '{disk.target.dev}' has no source; only a CD-ROM drive may be empty")
        return []
    driver = disk.driver or DiskDriver()
    nodes = _backing(disk.backing_store, driver, context)
    below = nodes[-1].id if nodes else None
    closed = disk.backing_store is not None
    kept = None if disk.transient is not None else disk
    nodes += _image(disk.source, driver.type or "raw", driver, context, below=below, closed=closed, disk=kept)
    if disk.transient is not None:
        nodes += _scratch(disk, driver, context, below=nodes[-1].id)
    for number, throttle in enumerate(disk.throttlefilters.filters if disk.throttlefilters is not None else []):
        props = {"driver": "throttle", "throttle-group": group_id(throttle.group), "file": nodes[-1].id}
        nodes.append(Part("blockdev", f"libvirt-{disk.source.index}-filter{number}", props))
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
    owner = alias(disk) if disk is not None else ""
    number, direct = index or 0, _direct(driver)
    ahead, node = storage(source, context, number=number, writable=not readonly, direct=direct, owner=owner)
    if source.path is not None:
        node |= given(aio=_aio(driver, context))
    unlocking, key = passphrase(source.encryption, owner)
    if key is not None and (disk is None or qemu_format not in ("raw", "qcow2")):
        raise ConfigUnsupported("encryption is supported for raw and qcow2 images that are no transient disk's")
    if key is not None and qemu_format == "raw":
        qemu_format = "luks"
    ahead += unlocking
    tuning: Properties = {"read-only": readonly} | cache
    if disk is not None and not readonly:
        tuning |= given({"discard": driver.discard, "detect-zeroes": driver.detect_zeroes})
    if qemu_format == "raw":
        return [*ahead, Part("blockdev", f"libvirt-{index}-storage", node | tuning)]
    # What is only read now may be written by a block job, which adds the descriptor for it.
    node |= {"auto-read-only": True} if readonly else {"read-only": False}
    node |= {"discard": "unmap"} | cache
    top: Properties = {"driver": qemu_format, "file": f"libvirt-{index}-storage"} | tuning
    top |= _tables(driver, qemu_format, source, context)
    if key is not None:
        top |= {"key-secret": key} if qemu_format == "luks" else {"encrypt": {"format": "luks", "key-secret": key}}
    if qemu_format in ("qcow2", "qcow", "qed", "vmdk") and (below is not None or closed):
        top["backing"] = below
    nodes = [Part("blockdev", f"libvirt-{index}-storage", node), Part("blockdev", f"libvirt-{index}-format", top)]
    return [*ahead, *nodes]


def _scratch(disk: Disk, driver: DiskDriver, context: Context, *, below: str) -> list[Part]:
    """What a transient disk's guest writes: a file beside the image that has no name and goes with QEMU."""
    source = disk.source
    if source is None or source.path is None or disk.device != "disk" or (driver.type or "raw") not in ("raw", "qcow2"):
        raise ConfigUnsupported(f"transient disk '{disk.target.dev}' needs a raw or qcow2 image of this host")
    name = f"libvirt-{source.index}-transient"
    file = descriptors.scratch(name, source.path, driver.type or "raw", direct=_direct(driver))
    node: Properties = {"driver": "file", "filename": descriptors.reference(file), "read-only": False}
    node |= {"discard": "unmap"} | given(aio=_aio(driver, context)) | _cache(driver)
    top: Properties = {"driver": "qcow2", "file": f"{name}-storage", "backing": below, "read-only": False}
    top |= _cache(driver) | given({"discard": driver.discard, "detect-zeroes": driver.detect_zeroes})
    return [file, Part("blockdev", f"{name}-storage", node), Part("blockdev", f"{name}-format", top)]


def _tables(driver: DiskDriver, qemu_format: str, source: DiskSource, context: Context) -> Properties:
    """What QEMU does with a qcow2 image's tables: it keeps those of the whole image unless it is told how much."""
    props: Properties = {}
    chains = context.runtime.chains.values()
    size = next((image.tables for chain in chains for image in chain if str(image.path) == source.path), 0)
    if size > TABLES_DEFAULT:
        props["l2-cache-size"] = min(-(-size // CLUSTER_MOST) * CLUSTER_MOST, TABLES_MOST)
    if driver.discard_no_unref is not None:
        if not context.binary.has_argument("blockdev-add", f"driver={qemu_format}/discard-no-unref"):
            raise ConfigUnsupported(f"discard_no_unref is not supported by QEMU binary '{context.binary.path}'")
        props["discard-no-unref"] = driver.discard_no_unref == "on"
    if driver.metadata_cache is not None and driver.metadata_cache.max_size is not None:
        if qemu_format != "qcow2":
            raise ConfigUnsupported("metadata cache size control is supported only with qcow2 images")
        props.pop("l2-cache-size", None)
        props["cache-size"] = driver.metadata_cache.max_size.bytes
    return props


def _cache(driver: DiskDriver) -> Properties:
    mode = CACHE.get(driver.cache or "default")
    return {} if mode is None else {"cache": {"direct": mode[0], "no-flush": mode[1]}}


def _direct(driver: DiskDriver) -> bool:
    """Whether QEMU goes past the host's cache."""
    return driver.cache in ("none", "directsync")


def engine(binary: Binary, offered: Sequence[str], *, direct: bool) -> str | None:
    """The best of the host's I/O engines that the binary is good for; None is QEMU's own threads."""
    usable = {"native"} if direct else set()
    # Before the block layer held requests back by thread (it came with this option), a disk that copies what it reads
    # stands still on io_uring.
    if binary.has_argument("blockdev-add", "driver=qcow2/discard-no-unref"):
        usable.add("io_uring")
    return next((each for each in offered if each in usable and _has(binary, each)), None)


def _has(binary: Binary, name: str) -> bool:
    return binary.has_argument("blockdev-add", f"driver=file/aio={name}")


def _aio(driver: DiskDriver, context: Context) -> str | None:
    """The engine that the document names, else the best."""
    direct = _direct(driver)
    match driver.io:
        case None:
            return engine(context.binary, context.runtime.engines, direct=direct)
        case "native" if not direct:
            raise ConfigUnsupported("io='native' needs either no disk cache or directsync cache mode")
        case "io_uring" if not _has(context.binary, "io_uring"):
            raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' was built without io_uring")
    return driver.io


def _device(disk: Disk, node: str | None, context: Context) -> Part:
    driver = disk.driver or DiskDriver()
    props: Properties = {"driver": _driver(disk, context)} | _slot(disk, context) | given(drive=node)
    props |= context.boot_index(disk)
    if disk.device == "lun":
        return Part("device", alias(disk), props | _passed_through(disk, driver))
    mode = CACHE.get(driver.cache or "default")
    if mode is not None and node is not None and disk.target.bus != "usb":
        props["write-cache"] = "on" if mode[2] else "off"
    if disk.target.bus != "nvme":  # whose controller has the number
        props |= given(serial=disk.serial)
    props |= given(werror=_werror(driver.error_policy), rerror=driver.rerror_policy)
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
    props |= _virtio(disk, driver, context) if disk.target.bus == "virtio" else _identity(disk)
    return Part("device", alias(disk), props)


def _passed_through(disk: Disk, driver: DiskDriver) -> Properties:
    """All that a SCSI device that the guest speaks with itself takes from us."""
    props = given(werror=_werror(driver.error_policy), rerror=driver.rerror_policy)
    return props | ({"share-rw": True} if disk.shareable else {})


def _driver(disk: Disk, context: Context) -> str:
    reads = "cd" if disk.device == "cdrom" else "hd"
    match disk.target.bus:
        case "virtio":
            return context.virtio("virtio-blk", disk.model)
        case "scsi":
            return context.driver("scsi-block" if disk.device == "lun" else f"scsi-{reads}")
        case "sata" | "ide":
            if disk.readonly and disk.device == "disk":
                raise ConfigUnsupported(f"readonly {disk.target.bus} disks are not supported")
            return context.driver(f"ide-{reads}")
        case "nvme":
            return context.driver("nvme-ns")
        case "usb":
            return context.driver("scsi-cd" if _bridged(disk) else "usb-storage")
    raise ConfigUnsupported(f"disk '{disk.target.dev}' has no bus")


def _slot(disk: Disk, context: Context) -> Properties:
    """Where on its bus the drive sits."""
    address = disk.address
    if _bridged(disk):
        return {"bus": f"{alias(disk)}-bridge.0", "scsi-id": 0, "lun": 0}
    if not isinstance(address, DriveAddress):
        return context.place(disk)
    if disk.target.bus == "ide":
        return {"bus": f"{context.bus('ide', 0)}.{address.bus}", "unit": address.unit}
    if disk.target.bus == "sata":
        return {"bus": f"{context.bus('sata', address.controller)}.{address.unit}"}
    if disk.target.bus == "nvme":
        return {"bus": context.bus("nvme", address.controller), "nsid": address.bus + 1}
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


def _virtio(disk: Disk, driver: DiskDriver, context: Context) -> Properties:
    known = iothreads(context.domain)
    threads = driver.iothreads.threads if driver.iothreads is not None else []
    for number in (*([] if driver.iothread is None else [driver.iothread]), *(thread.id for thread in threads)):
        if number not in known:
            raise ConfigUnsupported(f"Disk iothread '{number}' not defined in iothreadid")
    props = given(
        {"num-queues": driver.queues, "queue-size": driver.queue_size},
        ioeventfd=switch(driver.ioeventfd),
        event_idx=switch(driver.event_idx),
        iothread=f"iothread{driver.iothread}" if driver.iothread else None,
    )
    if threads:
        props["iothread-vq-mapping"] = _mapping(threads, context)
    return props | virtio_options(driver)


def _mapping(threads: list[ThreadOfDisk], context: Context) -> list[Properties]:
    """Which I/O thread serves which queues."""
    if not context.binary.has_property("virtio-blk-pci", "iothread-vq-mapping"):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' cannot spread a disk over I/O threads")
    return [
        {"iothread": f"iothread{thread.id}"} | ({"vqs": [queue.id for queue in thread.queues]} if thread.queues else {})
        for thread in threads
    ]


def _identity(disk: Disk) -> Properties:
    """What the guest can ask a SCSI, ATA or USB drive about itself."""
    props: Properties = {}
    if disk.target.bus == "scsi":
        props["device_id"] = disk.serial or f"drive-{alias(disk)}"
        props |= given(vendor=disk.vendor, product=disk.product)
    if disk.target.bus in ("sata", "ide"):
        props |= given(model=disk.product)
    if disk.target.bus in ("scsi", "sata", "ide"):
        props |= given(wwn=int(disk.wwn, 16) if disk.wwn else None)
        props |= given(rotation_rate=disk.target.rotation_rate)
    if (disk.target.bus == "usb" or disk.target.removable is not None) and not _bridged(disk):
        props["removable"] = disk.target.removable == "on"
    return props
