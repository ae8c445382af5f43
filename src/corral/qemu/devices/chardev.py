"""Character devices: serial and parallel ports, consoles, channels, redirected USB devices."""

from __future__ import annotations

from typing import Any, Literal

from corral.errors import ConfigUnsupported
from corral.model import displays
from corral.model.address import ISAAddress, VirtioSerialAddress
from corral.model.devices.chardev import Channel, Chardev, ChardevSource, Console, Parallel, Serial
from corral.model.devices.hub import Redirdev, RedirRule
from corral.qemu import descriptors
from corral.qemu.context import Context, Properties, alias, given, reconnect, switch
from corral.qemu.runtime import Part


def serial(device: Serial, context: Context) -> list[Part]:
    """A serial port on ISA, PCI or USB."""
    target = device.target
    kind = target.model.name if target is not None and target.model is not None else "isa-serial"
    if kind not in ("isa-serial", "pci-serial", "usb-serial", "isa-debugcon"):
        raise ConfigUnsupported(f"serial port model '{kind}' does not exist on this machine")
    props: Properties = {"driver": context.driver(kind)}
    if kind == "isa-serial" and target is not None:
        if (target.port or 0) > 3:
            raise ConfigUnsupported("a machine has four ISA serial ports; use target type 'pci-serial' for more")
        props["index"] = target.port
    return _with_backend(device, props | _isa(device) | _place(device, context), context)


def parallel(device: Parallel, context: Context) -> list[Part]:
    """A parallel port."""
    props: Properties = {"driver": context.driver("isa-parallel")}
    if device.target is not None:
        props["index"] = device.target.port
    return _with_backend(device, props | _isa(device), context)


def console(device: Console, context: Context) -> list[Part]:
    """A virtio console; one that mirrors the serial port is no device of its own."""
    if not device.is_virtio:
        return []
    props: Properties = {"driver": context.driver("virtconsole")}
    if isinstance(device.address, VirtioSerialAddress):
        props |= context.place(device)
    return _with_backend(device, props, context)


def channel(device: Channel, context: Context) -> list[Part]:
    """A named port of a virtio-serial controller."""
    props: Properties = {"driver": context.driver("virtserialport")} | context.place(device)
    return _with_backend(device, props | given(name=device.target.name), context)


def redirdev(device: Redirdev, context: Context) -> list[Part]:
    """A USB port that somebody else fills over the usbredir protocol."""
    twin = Chardev(type=device.type, source=device.source, protocol=device.protocol, log=device.log, alias=device.alias)
    backend = backend_of(twin, context, spice_name="usbredir")
    props: Properties = {"driver": context.driver("usb-redir"), "chardev": f"char{alias(device)}"}
    props |= context.place(device) | context.boot_index(device) | _filter(context)
    files = _files(f"char{alias(device)}", backend["type"], backend["data"])
    return [*files, Part("chardev", f"char{alias(device)}", backend), Part("device", alias(device), props)]


def _filter(context: Context) -> Properties:
    """The domain's one filter holds for all its slots: usbredir's text form, with colons where that has commas."""
    rules = context.domain.devices.redirfilter
    if rules is None:
        return {}
    return {"filter": "|".join(map(_rule, rules.rules))}


def _rule(rule: RedirRule) -> str:
    numbers = [rule.device_class, rule.vendor, rule.product, _bcd(rule.version)]
    words = ["-1" if number is None else f"{number:#06x}" for number in numbers]
    return ":".join([*words, "1" if rule.allow == "yes" else "0"])


def _bcd(version: str | None) -> int | None:
    """bcdDevice of `2.10`: the digits stand for themselves (USB 2.0, 9.6.1)."""
    if version is None:
        return None
    major, _, minor = version.partition(".")
    return int(major, 16) << 8 | int(minor, 16)


def _with_backend(device: Chardev, props: Properties, context: Context) -> list[Part]:
    name = f"char{alias(device)}"
    backend = backend_of(device, context)
    return [
        *_files(name, backend["type"], backend["data"]),
        Part("chardev", name, backend),
        Part("device", alias(device), {"driver": props["driver"], "chardev": name} | props),
    ]


