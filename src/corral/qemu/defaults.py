"""Defaults: everything that libvirt fills in when a domain is defined."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.errors import ConfigUnsupported, XMLError
from corral.host.firmware import Firmware
from corral.model import cpuset
from corral.model.clock import Clock
from corral.model.cpu import CPU, CPUModel
from corral.model.domain import VCPU, Domain
from corral.model.os import BootDevice
from corral.model.units import Memory
from corral.qemu import addresses, default_devices, firmware, guest_memory, memory_slots, unsupported, vcpus
from corral.qemu.binary import Binary
from corral.qemu.context import iothreads
from corral.qemu.pci_slots import is_q35
from corral.qemu.plan import DisplayTLS, GraphicsPorts, Runtime, plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the host adds to a definition.

    `kvm`: KVM may be used (`<domain type='kvm'>` is refused otherwise, with `kvm_reason`).
    `firmwares`: the host's UEFI firmware in order of preference (`host.firmware.descriptors()`).
    `display_tls`: there are certificates for displays.
    `nvram_dir`: where a domain's variable store goes: `nvram_dir/NAME_VARS.fd`.
    """

    kvm: bool
    kvm_reason: str = ""
    firmwares: Sequence[Firmware] = ()
    nvram_dir: Path
    display_tls: bool = False


def complete(domain: Domain, binary: Binary, host: Host) -> Domain:
    """A copy with everything filled in: ids, machine, implied devices, addresses. Idempotent.

    Raises ConfigUnsupported for what the binary or the host lacks, XMLError for what contradicts itself.
    """
    full = domain.copy()
    _refuse(full, host)
    full.uuid = full.uuid or uuid.uuid4()
    _complete_machine(full, binary)
    _complete_memory(full)
    _complete_vcpus(full, binary)
    _complete_iothreads(full)
    firmware.complete(full, binary.arch, host.firmwares, host.nvram_dir)
    _complete_boot(full)
    _complete_cpu(full, binary)
    if full.features is not None and full.features.hyperv is not None:
        full.features.hyperv.mode = full.features.hyperv.mode or "custom"
    full.clock = full.clock or Clock()
    if full.clock.offset == "variable":
        full.clock.adjustment = full.clock.adjustment or "0"
        full.clock.basis = full.clock.basis or "utc"
    full.on_poweroff = full.on_poweroff or "destroy"
    full.on_reboot = full.on_reboot or "restart"
    full.on_crash = full.on_crash or "destroy"
    default_devices.complete(full, binary)
    unsupported.refuse(full)
    addresses.assign(full)
    full.check()
    _try_plan(full, binary)
    return full


def _refuse(domain: Domain, host: Host) -> None:
    if domain.type == "kvm" and not host.kvm:
        reason = f": {host.kvm_reason}" if host.kvm_reason else ""
        raise ConfigUnsupported(f"domain type 'kvm' cannot be used on this host{reason}", hint="use type 'qemu'")
    if not host.display_tls and any((display.tls_port or 0) > 0 for display in domain.devices.graphics):
        raise ConfigUnsupported(
            "spice TLS port set in XML configuration, but the daemon has no certificates for displays",
            hint="docs/displays.md says how to make some",
        )


def _complete_machine(domain: Domain, binary: Binary) -> None:
    os = domain.os
    os.type.arch = os.type.arch or binary.arch
    if os.type.arch != binary.arch:
        raise ConfigUnsupported(f"Emulator '{binary.path}' does not support arch '{os.type.arch}'")
    os.type.machine = binary.canonical_machine(os.type.machine)
    if not (is_q35(domain) or os.type.machine.startswith("pc-i440fx")):
        raise ConfigUnsupported(f"machine type '{os.type.machine}' is not supported", hint="use 'q35' or 'pc'")
    domain.devices.emulator = domain.devices.emulator or str(binary.path)


def _complete_memory(domain: Domain) -> None:
    memory_slots.complete(domain)  # what modules have counts with the memory
    _complete_nodes(domain)
    if domain.memory is None or domain.memory.kib == 0:
        raise XMLError("missing element or empty <memory>")
    current = domain.current_memory
    if current is None or current.kib == 0 or current.kib > domain.memory.kib:
        domain.current_memory = type(domain.memory)(kib=domain.memory.kib)


