"""What a domain may have on one binary, machine and accelerator, as libvirt's domainCapabilities document.

A value is offered when our domain document can say it (the model's types are read for that) and the binary has what
it takes; so nothing is offered that `define` or `start` would refuse. Schema: domaincaps.rng; meaning: libvirt's
formatdomaincaps page.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args

from lxml import etree

from corral.errors import InvalidArgument
from corral.host import usb, vfio
from corral.host.firmware import Firmware, descriptors
from corral.host.kvm import KVM
from corral.host.node import Host
from corral.network import passt
from corral.qemu.binary import Binary, MachineType

ACCELERATORS: Final = {"kvm": "kvm", "qemu": "tcg"}
"""Domain types in order of preference, and QEMU's name for what runs them."""

NOT_MODELS = frozenset({"max", "host", "base"})


VIDEO_DEVICES = {
    "vga": "VGA",
    "cirrus": "cirrus-vga",
    "vmvga": "vmware-svga",
    "qxl": "qxl",
    "virtio": "virtio-gpu-pci",
    "bochs": "bochs-display",
    "ramfb": "ramfb",
}
PANIC_DEVICES = {"isa": "pvpanic", "pvpanic": "pvpanic-pci"}
DISK_BUS_DEVICES = {
    "ide": "ide-hd",
    "scsi": "scsi-hd",
    "virtio": "virtio-blk-pci",
    "usb": "usb-storage",
    "sata": "ich9-ahci",
    "nvme": "nvme-ns",
}
MEMORY_SOURCES = {"file": "memory-backend-file", "anonymous": "memory-backend-ram", "memfd": "memory-backend-memfd"}
FILESYSTEM_DEVICES = {"path": "virtio-9p-pci", "virtiofs": "vhost-user-fs-pci"}
RNG_BACKENDS = {"random": "rng-random", "builtin": "rng-builtin"}


@dataclass(frozen=True, slots=True)
class _Case:
    """What is asked about: the binary in one architecture, machine and accelerator."""

    binary: Binary
    arch: str
    machine: MachineType
    virttype: str
    host: Host | None

    @property
    def accel(self) -> str:
        return ACCELERATORS[self.virttype]

    @property
    def has_ide(self) -> bool:
        """The old chipset has two IDE channels; no other machine of ours has one."""
        return self.machine.name.startswith("pc-i440fx-") or self.machine.name == "isapc"


def domain_types(binary: Binary, arch: str, kvm: KVM | None, *, allow_slow_kvm: bool = False) -> tuple[str, ...]:
    """The domain types this binary offers here, the slowest first as libvirt lists them."""
    offered = []
    if "tcg" in binary.accelerators:
        offered.append("qemu")
    if kvm is not None and kvm.offered(allow_slow=allow_slow_kvm) and "kvm" in binary.accelerators:
        offered.append("kvm")
    return tuple(offered)


def domain_capabilities_xml(
    binary: Binary,
    arch: str | None = None,
    machine: str | None = None,
    virttype: str | None = None,
    kvm: KVM | None = None,
    *,
    host: Host | None = None,
    allow_slow_kvm: bool = False,
    firmwares: Iterable[Firmware] | None = None,
) -> str:
    """What a domain may have; without `virttype` on the fastest accelerator here, without `machine` on QEMU's default.

    Raises InvalidArgument for an architecture, machine or accelerator that the binary does not serve here.
    """
    case = _case(binary, arch, machine, virttype, kvm, host, allow_slow_kvm)
    root = etree.Element("domainCapabilities")
    _add(root, "path", str(binary.path))
    _add(root, "domain", case.virttype)
    _add(root, "machine", case.machine.name)
    _add(root, "arch", case.arch)
    most = case.machine.max_cpus
    _add(root, "vcpu", max=str(kvm.vcpus(most) if kvm is not None and case.virttype == "kvm" else most))
    _supported(root, "iothreads", _document_says("iothreads") and binary.has_object("iothread"))
    _os(root, case, descriptors() if firmwares is None else firmwares)
    _cpu(root, case)
    _enums(root, "memoryBacking", {"sourceType": _memory_sources(case)})
    devices = _add(root, "devices")
    for family, enums in _devices(case):
        _enums(devices, family, enums)
    _features(root, case)
    etree.indent(root, "  ")
    return etree.tostring(root, encoding="unicode") + "\n"