def _files(name: str, kind: str, data: dict[str, Any]) -> list[Part]:
    """The files that a backend opens, and the backend's data pointed to them."""
    found = []
    if kind == "file":
        found.append(descriptors.other(name, data["out"], "append" if data["append"] else "truncate"))
        data["out"] = descriptors.reference(found[-1])
    if kind == "serial":
        found.append(descriptors.other(name, data["device"], "device"))
        data["device"] = descriptors.reference(found[-1])
    if "logfile" in data:
        mode: Literal["append", "truncate"] = "append" if data.get("logappend") else "truncate"
        found.append(descriptors.other(f"log of {name}", data["logfile"], mode))
        data["logfile"] = descriptors.reference(found[-1])
    return found


def _place(device: Serial, context: Context) -> Properties:
    return {} if isinstance(device.address, ISAAddress) else context.place(device)


def _isa(device: Chardev) -> Properties:
    if not isinstance(device.address, ISAAddress):
        return {}
    return given(iobase=device.address.iobase, irq=device.address.irq)


def backend_of(device: Chardev, context: Context, *, spice_name: str = "vdagent") -> dict[str, Any]:
    """The host's side as QEMU's ChardevBackend. Raises ConfigUnsupported for backends the binary lacks."""
    source = device.source or ChardevSource()
    if device.type in displays.SPICE_ENDS and all(each.type != "spice" for each in context.domain.devices.graphics):
        raise ConfigUnsupported(displays.without_spice(device.type))
    kind, data = _backend(device, source, spice_name, context)
    if not context.binary.has_chardev(kind):
        raise ConfigUnsupported(f"chardev backend '{kind}' is not supported by QEMU binary '{context.binary.path}'")
    if device.log is not None:
        data |= given(logfile=device.log.file, logappend=switch(device.log.append))
    return {"type": kind, "data": data}


def _backend(device: Chardev, source: ChardevSource, spice_name: str, context: Context) -> tuple[str, dict[str, Any]]:
    match device.type:
        case "pty" | "null":
            return device.type, {}
        case "file":
            return "file", {"out": _path(device, source), "append": source.append == "on"}
        case "dev":
            return "serial", {"device": _path(device, source)}
        case "pipe":
            return "pipe", {"device": _path(device, source)}
        case "unix":
            address = {"type": "unix", "data": {"path": context.own(_path(device, source))}}
            return "socket", _socket(device, source, address, context, default="bind")
        case "tcp":
            if source.service is None:
                raise ConfigUnsupported(f"'{alias(device)}' of type tcp has no service (port)")
            address = {"type": "inet", "data": {"host": source.host or "127.0.0.1", "port": source.service}}
            return "socket", _socket(device, source, address, context, default="connect")
        case "spicevmc":
            return "spicevmc", {"type": spice_name}
        case "spiceport":
            return "spiceport", given(fqdn=source.channel)
        case "qemu-vdagent":
            mouse = source.mouse is not None and source.mouse.mode == "client"
            clipboard = source.clipboard is not None and source.clipboard.copypaste == "yes"
            return "qemu-vdagent", {"mouse": mouse, "clipboard": clipboard}
    raise ConfigUnsupported(f"chardev type '{device.type}' makes no sense for a machine that a daemon runs")


def _path(device: Chardev, source: ChardevSource) -> str:
    if source.path is None:
        raise ConfigUnsupported(f"'{alias(device)}' of type {device.type} has no path")
    return source.path


def _socket(
    device: Chardev, source: ChardevSource, address: dict[str, Any], context: Context, *, default: str
) -> dict[str, Any]:
    if device.protocol is not None and device.protocol.type not in ("raw", "telnet"):
        raise ConfigUnsupported(f"protocol '{device.protocol.type}' of '{alias(device)}' is not supported yet")
    server = (source.mode or default) == "bind"
    data: dict[str, Any] = {"addr": address, "server": server}
    if server:
        data["wait"] = False
    elif source.reconnect is not None and source.reconnect.enabled == "yes":
        data |= reconnect(source.reconnect.timeout or 1, context)
    if device.protocol is not None and device.protocol.type == "telnet":
        data["telnet"] = True
    return data
