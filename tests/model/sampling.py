"""Sample documents: for every field of every class, a smallest document in which it has each of its values."""

from __future__ import annotations

import types
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from corral.model import audio_rules
from corral.model.element import Element
from corral.model.shape import Child, shape_of

TEXTS = {
    "arch": "x86_64",
    "machine": "pc-q35-10.0",
    "dev": "vda",
    "address": "10.0.2.2",
    "wwn": "5000c50015ea71ad",
    "vendor_id": "GenuineIntel",
    "partition": "/machine",
    "cpus": "0-1",
    "cpuset": "0-1",
    "nodeset": "0",
    "nodemask": "0",
    "port": "1.2",
    "passwd_valid_to": "2030-01-01T00:00:00",
    "adjustment": "120",
    "timezone": "Europe/Prague",
    "service": "4555",
    "unit": "KiB",
    "uuid": "c7a5fdbd-edaf-9455-926a-d65c16db1809",
    "content": '<a:x xmlns:a="urn:a"/>',
    "keymap": "en-us",
    "product": "disk",
    "vendor": "acme",
    "fmode": "0644",
    "dmode": "0755",
    "portid": "c7a5fdbd-edaf-9455-926a-d65c16db1809",
}
PATHS = {
    "path",
    "database",
    "file",
    "kernel",
    "initrd",
    "emulator",
    "template",
    "log_file",
    "socket",
    "rendernode",
    "tap",
    "dir",
    "vhost",
    "tty",
}
SMALLEST: dict[str, dict[str, Any]] = {
    "FilesystemSource": {"dir": "/x/y"},
    "HostUSBSource": {"vendor": {"id": 1}, "product": {"id": 1}},
}
"""What a class needs one of, though no single field is required."""
OVERRIDES = {
    ("Adapter", "name"): "scsi_host0",
    ("Mac", "address"): "52:54:00:12:34:56",
    ("GuestFwd", "address"): "10.0.2.1",
    ("RedirRule", "version"): "1.10",
}


def values(cls: type[Element], field: str) -> list[Any]:
    """What the field may hold, one of each kind."""
    info = cls.model_fields[field]
    found: list[Any] = []
    bounds: dict[str, int] = {}

    def constraints(marks: list[Any]) -> None:
        for mark in marks:
            if isinstance(mark, FieldInfo):
                constraints(mark.metadata)
            if isinstance(mark, Ge):
                bounds["ge"] = int(mark.ge)  # type: ignore[call-overload]
            if isinstance(mark, Le):
                bounds["le"] = int(mark.le)  # type: ignore[call-overload]

    def visit(annotation: Any) -> None:
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *marks = get_args(annotation)
            constraints(marks)
            visit(inner)
        elif origin in (Union, types.UnionType):
            for argument in get_args(annotation):
                visit(argument)
        elif origin is list:
            visit(get_args(annotation)[0])
        elif origin is Literal:
            found.extend(get_args(annotation))
        elif annotation is int:
            found.append(max(bounds.get("ge", 1), 1))
        elif annotation is bool:
            found.append(True)
        elif annotation is uuid.UUID:
            found.append(uuid.UUID(TEXTS["uuid"]))
        elif annotation is str:
            found.append(
                OVERRIDES.get((cls.__name__, field)) or TEXTS.get(field) or ("/x/y" if field in PATHS else "x")
            )

    constraints(info.metadata)
    visit(info.annotation)
    return found


def smallest(cls: type[Element]) -> dict[str, Any]:
    """Only what the class requires, and discriminators."""
    data: dict[str, Any] = {}
    for field, info in cls.model_fields.items():
        if not info.is_required():
            continue
        entity = shape_of(cls).fields[field]
        if isinstance(entity, Child) and entity.kind == "element":
            value = smallest(entity.classes[None])
            data[field] = [value] if entity.many else value
        else:
            value = values(cls, field)[0]
            data[field] = [value] if isinstance(entity, Child) and entity.many else value
    data |= SMALLEST.get(cls.__name__, {})
    if cls.__name__.endswith(("Address", "Hostdev", "Backend")) and "type" in cls.model_fields:
        data["type"] = values(cls, "type")[0]
    return data


