"""What the host and its emulators offer, as libvirt's capabilities document.

A function of what `corral.host` and `corral.qemu.binary` found; it reads nothing itself. Written element by element
rather than through `corral.model.capabilities`, which is for readers: the daemon only writes it, and need not load it.
Schema: capability.rng; meaning: libvirt's formatcaps page. What a domain may have is in `domain_capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lxml import etree

from corral.host.kvm import KVM
from corral.host.node import Host
from corral.host.sysfs import ranges
from corral.hypervisor.host.domain_capabilities import domain_capabilities_xml, domain_types
from corral.qemu.binary import Binary
from corral.qemu.cpu_models import from_kernel_flags, nearest

__all__ = ["capabilities_xml", "domain_capabilities_xml", "emulator_for"]

WORD_SIZES = {"i686": "32", "armv7l": "32"}
GUEST_ARCHITECTURES = {"x86_64": ("i686", "x86_64")}
"""Which guests a host's own emulators serve, in libvirt's order."""


def emulator_for(arch: str, binaries: Iterable[Binary]) -> Binary | None:
    """The binary that serves guests of an architecture: its own first; qemu-system-x86_64 also runs i686."""
    known = list(binaries)
    for wanted in (arch, "x86_64") if arch == "i686" else (arch,):
        for binary in known:
            if binary.arch == wanted:
                return binary
    return None


def capabilities_xml(host: Host, binaries: Iterable[Binary], kvm: KVM, *, allow_slow_kvm: bool = False) -> str:
    """The host's capabilities and a guest entry for each architecture that has an emulator and an accelerator."""
    known = list(binaries)
    root = etree.Element("capabilities")
    _host(root, host, known, kvm)
    for arch in GUEST_ARCHITECTURES.get(host.arch, (host.arch,)):
        binary = emulator_for(arch, known)
        if binary is not None and (types := domain_types(binary, arch, kvm, allow_slow_kvm=allow_slow_kvm)):
            _guest(root, arch, binary, types)
    etree.indent(root, "  ")
    return etree.tostring(root, encoding="unicode") + "\n"


def _add(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _host(root: etree._Element, host: Host, binaries: Sequence[Binary], kvm: KVM) -> None:
    element = _add(root, "host")
    _add(element, "uuid", str(host.uuid))
    _cpu(element, host, binaries, kvm)
    _add(element, "power_management")
    _add(element, "iommu", support="yes" if host.iommu else "no")
    _topology(element, host)
    if host.topology.caches:
        banks = _add(element, "cache")
        for cache in host.topology.caches:
            size, unit = (cache.size_kib // 1024, "MiB") if cache.size_kib % 1024 == 0 else (cache.size_kib, "KiB")
            place = {"id": str(cache.id), "level": str(cache.level), "type": cache.kind}
            _add(banks, "bank", **place, size=str(size), unit=unit, cpus=ranges(cache.cpus))
    secmodel = _add(element, "secmodel")
    _add(secmodel, "model", "none")
    _add(secmodel, "doi", "0")


def _cpu(parent: etree._Element, host: Host, binaries: Sequence[Binary], kvm: KVM) -> None:
    """The processor as a named model and what it has beyond it, as far as a QEMU here knows it."""
    cpu, shape = host.cpu, host.topology
    element = _add(parent, "cpu")
    _add(element, "arch", host.arch)
    binary = emulator_for(host.arch, binaries)
    model = None
    if binary is not None:
        features = from_kernel_flags(cpu.flags, binary.cpu_features)
        models = binary.cpu_models("tcg") or binary.cpu_models("kvm")
        model = nearest(models, features, cpu.vendor, within=True)
    if model is not None:
        _add(element, "model", model.name)
    if cpu.vendor:
        _add(element, "vendor", cpu.vendor)
    if cpu.microcode:
        _add(element, "microcode", version=str(cpu.microcode))
    if cpu.family:
        _add(element, "signature", family=str(cpu.family), model=str(cpu.model), stepping=str(cpu.stepping))
    if kvm.tsc.khz:
        scaling = "yes" if kvm.tsc.scaling else "no"
        _add(element, "counter", name="tsc", frequency=str(kvm.tsc.hz), scaling=scaling)
    counts = {"sockets": shape.sockets, "dies": shape.dies, "clusters": shape.clusters}
    counts |= {"cores": shape.cores, "threads": shape.threads}
    _add(element, "topology", **{name: str(count) for name, count in counts.items()})
    if cpu.physical_bits:
        _add(element, "maxphysaddr", mode="emulate", bits=str(cpu.physical_bits))
    for name in model.require if model is not None else ():
        _add(element, "feature", name=name)
    for size in host.page_sizes_kib:
        _add(element, "pages", unit="KiB", size=str(size))


def _topology(parent: etree._Element, host: Host) -> None:
    """The NUMA cells with their memory, distances and CPUs."""
    cells = _add(_add(parent, "topology"), "cells", num=str(len(host.cells)))
    for cell in host.cells:
        element = _add(cells, "cell", id=str(cell.id))
        _add(element, "memory", str(cell.memory_kib), unit="KiB")
        for size, count in cell.pages:
            _add(element, "pages", str(count), unit="KiB", size=str(size))
        if cell.distances:
            distances = _add(element, "distances")
            for node, value in cell.distances:
                _add(distances, "sibling", id=str(node), value=str(value))
        members = [cpu for cpu in host.topology.cpus if cpu.online and cpu.id in cell.cpus]
        cpus = _add(element, "cpus", num=str(len(members)))
        for cpu in members:
            place = {"socket_id": cpu.socket, "die_id": cpu.die, "cluster_id": cpu.cluster, "core_id": cpu.core}
            ids = {name: str(value) for name, value in place.items()}
            _add(cpus, "cpu", id=str(cpu.id), **ids, siblings=ranges(cpu.siblings))


def _guest(root: etree._Element, arch: str, binary: Binary, types: Iterable[str]) -> None:
    """What clients look for before they write a domain: type hvm, emulator, machines, accelerators."""
    guest = _add(root, "guest")
    _add(guest, "os_type", "hvm")
    element = _add(guest, "arch", name=arch)
    _add(element, "wordsize", WORD_SIZES.get(arch, "64"))
    _add(element, "emulator", str(binary.path))
    for machine in sorted(binary.machines, key=lambda machine: not machine.default):
        if machine.name == "none":
            continue
        facts = {"maxCpus": str(machine.max_cpus)} | ({"deprecated": "yes"} if machine.deprecated else {})
        _add(element, "machine", machine.name, **facts)
        if machine.alias:
            _add(element, "machine", machine.alias, canonical=machine.name, **facts)
    for name in types:
        _add(element, "domain", type=name)
    features = _add(guest, "features")
    if arch == "i686":
        _add(features, "pae")
        _add(features, "nonpae")
    _add(features, "acpi", default="on", toggle="yes")
    _add(features, "apic", default="on", toggle="no")
    _add(features, "cpuselection")
    _add(features, "deviceboot")