def _complete_nodes(domain: Domain) -> None:
    """Number the NUMA nodes; their sum is the memory."""
    nodes = guest_memory.cells(domain)
    if not nodes:
        return
    for number, cell in enumerate(nodes):
        cell.id = number if cell.id is None else cell.id
        if cell.memory_kib == 0:
            raise XMLError(f"NUMA cell {number} has no memory")
        cell.memory_kib = -(-cell.memory_kib // 1024) * 1024
    nodes.sort(key=lambda cell: cell.id or 0)
    if [cell.id for cell in nodes] != list(range(len(nodes))):
        raise XMLError("NUMA cells must be numbered from 0 without gaps or repetition")
    count = domain.vcpu.count if domain.vcpu is not None else 1
    seen: set[int] = set()
    for cell in nodes:
        cpus = cpuset.parse(cell.cpus) if cell.cpus else frozenset()
        if cpus & seen:
            raise XMLError(f"NUMA cells {cell.id} and another have overlapping vCPUs {cpuset.write(cpus & seen)}")
        if cpus and max(cpus) >= count:
            raise ConfigUnsupported(f"CPU {max(cpus)} of NUMA cell {cell.id} is not one of the domain's {count} vCPUs")
        seen |= cpus
        for sibling in cell.distances.siblings if cell.distances is not None else ():
            if sibling.id >= len(nodes):
                raise XMLError(f"'sibling_id {sibling.id}' does not refer to a valid cell within NUMA cell {cell.id}")
    total = sum(cell.memory_kib for cell in nodes) + guest_memory.modules_kib(domain)
    domain.memory = domain.memory or Memory(kib=total)
    domain.memory.kib = total


def _complete_vcpus(domain: Domain, binary: Binary) -> None:
    vcpu = domain.vcpu = domain.vcpu or VCPU(count=1)
    vcpu.placement = vcpu.placement or "static"
    if vcpu.current is not None and vcpu.current > vcpu.count:
        raise XMLError(f"maxvcpus must not be less than current vcpus ({vcpu.count} < {vcpu.current})")
    _complete_single_vcpus(domain, vcpu)
    _check_pinning(domain, vcpu)
    if vcpu.current == vcpu.count:
        vcpu.current = None
    limit = binary.machine(domain.os.type.machine).max_cpus
    if vcpu.count > limit:
        raise ConfigUnsupported(f"Maximum CPUs greater than specified machine type limit {limit}")


def _complete_single_vcpus(domain: Domain, vcpu: VCPU) -> None:
    """Where `<vcpus>` says which vCPUs there are, they are what counts; the first is always there."""
    if domain.vcpus is None or not domain.vcpus.vcpus:
        domain.vcpus = None
        return
    told = [state.id for state in domain.vcpus.vcpus]
    if len(set(told)) < len(told):
        raise XMLError("a vCPU is listed twice in <vcpus>")
    if max(told) >= vcpu.count:
        raise XMLError(f"vcpu id '{max(told)}' is out of range: there are {vcpu.count}")
    found = vcpus.states(domain)
    if found[0].enabled == "no":
        raise XMLError("vCPU 0 can't be offline")
    if found[0].hotpluggable == "yes":
        raise ConfigUnsupported("vCPU 0 can't be hotpluggable")
    for state in found:
        if state.enabled == "yes":
            state.hotpluggable = state.hotpluggable or "no"
    boot = [state.id for state in found if state.enabled == "yes" and state.hotpluggable == "no"]
    if boot != list(range(len(boot))):
        raise ConfigUnsupported("vCPUs that are not hotpluggable must be the first ones")
    vcpus.keep(domain, found)


def _check_pinning(domain: Domain, vcpu: VCPU) -> None:
    """Refuse sets of host CPUs that are none, and pins of what the domain does not have."""
    if vcpu.cpuset is not None:
        cpuset.parse(vcpu.cpuset)
    tune = domain.cputune
    if tune is None:
        return
    sets = [pin.cpuset for pin in tune.vcpupins] + [pin.cpuset for pin in tune.iothreadpins]
    for text in sets + ([tune.emulatorpin.cpuset] if tune.emulatorpin is not None else []):
        cpuset.parse(text)
    pinned = [pin.vcpu for pin in tune.vcpupins]
    if len(set(pinned)) < len(pinned):
        raise XMLError("duplicate vcpupin for same vcpu")
    tune.vcpupins = [pin for pin in tune.vcpupins if pin.vcpu < vcpu.count]
    known = iothreads(domain)
    for thread in tune.iothreadpins:
        if thread.iothread not in known:
            raise XMLError(f"Cannot find 'iothread' : {thread.iothread}")


def _complete_iothreads(domain: Domain) -> None:
    named = len(domain.iothreadids.iothreads) if domain.iothreadids is not None else 0
    if named > (domain.iothreads or 0):
        domain.iothreads = named


def _complete_boot(domain: Domain) -> None:
    os, devices = domain.os, domain.devices
    ordered = any(
        device.boot is not None
        for device in (*devices.disks, *devices.interfaces, *devices.hostdevs, *devices.redirdevs)
    )
    if ordered and os.boots:
        raise ConfigUnsupported("per-device boot elements cannot be used together with os/boot elements")
    if not ordered and not os.boots:
        os.boots.append(BootDevice(dev="hd"))


def _complete_cpu(domain: Domain, binary: Binary) -> None:
    cpu = domain.cpu = domain.cpu or CPU()
    kvm = domain.type == "kvm"
    if cpu.mode is None:
        cpu.mode = "custom"
    match cpu.mode:
        case "custom":
            cpu.match = cpu.match or "exact"
            if cpu.model is None or not cpu.model.name:
                default = binary.machine(domain.os.type.machine).default_cpu or "qemu64"
                cpu.model = CPUModel(name=default, fallback="forbid")
                cpu.check = cpu.check or "none"
            else:
                cpu.model.fallback = cpu.model.fallback or "allow"
                cpu.check = cpu.check or ("partial" if kvm else "none")
        case "host-model":
            cpu.check = cpu.check or "partial"
        case "host-passthrough" | "maximum":
            cpu.check = cpu.check or "none"
            if kvm and cpu.mode == "host-passthrough":
                cpu.migratable = cpu.migratable or "on"
    for feature in cpu.features:
        feature.policy = feature.policy or "require"
    if cpu.topology is not None:
        cpu.topology.dies = cpu.topology.dies or 1
        cpu.topology.clusters = cpu.topology.clusters or 1
        if domain.vcpu is not None and cpu.topology.cpus != domain.vcpu.count:
            raise ConfigUnsupported("CPU topology doesn't match maximum vcpu count")


def _try_plan(domain: Domain, binary: Binary) -> None:
    """Make the plan of a start, to refuse at definition what could never start."""
    ports = GraphicsPorts(port=5900, tls_port=5901)
    runtime = Runtime(
        accel="kvm" if domain.type == "kvm" else "tcg",
        run_dir=Path("/run"),
        graphics=dict.fromkeys(range(len(domain.devices.graphics)), ports),
        tls=DisplayTLS(directory=Path("/run/tls")),
    )
    plan(domain, binary, runtime)
