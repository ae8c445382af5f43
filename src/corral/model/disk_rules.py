"""What a disk's bus and a controller's type take of the options; texts are libvirt's where it has one."""

from __future__ import annotations

from collections.abc import Iterator

from corral.errors import ConfigUnsupported, CorralError, XMLError
from corral.model.address import DriveAddress
from corral.model.devices.controller import Controller
from corral.model.devices.device import VirtioOptions
from corral.model.devices.disk import Disk, DiskDriver

Objection = tuple[tuple[str, ...], str, type[CorralError]]
"""Where in the device, what is wrong there, and which error that is."""

_SERIAL_MOST = 20
"""Characters of an NVMe drive's serial number (NVM Express base specification, Identify Controller)."""
_NAMESPACES = 256
"""Namespaces of one NVMe controller of QEMU."""


def of_disk(disk: Disk) -> Iterator[Objection]:
    """Everything in the disk that its bus does not have, or that contradicts itself."""
    bus, name, driver = disk.bus, disk.target.dev, disk.driver or DiskDriver()
    if bus is None:
        return
    yield from _identity(disk, bus)
    if bus != "virtio":
        for field in ("ioeventfd", "event_idx"):
            if getattr(driver, field) is not None:
                yield ("driver", field), f"disk {field} mode supported only for virtio bus", ConfigUnsupported
        yield from _not_virtio(driver)
        if disk.model is not None:
            yield ("model",), f"disk model '{disk.model}' not supported for bus '{bus}'", ConfigUnsupported
    if disk.device == "cdrom" and bus in ("virtio", "nvme"):
        yield ("target", "bus"), f"disk type of '{name}' does not support ejectable media", ConfigUnsupported
    if driver.copy_on_read == "on" and (disk.readonly or disk.device == "cdrom"):
        text = f"copy_on_read is not compatible with read-only disk '{name}'"
        yield ("driver", "copy_on_read"), text, ConfigUnsupported
    if disk.geometry is not None and bus in ("usb", "nvme"):
        yield ("geometry",), f"CHS geometry can not be set for '{bus}' bus", ConfigUnsupported
    if bus == "nvme":
        yield from _namespace(disk, driver)


def _identity(disk: Disk, bus: str) -> Iterator[Objection]:
    """What the guest can ask a drive about itself."""
    if disk.vendor is not None and bus != "scsi":
        yield ("vendor",), "Only scsi disk supports 'vendor'", ConfigUnsupported
    if disk.product is not None and bus not in ("scsi", "sata", "ide"):
        yield ("product",), "Only ide, sata and scsi disk supports 'product'", ConfigUnsupported
    if disk.wwn is not None and bus not in ("scsi", "sata", "ide"):
        yield ("wwn",), "Only ide and scsi disk support wwn", ConfigUnsupported
    if disk.target.rotation_rate is not None:
        where = ("target", "rotation_rate")
        if bus not in ("scsi", "sata", "ide"):
            yield where, "rotation rate is only valid for SCSI/IDE/SATA bus", ConfigUnsupported
        elif disk.device == "cdrom":
            yield where, "rotation rate is only valid for disks", ConfigUnsupported
    if disk.target.removable is not None and bus not in ("usb", "scsi"):
        yield ("target", "removable"), "removable is only valid for usb or scsi disks", XMLError


def _namespace(disk: Disk, driver: DiskDriver) -> Iterator[Objection]:
    """A disk on NVMe is a namespace of its controller."""
    name, address = disk.target.dev, disk.address
    drive = address if isinstance(address, DriveAddress) else None
    if address is not None and (drive is None or drive.target or drive.unit or drive.bus >= _NAMESPACES):
        text = f"the address of NVMe disk '{name}' is a drive's, with the namespace as bus (from 0), target and unit 0"
        yield ("address",), text, ConfigUnsupported
    for field in ("error_policy", "rerror_policy"):
        if getattr(driver, field) is not None:
            yield ("driver", field), f"disk '{name}' on NVMe has no {field}: QEMU tells the guest", ConfigUnsupported
    if disk.serial is not None:
        yield from _serial(disk.serial)


def _serial(serial: str) -> Iterator[Objection]:
    if not serial.strip() or len(serial) > _SERIAL_MOST or not (serial.isascii() and serial.isprintable()):
        text = f"the serial number of an NVMe drive has 1 to {_SERIAL_MOST} characters, of printable ASCII"
        yield ("serial",), text, ConfigUnsupported


def of_controller(controller: Controller) -> Iterator[Objection]:
    """Everything in the controller that one of its type does not have."""
    driver, kind = controller.driver, controller.type
    virtio_scsi = kind == "scsi" and (controller.model or "").startswith("virtio")
    if driver is not None and not virtio_scsi:
        for field in ("queues", "cmd_per_lun", "max_sectors", "ioeventfd"):
            if getattr(driver, field) is not None:
                text = f"'{field}' is only supported by virtio-scsi controller"
                yield ("driver", field), text, ConfigUnsupported
        if driver.iothread is not None:
            text = "'iothread' attribute only supported for virtio scsi controllers"
            yield ("driver", "iothread"), text, XMLError
        if kind != "virtio-serial":
            yield from _not_virtio(driver)
    if controller.ports is not None and kind not in ("usb", "virtio-serial"):
        yield ("ports",), f"a controller of type '{kind}' has no number of ports", ConfigUnsupported
    if controller.vectors is not None and kind != "virtio-serial":
        yield ("vectors",), f"a controller of type '{kind}' has no number of vectors", ConfigUnsupported
    if controller.serial is not None:
        if kind != "nvme":
            yield ("serial",), "only a controller of type 'nvme' has a serial number", ConfigUnsupported
        yield from _serial(controller.serial)
    if kind == "nvme" and controller.model is not None:
        yield ("model",), "a controller of type 'nvme' has no models", ConfigUnsupported


def _not_virtio(driver: VirtioOptions) -> Iterator[Objection]:
    for field in VirtioOptions.model_fields:
        if getattr(driver, field) is not None:
            text = f"{field} driver option is only supported for virtio devices"
            yield ("driver", field), text, ConfigUnsupported
