"""What a device family needs to know beyond its device: the machine around it, the binary, the start's facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.errors import ConfigUnsupported, InternalError
from corral.model.address import PCIAddress, USBAddress, VirtioSerialAddress
from corral.model.devices.controller import ControllerType
from corral.model.devices.device import BootableDevice, Device, VirtioOptions
from corral.model.domain import Domain
from corral.qemu.binary import Binary
from corral.qemu.pci_slots import is_q35
from corral.qemu.runtime import Runtime

Properties = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """The domain is complete and aliased; `boot` has the boot index by the device's alias."""

    domain: Domain
    binary: Binary
    runtime: Runtime
    boot: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, domain: Domain, binary: Binary, runtime: Runtime) -> Context:
        return cls(domain, binary, runtime, boot_order(domain))

    @property
    def q35(self) -> bool:
        return is_q35(self.domain)

    def driver(self, name: str) -> str:
        """The device type's name. Raises ConfigUnsupported when the binary has none."""
        if not self.binary.has_device(name):
            raise ConfigUnsupported(f"QEMU binary '{self.binary.path}' has no device '{name}'")
        return name

    def virtio(self, name: str, model: str | None) -> str:
        """The PCI device type of a virtio device: `virtio-blk-pci`, or its (non-)transitional variant."""
        suffix = f"-{model.removeprefix('virtio-')}" if model not in (None, "virtio", "virtio-scsi") and model else ""
        return self.driver(f"{name}-pci{suffix}")

    def bus(self, kind: ControllerType, index: int) -> str:
        """The alias of a controller. Raises ConfigUnsupported when the document has none of that index."""
        for controller in self.domain.devices.controllers:
            if controller.type == kind and controller.index == index and controller.alias is not None:
                return controller.alias.name
        raise ConfigUnsupported(f"the domain has no {kind} controller {index}")

    def place(self, device: Device) -> Properties:
        """`bus`, `addr`, `port` … as the device's address says."""
        match device.address:
            case PCIAddress() as address:
                place: Properties = {"bus": self.bus("pci", address.bus)}
                if address.multifunction == "on":
                    place["multifunction"] = True
                place["addr"] = f"{address.slot:#x}" + (f".{address.function:#x}" if address.function else "")
                if device.acpi is not None and device.acpi.index:
                    place["acpi-index"] = device.acpi.index
                return place
            case USBAddress() as address:
                return {"bus": f"{self.bus('usb', address.bus)}.0", "port": address.port}
            case VirtioSerialAddress() as address:
                return {"bus": f"{self.bus('virtio-serial', address.controller)}.{address.bus}", "nr": address.port}
            case None:
                return {}
        raise InternalError(f"device '{alias(device)}' has an address that its family has to render")

    def readable(self, path: str) -> str:
        """By which name QEMU opens a file for reading: its own, or that of the copy that was made for QEMU."""
        copy = self.runtime.fds.get(path)
        return path if copy is None else f"/dev/fd/{copy}"

    def own(self, path: str) -> str:
        """How QEMU names what lies in its own directory, which it is in: the way there may be closed to it."""
        place = Path(path)
        return str(place.relative_to(self.runtime.run_dir)) if place.is_relative_to(self.runtime.run_dir) else path

    def boot_index(self, device: Device) -> Properties:
        index = self.boot.get(alias(device))
        return {} if index is None else {"bootindex": index}


def alias(device: Device) -> str:
    """The device's alias; every device of a planned domain has one."""
    if device.alias is None:
        raise InternalError(f"a device of class {type(device).__name__} has no alias yet")
    return device.alias.name


def boot_order(domain: Domain) -> dict[str, int]:
    """Boot indexes by alias: the devices' own order, or the first device of each class that `<os>` lists."""
    devices = domain.devices
    bootable: list[BootableDevice] = [*devices.disks, *devices.interfaces, *devices.hostdevs, *devices.redirdevs]
    order = {alias(device): device.boot.order for device in bootable if device.boot is not None}
    if order:
        return order
    classes: dict[str, list[Device]] = {
        "hd": [disk for disk in devices.disks if disk.device != "cdrom"],
        "cdrom": [disk for disk in devices.disks if disk.device == "cdrom"],
        "network": [*devices.interfaces],
    }
    for index, boot in enumerate(domain.os.boots, 1):
        if found := classes.pop(boot.dev, []):
            order[alias(found[0])] = index
    return order


def iothreads(domain: Domain) -> list[int]:
    """The numbers of the domain's I/O threads."""
    named = [thread.id for thread in domain.iothreadids.iothreads] if domain.iothreadids is not None else []
    count = max(domain.iothreads or 0, len(named))
    free = (number for number in range(1, count + len(named) + 1) if number not in named)
    return sorted(named + [next(free) for _ in range(count - len(named))])


def reconnect(seconds: int, context: Context) -> Properties:
    """How often a client socket of QEMU's connects again."""
    # Milliseconds came to chardevs and stream netdevs at once; seconds are deprecated since.
    precise = context.binary.has_argument("netdev_add", "type=stream/reconnect-ms")
    return {"reconnect-ms": seconds * 1000} if precise else {"reconnect": seconds}


def virtio_options(options: VirtioOptions | None) -> Properties:
    """The transport's options that every virtio device has."""
    if options is None:
        return {}
    named = {
        "iommu_platform": options.iommu,
        "ats": options.ats,
        "packed": options.packed,
        "page-per-vq": options.page_per_vq,
    }
    return {name: value == "on" for name, value in named.items() if value is not None}


def given(named: Properties | None = None, /, **values: Any) -> Properties:
    """The properties that have a value; names that are no Python identifiers come in a dict."""
    return {name: value for name, value in {**(named or {}), **values}.items() if value is not None}


def switch(value: str | None) -> bool | None:
    """`on`/`yes` and `off`/`no` as a boolean, None as None."""
    return None if value is None else value in ("on", "yes")


def escape(value: str) -> str:
    """A value inside QEMU's comma-separated options."""
    return value.replace(",", ",,")
