"""What a schema cannot say: whether a domain document agrees with itself, and whether all of it is honoured.

Texts follow libvirt's where clients match on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

from corral.errors import ConfigUnsupported, CorralError, XMLError
from corral.model import audio_rules, disk_rules, displays, function_rules, interface_rules, memory_check
from corral.model.address import DriveAddress, PCIAddress, USBAddress, VirtioSerialAddress
from corral.model.devices.chardev import Channel
from corral.model.devices.controller import Controller
from corral.model.devices.crypto import Crypto
from corral.model.devices.device import BootableDevice, Device
from corral.model.devices.disk import BackingStore, Disk, DiskSource
from corral.model.devices.hostdev import PCIHostdev
from corral.model.devices.hostdev_scsi import SCSIHostdev
from corral.model.devices.hub import Hub, Redirdev
from corral.model.devices.panic import Panic
from corral.model.devices.remote import Auth
from corral.model.devices.tpm import TPM
from corral.model.domain import Domain
from corral.model.element import Element
from corral.model.shape import shape_of

Loc = tuple[str | int, ...]

_LUN = re.compile(r"[^/]+(/[0-9]{1,5})?")
_DISK_NAME = re.compile(r"(hd|sd|vd|xvd|fd|ubd)[a-z]{1,6}|nvme[0-9]{1,4}n[1-9][0-9]{0,2}")


def check(domain: Domain, source: str | bytes | None = None) -> None:
    """Refuse a document that contradicts itself (XMLError) or asks what is not honoured (ConfigUnsupported).

    The text names the path, and the line when `source` is the XML that the document came from.
    """
    checker = _Checker(domain, source)
    checker.names()
    checker.memory()
    checker.processors()
    checker.disks()
    checker.hostdevs()
    checker.vsocks()
    checker.addresses()
    checker.aliases()
    checker.boot_order()
    checker.controllers()
    checker.interfaces()
    checker.displays()
    checker.audios()
    checker.channels()
    checker.redirection()
    checker.labels()


class _Checker:
    def __init__(self, domain: Domain, source: str | bytes | None) -> None:
        self.domain = domain
        self.devices = domain.devices
        self.source = source

    def refuse(self, loc: Loc, message: str, cls: type[CorralError] = XMLError) -> NoReturn:
        raise cls(f"{message} ({place(self.domain, loc, self.source)})")

    def names(self) -> None:
        domain = self.domain
        if not domain.name.strip():
            self.refuse(("name",), "name cannot be empty or only white space")
        if "/" in domain.name:
            self.refuse(("name",), f"name {domain.name} cannot contain '/'")
        if "\n" in domain.name:
            self.refuse(("name",), "invalid char in name: \\n")
        if len(domain.name.encode()) > 255:
            self.refuse(("name",), "name is longer than 255 bytes")
        if domain.title is not None and "\n" in domain.title:
            self.refuse(("title",), "Domain title can't contain newlines")

    def memory(self) -> None:
        for loc, message, cls in memory_check.problems(self.domain):
            self.refuse(loc, message, cls)

    def processors(self) -> None:
        domain = self.domain
        count = domain.vcpu.count if domain.vcpu else 1
        if domain.vcpu and domain.vcpu.current is not None and domain.vcpu.current > count:
            current = domain.vcpu.current
            self.refuse(("vcpu",), f"maxvcpus must not be less than current vcpus ({count} < {current})")
        cpu = domain.cpu
        if cpu is None:
            return
        if cpu.topology is not None and cpu.topology.cpus != count:
            self.refuse(("cpu", "topology"), "CPU topology doesn't match maximum vcpu count", ConfigUnsupported)
        mode = cpu.mode or ("custom" if cpu.match is not None else None)
        if mode == "custom" and (cpu.model is None or not cpu.model.name):
            self.refuse(("cpu",), "missing CPU model name")
        if mode == "host-passthrough" and cpu.model is not None and cpu.model.name:
            self.refuse(("cpu", "model"), "CPU model cannot be specified for mode host-passthrough", ConfigUnsupported)
        seen: set[str] = set()
        for position, feature in enumerate(cpu.features):
            if feature.name in seen:
                self.refuse(("cpu", "features", position), f"CPU feature '{feature.name}' specified more than once")
            seen.add(feature.name)

    def disks(self) -> None:
        seen: dict[str, Disk] = {}
        for position, disk in enumerate(self.devices.disks):
            loc: Loc = ("devices", "disks", position)
            name = disk.target.dev
            if not _DISK_NAME.fullmatch(name):
                self.refuse((*loc, "target", "dev"), f"Invalid harddisk device name: {name}")
            if name in seen:
                first = seen[name].source
                paths = f"'{first.where if first else ''}' and '{disk.source.where if disk.source else ''}'"
                self.refuse((*loc, "target", "dev"), f"target '{name}' duplicated for disk sources {paths}")
            seen[name] = disk
            self.disk_source(disk, loc)

    def disk_source(self, disk: Disk, loc: Loc) -> None:
        source = disk.source
        if source is not None:
            self.drive(source, (*loc, "source"))
        if (source is None or not source.where) and disk.device != "cdrom":
            self.refuse(loc, f"no source for disk '{disk.target.dev}'")
        if source is not None and source.where:
            kinds = {"file": source.file, "block": source.dev, "network": source.protocol, "nvme": source.address}
            if any(value is not None and kind != disk.type for kind, value in kinds.items()):
                self.refuse((*loc, "source"), f"disk type '{disk.type}' does not go with this source")
            self.remote(source, (*loc, "source"))
            if source.startup_policy == "requisite" and disk.device != "cdrom":
                message = "Setting disk 'requisite' startupPolicy is allowed only for cdrom or floppy"
                self.refuse((*loc, "source", "startup_policy"), message)
        self.passed_through(disk, loc)
        if disk.iotune is not None and (fault := disk.iotune.faults()):
            self.refuse((*loc, "iotune"), fault)
        groups = [group.group_name for group in self.domain.throttlegroups.groups] if self.domain.throttlegroups else []
        for used in disk.throttlefilters.filters if disk.throttlefilters is not None else []:
            if used.group not in groups:
                self.refuse((*loc, "throttlefilters"), f"throttle group '{used.group}' not found")
        for within, message, cls in disk_rules.of_disk(disk):
            self.refuse((*loc, *within), message, cls)
        store, where = disk.backing_store, (*loc, "backing_store")
        while isinstance(store, BackingStore):
            if not store.terminator and (store.type is None or store.source is None or not store.source.path):
                self.refuse(where, "a backing store needs a type and a source")
            store, where = store.backing_store, (*where, "backing_store")

    def remote(self, source: DiskSource, loc: Loc) -> None:
        """An image on another machine."""
        if source.protocol is None:
            return
        if len(source.hosts) != 1:
            self.refuse(loc, f"a disk of protocol '{source.protocol}' has one <host>")
        host = source.hosts[0]
        if (host.socket is None) == (host.name is None) or (host.socket is not None) != (host.transport == "unix"):
            self.refuse((*loc, "hosts", 0), "a host has a name, or transport='unix' and a socket")
        if host.socket is not None and source.protocol != "nbd":
            self.refuse((*loc, "hosts", 0), f"protocol '{source.protocol}' does not support transport 'unix'")
        if source.name is None and source.protocol != "nbd":
            self.refuse(loc, f"missing name for network disk of protocol '{source.protocol}'")
        if source.auth is not None and source.protocol != "iscsi":
            self.refuse((*loc, "auth"), f"<auth> of protocol '{source.protocol}' is not supported", ConfigUnsupported)
        self.password(source.auth, (*loc, "auth"))
        if source.protocol == "iscsi" and not _LUN.fullmatch(source.name or ""):
            self.refuse(loc, f"target '{source.name}' must be of format <iqn>/<lun>")

    def drive(self, source: DiskSource, loc: Loc) -> None:
        """A namespace of an NVMe drive of the host's."""
        if source.address is None and (source.type, source.managed, source.namespace) != (None, None, None):
            self.refuse(loc, "NVMe disk source is missing address")
        if source.address is not None and source.type is None:
            self.refuse((*loc, "type"), "missing 'type' attribute to disk source")
        if source.address is not None and source.namespace is None:
            self.refuse((*loc, "namespace"), "Missing required attribute 'namespace' in element 'source'")

    def password(self, auth: Auth | None, loc: Loc) -> None:
        if auth is not None and (auth.secret.uuid is None) == (auth.secret.usage is None):
            self.refuse((*loc, "secret"), "a secret is named by its uuid or by its usage")

    def vsocks(self) -> None:
        if len(self.devices.vsocks) > 1:
            self.refuse(("devices", "vsocks", 1), "only a single vsock device is supported")

    def hostdevs(self) -> None:
        for field, position in function_rules.twice(self.devices):
            self.refuse(("devices", field, position), "Hostdev already exists in the domain configuration")
        for position, device in enumerate(self.devices.hostdevs):
            if isinstance(device, PCIHostdev):
                for where, message, error in function_rules.teaming(device):
                    self.refuse(("devices", "hostdevs", position, *where), message, error)
            if not isinstance(device, SCSIHostdev):
                continue
            loc: Loc = ("devices", "hostdevs", position, "source")
            source = device.source
            if source.protocol is None:
                if source.place is None:
                    self.refuse(loc, "a SCSI host device is named by <adapter name='scsi_hostN'/> and <address>")
                if source.name is not None or source.hosts or source.auth or source.initiator:
                    self.refuse(loc, "name, <host>, <auth> and <initiator> are for protocol 'iscsi'")
                continue
            if source.adapter is not None or source.address is not None:
                self.refuse(loc, "<adapter> and <address> do not go with a protocol")
            if len(source.hosts) != 1:
                self.refuse(loc, "a SCSI host device of protocol 'iscsi' has one <host>")
            self.password(source.auth, (*loc, "auth"))
            if not _LUN.fullmatch(source.name or ""):
                self.refuse(loc, f"target '{source.name}' must be of format <iqn>/<lun>")

    def passed_through(self, disk: Disk, loc: Loc) -> None:
        """What only a SCSI device that is passed through has, and what it has not; texts are libvirt's."""
        if disk.device != "lun":
            for field in ("rawio", "sgio"):
                if getattr(disk, field) is not None:
                    self.refuse((*loc, field), f"{field} can be used only with device='lun'", ConfigUnsupported)
            if disk.source is not None and disk.source.reservations is not None:
                self.refuse((*loc, "source"), "<reservations/> allowed only for lun devices", ConfigUnsupported)
            return
        name, driver = disk.target.dev, disk.driver
        if disk.target.bus not in (None, "scsi"):
            message = f"disk device='lun' is not supported for bus='{disk.target.bus}'"
            self.refuse((*loc, "target"), message, ConfigUnsupported)
        if disk.type in ("file", "nvme") or (disk.source is not None and disk.source.protocol not in (None, "iscsi")):
            self.refuse(loc, f"disk '{name}' improperly configured for a device='lun'", ConfigUnsupported)
        if driver is not None and driver.type not in (None, "raw"):
            self.refuse((*loc, "driver"), "disk device 'lun' must use 'raw' format", ConfigUnsupported)
        if driver is not None and driver.copy_on_read == "on":
            self.refuse((*loc, "driver"), f"copy_on_read is not compatible with 'lun' disk '{name}'", ConfigUnsupported)
        for field in ("serial", "wwn", "vendor", "product"):
            if getattr(disk, field) is not None:
                message = f"scsi-block 'lun' devices do not support the {field} property"
                self.refuse((*loc, field), message, ConfigUnsupported)

    def all_devices(self) -> Iterator[tuple[Loc, Device]]:
        for field, value in self.devices.__dict__.items():
            if isinstance(value, Device):
                yield ("devices", field), value
            elif isinstance(value, list):
                for position, item in enumerate(value):
                    if isinstance(item, Device):
                        yield ("devices", field, position), item

    def addresses(self) -> None:
        seen: set[tuple[str, str]] = set()
        for loc, device in self.all_devices():
            address = device.address
            if device.acpi is not None and isinstance(device, Channel | Hub | Panic | Redirdev | TPM | Crypto):
                self.refuse((*loc, "acpi"), "unknown element <acpi>")
            if address is None:
                continue
            if isinstance(address, PCIAddress):
                if not address.assigned:
                    continue
                kind = "PCI"
            elif isinstance(address, DriveAddress):
                bus = device.target.bus if isinstance(device, Disk) else "scsi"
                kind = f"{bus or 'drive'} unit"
            elif isinstance(address, USBAddress) and address.port is not None:
                kind = "USB"
            elif isinstance(address, VirtioSerialAddress) and address.port is not None:
                kind = "virtio-serial"
            else:
                continue
            key = (kind, str(address))
            # The console that mirrors the first serial port repeats its address.
            if key in seen and loc[1] != "consoles":
                self.refuse((*loc, "address"), f"{kind} address {address} is used twice")
            seen.add(key)

    def aliases(self) -> None:
        seen: set[str] = set()
        for loc, device in self.all_devices():
            # The companions of an EHCI are one bus with it, and so named.
            companion = isinstance(device, Controller) and device.master is not None
            if device.alias is None or loc[1] == "consoles" or companion:
                continue
            if device.alias.name in seen:
                self.refuse((*loc, "alias"), f"non unique alias detected: {device.alias.name}")
            seen.add(device.alias.name)

    def boot_order(self) -> None:
        seen: set[int] = set()
        for loc, device in self.all_devices():
            if not isinstance(device, BootableDevice) or device.boot is None:
                continue
            if self.domain.os.boots:
                message = "per-device boot elements cannot be used together with os/boot elements"
                self.refuse((*loc, "boot"), message, ConfigUnsupported)
            if device.boot.order in seen:
                self.refuse((*loc, "boot"), f"boot order '{device.boot.order}' used for more than one device")
            seen.add(device.boot.order)

    def controllers(self) -> None:
        seen: set[tuple[str, int]] = set()
        for position, controller in enumerate(self.devices.controllers):
            loc: Loc = ("devices", "controllers", position)
            for within, message, cls in disk_rules.of_controller(controller):
                self.refuse((*loc, *within), message, cls)
            # The companions of an ich9-ehci1 share its index.
            if controller.index is None or controller.master is not None:
                continue
            key = (controller.type, controller.index)
            if key in seen:
                self.refuse(loc, f"Multiple '{controller.type}' controllers with index '{controller.index}'")
            seen.add(key)

    def interfaces(self) -> None:
        for position, interface in enumerate(self.devices.interfaces):
            loc: Loc = ("devices", "interfaces", position)
            for where, message, error in interface_rules.objections(interface, self.domain):
                self.refuse((*loc, *where), message, error)
            mac = interface.mac
            if mac is not None and int(mac.address.split(":")[0], 16) & 1:
                self.refuse((*loc, "mac"), f"expected unicast mac address, found multicast '{mac.address}'")

    def displays(self) -> None:
        for loc, message, cls in displays.objections(self.devices, self.domain.memory_backing):
            self.refuse(("devices", *loc), message, cls)

    def audios(self) -> None:
        for position, audio in enumerate(self.devices.audios):
            for loc, message, cls in audio_rules.objections(audio):
                self.refuse(("devices", "audios", position, *loc), message, cls)
        for position, message, cls in audio_rules.twice(self.devices.audios):
            self.refuse(("devices", "audios", position), message, cls)

    def channels(self) -> None:
        seen: set[str] = set()
        for position, channel in enumerate(self.devices.channels):
            name = channel.target.name
            if name is not None and name in seen:
                self.refuse(("devices", "channels", position, "target"), f"channel name '{name}' is used twice")
            if name is not None:
                seen.add(name)

    def redirection(self) -> None:
        for position, device in enumerate(self.devices.redirdevs):
            loc: Loc = ("devices", "redirdevs", position)
            source = device.source
            if device.type == "unix" and (source is None or source.path is None):
                self.refuse(loc, "Missing source path attribute for char device")
            if device.type == "tcp" and (source is None or source.service is None):
                self.refuse(loc, "Missing source service attribute for char device")

    def labels(self) -> None:
        for position, label in enumerate(self.domain.seclabels):
            if label.type == "static":
                self.refuse(("seclabels", position), "static security labels are not supported", ConfigUnsupported)
        for position, disk in enumerate(self.devices.disks):
            for number, own in enumerate(disk.source.seclabels if disk.source is not None else []):
                if own.label is not None:
                    loc = ("devices", "disks", position, "source", "seclabels", number)
                    self.refuse(loc, "security labels of a disk's source are not supported", ConfigUnsupported)


def place(document: Element, loc: Loc, source: str | bytes | None = None) -> str:
    """The XML path of a field, with its line when `source` is the document's XML."""
    if source is not None:
        from corral.model import reader

        root = reader.parse(source)
        element, attribute, _ = reader.locate(root, shape_of(type(document)), loc)
        return reader.place(element, attribute)
    path = "/" + shape_of(type(document)).tag
    value: object = document
    for step in loc:
        if isinstance(value, Element):
            field = shape_of(type(value)).fields[str(step)]
            many = getattr(field, "many", False)
            path += f"/{field.tag}" if hasattr(field, "tag") else f"/@{field.name}"
            value = getattr(value, str(step))
            if many:
                continue
        elif isinstance(value, list):
            path += f"[{int(step) + 1}]" if len(value) > 1 else ""
            value = value[int(step)]
    return path