def _case(
    binary: Binary,
    arch: str | None,
    machine: str | None,
    virttype: str | None,
    kvm: KVM | None,
    host: Host | None,
    allow_slow_kvm: bool,
) -> _Case:
    """Check the question; libvirt's texts, because clients show them."""
    arch = arch or binary.arch
    if arch != binary.arch and (arch, binary.arch) != ("i686", "x86_64"):
        raise InvalidArgument(f"Emulator '{binary.path}' does not support arch '{arch}'")
    offered = domain_types(binary, arch, kvm, allow_slow_kvm=allow_slow_kvm)
    if virttype is None:
        virttype = next((name for name in ACCELERATORS if name in offered), "qemu")
    if virttype not in ACCELERATORS:
        raise InvalidArgument(f"unknown virttype: {virttype}")
    if virttype not in offered:
        reason = f": {kvm.reason}" if virttype == "kvm" and kvm is not None else ""
        raise InvalidArgument(
            f"the accel '{ACCELERATORS[virttype]}' is not supported by '{binary.path}' on this host{reason}"
        )
    for known in binary.machines:
        if known.default if machine is None else machine in (known.name, known.alias):
            return _Case(binary, arch, known, virttype, host)
    raise InvalidArgument(f"the machine '{machine or ''}' is not supported by emulator '{binary.path}'")