def routes(root: type[Element]) -> Iterator[tuple[tuple[type[Element], str], ...]]:
    """Each way from the root to a class, as (class, field) steps; a class below itself only once."""
    seen: set[tuple[type[Element], type[Element] | None]] = set()

    def walk(cls: type[Element], route: tuple[tuple[type[Element], str], ...]) -> Iterator[Any]:
        yield (cls, route)
        for field, entity in shape_of(cls).fields.items():
            if isinstance(entity, Child) and entity.kind == "element":
                for below in dict.fromkeys(entity.classes.values()):
                    if (below, cls) not in seen:
                        seen.add((below, cls))
                        yield from walk(below, (*route, (cls, field)))

    yield from walk(root, ())


LENT: dict[str, Any] = {"protocol": "iscsi", "name": "x", "hosts": [{"name": "x"}]}
LENT_HERE: dict[str, Any] = {
    "adapter": {"name": "scsi_host0"},
    "address": {"bus": 0, "target": 0, "unit": 0},
}
FUNCTION: dict[str, Any] = {"type": "hostdev", "source": {"function": {"type": "pci", "bus": 1}}}
REMOTE: dict[str, Any] = {"hosts": [{"name": "x", "port": 1}], "name": "x"}
DRIVE: dict[str, Any] = {"type": "pci", "namespace": 1, "address": {"bus": 2}}
SOURCES: dict[str, dict[str, Any]] = {
    "address": DRIVE,
    "hosts": {"protocol": "nbd"},
    "reconnect": {**REMOTE, "protocol": "nbd"},
    "auth": {**REMOTE, "protocol": "iscsi"},
    "initiator": {**REMOTE, "protocol": "iscsi"},
    "reservations": {"dev": "/dev/x"},
} | {name: {**REMOTE, "protocol": "https"} for name in ("ssl", "readahead", "timeout")}
"""What a disk's source needs beside each of its elements."""


def _disk_of(cls: str, source: dict[str, Any]) -> dict[str, Any]:
    """What the disk, or backing store, of a source says."""
    found: dict[str, Any] = {"type": "network"} if "protocol" in source else {}
    if "namespace" in source:
        found = {"type": "nvme"}
    if "reservations" in source:
        found = {"type": "block"} | ({"device": "lun"} if cls == "Disk" else {})
    return found