def _add(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _supported(parent: etree._Element, tag: str, supported: bool) -> etree._Element:
    return _add(parent, tag, supported="yes" if supported else "no")


def _enum(parent: etree._Element, name: str, values: Iterable[str]) -> None:
    element = _add(parent, "enum", name=name)
    for value in values:
        _add(element, "value", value)


def _enums(parent: etree._Element, tag: str, enums: dict[str, Iterable[str]] | None) -> None:
    """A family with its choices; None for one we do not offer."""
    element = _supported(parent, tag, enums is not None)
    for name, values in (enums or {}).items():
        _enum(element, name, values)


def _document_says(field: str, *, of: str = "domain") -> bool:
    """Whether our documents have such an element."""
    from corral.model.domain import Devices, Domain

    return field in (Devices if of == "devices" else Domain).model_fields


def _sayable(model: type[Any], field: str) -> tuple[str, ...]:
    """The words a field of a document may hold, from its Literal type."""

    def words(annotation: object) -> Iterator[str]:
        for argument in get_args(annotation):
            if isinstance(argument, str):
                yield argument
            else:
                yield from words(argument)

    return tuple(words(model.model_fields[field].annotation))


def _both(model: type[Any], field: str, present: Callable[[str], bool]) -> list[str]:
    """The words that a document may say and the binary can do."""
    return [word for word in _sayable(model, field) if present(word)]


def _os(root: etree._Element, case: _Case, firmwares: Iterable[Firmware]) -> None:
    """Firmware: what the descriptors on this host offer this machine."""
    serving = [f for f in firmwares if "uefi" in f.interfaces and f.serves(case.arch, case.machine.name)]
    element = _supported(root, "os", True)
    _enum(element, "firmware", ["efi"] if serving else [])
    loader = _supported(element, "loader", True)
    for firmware in serving:
        _add(loader, "value", str(firmware.executable))
    _enum(loader, "type", ["rom", "pflash"])
    _enum(loader, "readonly", ["yes", "no"])
    secure = any(firmware.secure for firmware in serving) and case.binary.has_machine_option(case.machine.name, "smm")
    _enum(loader, "secure", ["yes", "no"] if secure else ["no"])


def _cpu(root: etree._Element, case: _Case) -> None:
    """The CPU modes and the models, each with what stands in its way here."""
    element = _add(root, "cpu")
    models = case.binary.cpu_models(case.accel)
    passthrough = _supported_mode(element, "host-passthrough", case.virttype == "kvm")
    if case.virttype == "kvm":
        _enum(passthrough, "hostPassthroughMigratable", ["on", "off"])
    has_max = any(model.name == "max" for model in models)
    maximum = _supported_mode(element, "maximum", has_max)
    if has_max:
        _enum(maximum, "maximumMigratable", ["on", "off"])
    nearest = case.binary.host_model(case.accel)
    host_model = _supported_mode(element, "host-model", nearest is not None)
    if nearest is not None:
        _add(host_model, "model", nearest.name, fallback="forbid")
        if nearest.vendor:
            _add(host_model, "vendor", nearest.vendor)
        if case.virttype == "kvm" and case.host is not None and case.host.cpu.physical_bits:
            _add(host_model, "maxphysaddr", mode="passthrough", limit=str(case.host.cpu.physical_bits))
        for policy, names in (("require", nearest.require), ("disable", nearest.disable)):
            for name in names:
                _add(host_model, "feature", policy=policy, name=name)
    custom = _supported_mode(element, "custom", bool(models))
    for model in models:
        if model.name in NOT_MODELS:
            continue
        facts = {"usable": "yes" if model.usable else "no", "vendor": model.vendor or "unknown"}
        if model.deprecated:
            facts["deprecated"] = "yes"
        if model.canonical:
            facts["canonical"] = model.canonical
        _add(custom, "model", model.name, **facts)
        if model.missing:
            blockers = _add(custom, "blockers", model=model.name)
            for name in model.missing:
                _add(blockers, "feature", name=name)


def _supported_mode(parent: etree._Element, name: str, supported: bool) -> etree._Element:
    return _add(parent, "mode", name=name, supported="yes" if supported else "no")


def _memory_sources(case: _Case) -> list[str]:
    from corral.model.memory import MemorySource

    return _both(MemorySource, "type", lambda word: case.binary.has_object(MEMORY_SOURCES[word]))


def _devices(case: _Case) -> Iterator[tuple[str, dict[str, Iterable[str]] | None]]:
    """The device families in the schema's order, each with its choices."""
    yield "disk", _disk(case)
    yield "graphics", _graphics(case)
    yield "video", _video(case)
    yield "hostdev", _hostdev(case)
    yield "rng", _rng(case)
    served = [kind for kind, device in FILESYSTEM_DEVICES.items() if case.binary.has_device(device)]
    yield "filesystem", {"driverType": served} if served else None
    models = [model for model in ("tpm-tis", "tpm-crb") if case.binary.has_device(model)]
    backends = ["passthrough", *(["emulator"] if shutil.which("swtpm") is not None else []), "external"]
    yield "tpm", {"model": models, "backendModel": backends, "backendVersion": ["1.2", "2.0"]} if models else None
    redirection = _document_says("redirdevs", of="devices") and case.binary.has_device("usb-redir")
    yield "redirdev", {"bus": ["usb"]} if redirection else None
    yield "channel", {"type": ["pty", "unix", *(["spicevmc"] if case.binary.has_spice else [])]}
    crypto = case.binary.has_device("virtio-crypto-pci") and case.binary.has_object("cryptodev-backend-builtin")
    yield "crypto", {"model": ["virtio"], "type": ["qemu"], "backendModel": ["builtin"]} if crypto else None
    yield "interface", {"backendType": ["default", *(["passt"] if passt.find() is not None else [])]}
    yield "panic", _panic(case)


def _hostdev(case: _Case) -> dict[str, Iterable[str]] | None:
    """What can be lent: PCI functions where this host has IOMMU groups, USB devices where it has a USB bus, LUNs."""
    offered = {
        "usb": case.binary.has_device("usb-host") and usb.present(),
        "pci": case.binary.has_device("vfio-pci") and vfio.guarded(),
        "scsi": case.binary.has_device("scsi-generic"),
    }
    kinds = [kind for kind, there in offered.items() if there]
    if not kinds:
        return None
    policies = ["default", "mandatory", "requisite", "optional"]
    return {"mode": ["subsystem"], "startupPolicy": policies, "subsysType": kinds, "capsType": [], "pciBackend": []}


def _disk(case: _Case) -> dict[str, Iterable[str]]:
    from corral.model.devices.disk import Disk, DiskTarget

    def has_bus(bus: str) -> bool:
        return case.binary.has_device(DISK_BUS_DEVICES[bus]) and (bus != "ide" or case.has_ide)

    return {
        "diskDevice": _sayable(Disk, "device"),
        "bus": _both(DiskTarget, "bus", has_bus),
        "model": _both(Disk, "model", lambda word: case.binary.has_device(_virtio_device("virtio-blk-pci", word))),
    }


def _virtio_device(device: str, model: str) -> str:
    """QEMU's name of a virtio device in one of libvirt's models."""
    return device + model.removeprefix("virtio")


def _graphics(case: _Case) -> dict[str, Iterable[str]]:
    from corral.model.devices.graphics import Graphics

    present = {"vnc": case.binary.has_vnc, "spice": case.binary.has_spice}
    return {"type": _both(Graphics, "type", lambda word: present.get(word, False))}


def _video(case: _Case) -> dict[str, Iterable[str]]:
    from corral.model.devices.video import VideoModel

    def present(word: str) -> bool:
        return word == "none" or case.binary.has_device(VIDEO_DEVICES.get(word, word))

    return {"modelType": _both(VideoModel, "type", present)}


def _rng(case: _Case) -> dict[str, Iterable[str]]:
    from corral.model.devices.rng import Rng, RngBackend

    return {
        "model": _both(Rng, "model", lambda word: case.binary.has_device(_virtio_device("virtio-rng-pci", word))),
        "backendModel": _both(RngBackend, "model", lambda word: case.binary.has_object(RNG_BACKENDS[word])),
    }


def _panic(case: _Case) -> dict[str, Iterable[str]]:
    from corral.model.devices.panic import Panic

    def present(word: str) -> bool:
        return word == "hyperv" or case.binary.has_device(PANIC_DEVICES.get(word, word))

    return {"model": _both(Panic, "model", present)}


def _hyperv(case: _Case) -> list[str]:
    """Hyper-V's services: those the accelerator has, and the two that are mere numbers and names."""
    from corral.model.features import HyperV

    offered = {name.removeprefix("hv-").replace("-", "_") for name in case.binary.hyperv.get(case.accel, ())}
    return [name for name in HyperV.model_fields if name in offered | {"spinlocks", "vendor_id"}]


def _features(root: etree._Element, case: _Case) -> None:
    """Features of the machine, in the schema's order."""
    from corral.model.features import Features

    says = Features.model_fields
    element = _add(root, "features")
    _supported(element, "gic", False)
    _supported(element, "vmcoreinfo", "vmcoreinfo" in says and case.binary.has_device("vmcoreinfo"))
    _supported(element, "genid", _document_says("genid") and case.binary.has_device("vmgenid"))
    _supported(element, "backingStoreInput", True)
    _supported(element, "backup", False)
    _supported(element, "async-teardown", False)
    _supported(
        element, "ps2", "ps2" in says and case.binary.has_device("ps2-kbd") and case.machine.name.startswith("pc-")
    )
    _supported(element, "sev", False)
    _supported(element, "sgx", False)
    _enums(element, "hyperv", {"features": _hyperv(case)})
    _supported(element, "launchSecurity", False)