def nested(route: tuple[tuple[type[Element], str], ...], data: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The smallest document that holds `data` at the end of the route, with `above` beside it."""
    for cls, field in reversed(route):
        entity = shape_of(cls).fields[field]
        assert isinstance(entity, Child)
        base = smallest(cls)
        if cls.__name__ == "Controller" and field == "pcihole64":
            base |= {"type": "pci", "model": "pcie-root"}
        if cls.__name__ == "SMM":
            base |= {"state": "on"}
        if cls.__name__ == "BackingStore":
            base |= {"type": "file", "format": {"type": "raw"}, "source": {"file": "/x"}}
        if cls.__name__ == "SCSIHostdev":
            base |= {"source": LENT}
        if cls.__name__ == "SCSISource":
            base |= LENT_HERE if field in LENT_HERE else LENT
        if cls.__name__ == "DiskSource":
            base |= SOURCES.get(field, {})
        if cls.__name__ in ("Disk", "BackingStore") and field == "source":
            base |= _disk_of(cls.__name__, data)
        if cls.__name__ == "Interface" and field == "source":
            kinds = {"local": "udp", "reconnect": "vhostuser", "function": "hostdev"}
            base |= next(({"type": kind} for name, kind in kinds.items() if name in data), {})
        if cls.__name__ == "Interface" and field == "vlan":
            base |= FUNCTION
        if cls.__name__ == "InterfaceSource" and field == "local":
            base |= {"address": "10.0.2.2", "port": 1}
        if cls.__name__ == "InterfaceSource" and field == "reconnect":
            base |= {"type": "unix", "path": "/x", "mode": "client"}
        if cls.__name__ == "Smartcard":
            base |= {"mode": "passthrough", "type": "spicevmc"}
        data = {**base, **above, field: [data] if entity.many else data}
        above = {}
    return data


LUN: dict[str, Any] = {"type": "block", "device": "lun", "source": {"dev": "/dev/x"}}
_UDP = {"address": "10.0.0.2", "port": 1, "local": {"address": "10.0.0.1", "port": 2}}

# What must stand beside a field for the document to make sense: in its own element, and in the parent's.
CONTEXT: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {
    ("NVRAM", "template_format"): ({"template": "/x", "path": "/y"}, {"loader": {"path": "/x", "type": "pflash"}}),
    ("Spinlocks", "retries"): ({"state": "on"}, {}),
    ("VendorID", "value"): ({"state": "on"}, {}),
    ("DirtyRing", "size"): ({"state": "on"}, {}),
    ("CPUFeature", "*"): ({"policy": "require"}, {"model": {"name": "qemu64"}}),
    ("Clock", "basis"): ({"offset": "variable"}, {}),
    ("Clock", "timezone"): ({"offset": "timezone"}, {}),
    ("Clock", "start"): ({"offset": "absolute"}, {}),
    ("Clock", "offset=absolute"): ({"start": 1}, {}),
    ("Timer", "frequency"): ({"name": "tsc"}, {}),
    ("Timer", "mode"): ({"name": "tsc"}, {}),
    ("Catchup", "*"): ({}, {"name": "rtc", "tickpolicy": "catchup"}),
    ("DiskSource", "dev"): ({}, {"type": "block"}),
    **{("DiskSource", f"protocol={name}"): (REMOTE, {}) for name in ("iscsi", "nbd", "http", "https", "ftp", "ftps")},
    ("DiskSource", "name"): ({**REMOTE, "protocol": "nbd"}, {}),
    ("DiskSource", "query"): ({**REMOTE, "protocol": "http"}, {}),
    **{("DiskSource", field): (DRIVE, {}) for field in ("type", "managed", "namespace")},
    ("SCSIHostdev", "*"): ({"source": LENT}, {}),
    ("SCSISource", "*"): (LENT, {}),
    ("Auth", "*"): ({"secret": {"type": "iscsi", "usage": "x"}}, {}),
    ("AuthSecret", "type=iscsi"): ({"usage": "x"}, {}),
    ("SourceHost", "*"): ({"name": "x"}, {}),
    ("SourceHost", "transport=unix"): ({"socket": "/x"}, {}),
    ("SourceHost", "socket"): ({"transport": "unix"}, {}),
    ("Disk", "device=lun"): (LUN, {}),
    ("Disk", "rawio"): (LUN, {}),
    ("Disk", "sgio"): (LUN, {}),
    ("Disk", "type=nvme"): ({"source": DRIVE}, {}),
    ("Disk", "type=network"): ({"source": {**REMOTE, "protocol": "nbd"}}, {}),
    ("DeviceSeclabel", "*"): ({"model": "dac", "relabel": "yes", "label": "x"}, {}),
    ("DeviceSeclabel", "relabel=no"): ({"model": "dac", "label": None}, {}),
    ("Seclabel", "baselabel"): ({"type": "dynamic", "model": "dac"}, {}),
    ("Graphics", "p2p"): ({"type": "dbus"}, {}),
    ("Graphics", "address"): ({"type": "dbus"}, {}),
    ("Graphics", "connected=fail"): ({"type": "spice", "passwd": "x"}, {}),
    ("Graphics", "connected=disconnect"): ({"type": "spice", "passwd": "x"}, {}),
    ("DeviceSeclabel", "labelskip"): ({"model": "dac", "relabel": None, "label": None}, {}),
    ("BackingStore", "*"): ({"type": "file", "format": {"type": "raw"}, "source": {"file": "/x"}}, {}),
    ("BackingStore", "type=network"): (
        {"format": {"type": "raw"}, "source": {**REMOTE, "protocol": "nbd"}},
        {},
    ),
    ("BackingStore", "type=nvme"): ({"format": {"type": "raw"}, "source": DRIVE}, {}),
    ("BackingStore", "type=block"): ({"format": {"type": "raw"}, "source": {"dev": "/x"}}, {}),
    ("Graphics", "tls_port"): ({"type": "spice"}, {}),
    ("Graphics", "default_mode"): ({"type": "spice"}, {}),
    ("Graphics", "connected"): ({"passwd": "x"}, {}),
    ("Listen", "type=network"): ({"network": "x"}, {}),
    ("Listen", "type=socket"): ({"socket": "/x"}, {}),
    ("Listen", "network"): ({"type": "network"}, {}),
    ("Listen", "socket"): ({"type": "socket"}, {}),
    ("GL", "rendernode"): ({"enable": "yes"}, {"type": "spice"}),
    ("VideoModel", "ram"): ({"type": "qxl"}, {}),
    ("VideoModel", "vram64"): ({"type": "qxl"}, {}),
    ("VideoModel", "vgamem"): ({"type": "qxl"}, {}),
    ("Seclabel", "*"): ({"type": "static", "model": "dac", "label": "x"}, {}),
    ("Seclabel", "type=none"): ({"label": None}, {}),
    ("Interface", "type=hostdev"): (FUNCTION, {}),
    ("Interface", "managed"): (FUNCTION, {}),
    ("InterfaceDriver", "name=vfio"): ({}, FUNCTION),
    ("Interface", "type=network"): ({"source": {"network": "x"}}, {}),
    ("Interface", "type=bridge"): ({"source": {"bridge": "x"}}, {}),
    ("Interface", "type=direct"): ({"source": {"dev": "x"}}, {}),
    ("InterfaceSource", "network"): ({}, {"type": "network"}),
    ("InterfaceSource", "portgroup"): ({"network": "x"}, {"type": "network"}),
    ("InterfaceSource", "portid"): ({"network": "x"}, {"type": "network"}),
    ("InterfaceSource", "bridge"): ({}, {"type": "bridge"}),
    ("InterfaceSource", "dev"): ({}, {"type": "direct"}),
    ("InterfaceSource", "mode=client"): ({"type": "unix", "path": "/x"}, {"type": "vhostuser"}),
    ("InterfaceSource", "mode=server"): ({"type": "unix", "path": "/x"}, {"type": "vhostuser"}),
    ("InterfaceSource", "mode"): ({"dev": "x"}, {"type": "direct"}),
    ("MemoryDeviceSource", "pmem"): ({"path": "/x"}, {}),
    ("InterfaceSource", "type"): ({"path": "/x", "mode": "client"}, {"type": "vhostuser"}),
    ("InterfaceSource", "path"): ({"type": "unix", "mode": "client"}, {"type": "vhostuser"}),
    ("InterfaceSource", "address"): ({"port": 1}, {"type": "client"}),
    ("InterfaceSource", "port"): ({"address": "10.0.2.2"}, {"type": "client"}),
    ("Interface", "type=vhostuser"): ({"source": {"type": "unix", "path": "/x", "mode": "client"}}, {}),
    ("Interface", "type=mcast"): ({"source": {"address": "230.0.0.1", "port": 1}}, {}),
    ("Interface", "type=server"): ({"source": {"port": 1}}, {}),
    ("Interface", "type=client"): ({"source": {"address": "10.0.2.2", "port": 1}}, {}),
    ("Interface", "type=udp"): (
        {"source": {"address": "10.0.0.2", "port": 1, "local": {"address": "10.0.0.1", "port": 2}}},
        {},
    ),
    ("Controller", "ports"): ({"type": "virtio-serial"}, {}),
    ("Controller", "vectors"): ({"type": "virtio-serial"}, {}),
    ("ControllerHardware", "*"): ({}, {"type": "pci", "model": "pcie-root-port"}),
    ("ControllerTarget", "*"): ({}, {"type": "pci", "model": "pcie-root-port"}),
    ("ControllerMaster", "*"): ({}, {"type": "usb", "model": "ich9-uhci1"}),
    ("Redirdev", "type=tcp"): ({"source": {"mode": "bind", "service": "4000"}, "protocol": {"type": "raw"}}, {}),
    ("Redirdev", "type=unix"): ({"source": {"mode": "bind", "path": "/x"}}, {}),
    ("Firmware", "*"): ({"features": [{"enabled": "yes", "name": "secure-boot"}]}, {"firmware": "efi"}),
    ("FirmwareFeature", "*"): ({}, {}),
    ("FilesystemDriver", "queue"): ({"type": "virtiofs"}, {}),
    ("FilesystemSource", "socket"): ({"dir": None}, {}),
    ("Smartcard", "mode=passthrough"): ({"type": "spicevmc"}, {}),
    ("Smartcard", "type"): ({"mode": "passthrough"}, {}),
    ("Smartcard", "mode=host-certificates"): ({"certificates": ["a", "b", "c"]}, {}),
    ("Smartcard", "certificates"): ({"mode": "host-certificates"}, {}),
    ("Smartcard", "database"): ({"mode": "host-certificates", "certificates": ["a", "b", "c"]}, {}),
}
for _field, _types in audio_rules.BACKEND.items():
    CONTEXT["Audio", _field] = ({"type": _types[0]}, {})
for _field, _types in audio_rules.SIDE.items():
    CONTEXT |= {(side, _field): ({}, {"type": _types[0]}) for side in ("AudioInput", "AudioOutput")}
CONTEXT["AudioSettings", "*"] = ({}, {"fixed_settings": "yes"})
SPICE = ("SpiceChannel", "ImageCompression", "WanCompression", "Playback", "Streaming", "SpiceMouse", "SpiceClipboard")
CONTEXT |= {(name, "*"): ({}, {"type": "spice"}) for name in (*SPICE, "FileTransfer", "GL")}
CONTEXT["GL", "rendernode"] = ({"enable": "yes"}, {"type": "spice"})
CONTROLLERS = {
    "scsi": "auto buslogic lsilogic lsisas1068 lsisas1078 vmpvscsi virtio-scsi ncr53c90 dc390 am53c974",
    "usb": "piix3-uhci piix4-uhci ehci ich9-ehci1 ich9-uhci1 ich9-uhci2 ich9-uhci3 vt82c686b-uhci pci-ohci nec-xhci "
    "qemu-xhci none",
    "ide": "piix3 piix4 ich6",
    "pci": "pci-root pcie-root pci-bridge dmi-to-pci-bridge pcie-to-pci-bridge pcie-root-port "
    "pcie-switch-upstream-port pcie-switch-downstream-port pci-expander-bus pcie-expander-bus",
    "virtio-serial": "virtio virtio-transitional virtio-non-transitional",
}
for _type, _models in CONTROLLERS.items():
    CONTEXT |= {("Controller", f"model={model}"): ({"type": _type}, {}) for model in _models.split()}
CONTEXT["Controller", "type=pci"] = ({"model": "pcie-root"}, {})


def context(cls: type[Element], field: str, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    for key in (f"{field}={value}", field, "*"):
        if (cls.__name__, key) in CONTEXT:
            return CONTEXT[cls.__name__, key]
    return {}, {}


def samples(root: type[Element]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) for every field and value."""
    for cls, route in routes(root):
        base = smallest(cls)
        path = ".".join(field for _, field in route)
        for field in cls.model_fields:
            entity = shape_of(cls).fields[field]
            if isinstance(entity, Child) and entity.kind == "element":
                continue
            for value in values(cls, field):
                many = isinstance(entity, Child) and entity.many
                own, above = context(cls, field, value)
                data = {**base, **own, field: [value] if many else value}
                yield f"{path}.{field}={value}", nested(route, data, above)
