"""The sixteen capabilities, judged for one host: works here, or why not.

A row is True when host and QEMU have all it takes and this version of Corral offers it, False when host or QEMU lack
something, None when they have it and Corral does not offer it yet.
"""

from __future__ import annotations

from dataclasses import replace

from corral.host import io_engines
from corral.host.tsc import TOLERANCE_PPM
from corral.hypervisor.host.facts import Facts, Row
from corral.qemu.binary import Binary
from corral.qemu.devices.disk import engine

MANY_VCPUS = 160
TCG_PHYSICAL_BITS = 52
"""What a guest can address under software emulation."""
TWO_TIB_BITS = 42
"""2 TiB of memory and the devices above it."""
MODELS = ("SandyBridge", "Opteron_G4")
"""The Core i3/i5/i7 family and AMD family 15h under QEMU's names."""
NOT_YET = "host and QEMU can; Corral does not offer it yet"


def sixteen(facts: Facts, binary: Binary) -> list[Row]:
    """The rows in the order of the list."""
    return [
        _vcpus(facts, binary),
        _memory(facts),
        _models(facts, binary),
        _steal_time(facts),
        _async_qcow2(binary),
        _agent(binary),
        _pmu(facts),
        _vcpu_hotplug(facts, binary),
        _virtio_scsi(facts, binary),
        _sleep(binary),
        _sriov(facts, binary),
        _tsc_scaling(facts),
        _perf(facts),
        _usb(binary),
        _link_state(binary),
        _row(16, "libvirt's interfaces", True, f"virsh and other libvirt clients connect; this is {facts.uri}"),
    ]


def _row(number: int, name: str, ok: bool | None, text: str, hint: str = "") -> Row:
    return Row(name, ok, text, hint, number)


def _lacking(number: int, name: str, lacks: list[str], works: str | None) -> Row:
    """A row for what QEMU must have: False with all that it lacks, else `works` (None: not offered yet)."""
    if lacks:
        return _row(number, name, False, f"QEMU lacks {', '.join(lacks)}", "install a QEMU built with it")
    return _row(number, name, None if works is None else True, works or NOT_YET)


def _hardware(number: int, name: str, facts: Facts, works: str | None) -> Row:
    """A row for what only hardware virtualization gives."""
    if not facts.hardware:
        return _row(number, name, False, "needs KVM on hardware; see accelerator")
    return _row(number, name, None if works is None else True, works or NOT_YET)


def _vcpus(facts: Facts, binary: Binary) -> Row:
    name = f"guests of {MANY_VCPUS} vCPUs"
    largest = max(binary.machines, key=lambda machine: (machine.max_cpus, machine.alias is not None))
    limit = facts.kvm.vcpus(largest.max_cpus) if facts.hardware else largest.max_cpus
    text = f"up to {limit} (machine type {largest.alias or largest.name})"
    default = next((machine for machine in binary.machines if machine.default), largest)
    if default.max_cpus < limit:  # what `virsh maxvcpus` says, which asks about no machine by name
        text += f"; {default.max_cpus} on {default.alias or default.name}, the type of a document that names none"
    if limit < MANY_VCPUS:
        return _row(1, name, False, text)
    return _row(
        1, name, True, text if facts.hardware else f"{text}; in software emulation they share the host's CPUs, slowly"
    )


def _memory(facts: Facts) -> Row:
    name = "guests of 2 TB memory"
    if not facts.hardware:
        text = (
            f"software emulation addresses {TCG_PHYSICAL_BITS} bits ({_tebibytes(TCG_PHYSICAL_BITS)}); "
            "a guest may be promised more memory than the host has"
        )
        return _row(2, name, True, text)
    bits = facts.host.cpu.physical_bits
    text = f"the processor addresses {bits} bits ({_tebibytes(bits)})"
    return _row(2, name, bits >= TWO_TIB_BITS, text)


def _tebibytes(bits: int) -> str:
    return f"{1 << (bits - 40)} TiB" if bits >= 40 else f"{1 << max(0, bits - 30)} GiB"


def _models(facts: Facts, binary: Binary) -> Row:
    """Whether QEMU knows both models, and what this accelerator would leave out of each."""
    name = "CPU models " + ", ".join(MODELS)
    accel = facts.accel if binary.cpu_models(facts.accel) else "tcg"
    known = {model.name: model for model in binary.cpu_models(accel)}
    if absent := [model for model in MODELS if model not in known]:
        return _lacking(3, name, absent, None)
    texts = []
    for model in MODELS:
        missing = known[model].missing
        texts.append(f"{model} complete" if not missing else f"{model} without {' '.join(missing)}")
    return _row(3, name, True, f"under {accel}: " + "; ".join(texts))


def _steal_time(facts: Facts) -> Row:
    works = "KVM tells the guest unless its document switches it off; corral top shows the host's count beside it"
    return _hardware(4, "steal time in guests", facts, works)


def _async_qcow2(binary: Binary) -> Row:
    engines = [e for e in ("io_uring", "native") if binary.has_argument("blockdev-add", f"driver=file/aio={e}")]
    chosen = engine(binary, io_engines.engines(), direct=False) or "threads"
    offered = ", ".join([*engines, "threads"])
    works = f"disks use {chosen} unless their <driver io='…'> names another; QEMU has {offered}"
    if not io_engines.io_uring() and "io_uring" in engines:
        works += "; the host's kernel refuses io_uring"
    return _row(5, "asynchronous qcow2", True, works)


def _agent(binary: Binary) -> Row:
    lacks = [device for device in ("virtio-serial-pci", "virtserialport") if not binary.has_device(device)]
    return _lacking(
        6,
        "guest agent",
        lacks,
        "in guests that run qemu-guest-agent and have its channel: commands, files, time, freeze, trim, keys, sleep",
    )


def _pmu(facts: Facts) -> Row:
    """What KVM said, also where it is too slow to be used."""
    name, kvm = "virtual PMU", facts.kvm
    if not kvm.usable:
        return _row(7, name, False, "needs KVM; see accelerator")
    if not kvm.pmu.version:
        text = "this host's KVM gives guests no performance counters (CPUID leaf 0xA has version 0"
        text += ", KVM_CAP_PMU_CAPABILITY is 0)" if not kvm.pmu_capability else ")"
        return _row(
            7,
            name,
            False,
            text,
            "load the module kvm with enable_pmu=1, on a processor that lets this system have its counters",
        )
    if facts.accel != "kvm":
        return _row(7, name, False, f"KVM offers {kvm.pmu}, but is not used; see accelerator")
    return _row(7, name, True, f"{kvm.pmu}: with <pmu state='on'/>, and with CPU mode host-passthrough")


def _vcpu_hotplug(facts: Facts, binary: Binary) -> Row:
    able = any(machine.hotpluggable_cpus for machine in binary.machines)
    works = "corral set NAME --cpus N, virsh setvcpus"
    if not facts.hardware:
        works += "; in software emulation Linux from the end of 2025 on takes none"
        works += ", and what an older one has let go of returns with its next start"
    return _lacking(8, "vCPUs plugged live", [] if able else ["machines with hotpluggable CPUs"], works)


def _virtio_scsi(facts: Facts, binary: Binary) -> Row:
    lacks = [device for device in ("virtio-scsi-pci", "scsi-hd", "scsi-cd") if not binary.has_device(device)]
    works = "disks and CDs, hundreds on a controller; LUNs of the host and of iSCSI targets passed through"
    row = _lacking(9, "virtio-scsi", lacks, works)
    hint = "iSCSI is in a package of its own: apt install qemu-block-extra"
    return row if lacks or facts.iscsi else replace(row, hint=hint)


def _sleep(binary: Binary) -> Row:
    switches = {"S3": "disable_s3", "S4": "disable_s4"}
    lacks = [state for state, switch in switches.items() if not binary.has_property("ICH9-LPC", switch)]
    works = "where the document's <pm> switches them on: corral sleep and wake, virsh dompmsuspend"
    return _lacking(10, "S3 and S4 in guests", lacks, works)


def _sriov(facts: Facts, binary: Binary) -> Row:
    name = "SR-IOV"
    if not binary.has_device("vfio-pci"):
        return _lacking(11, name, ["vfio-pci"], None)
    if not facts.functions:
        return _row(11, name, False, "no PCI device of this host has virtual functions")
    total, made = (sum(getattr(each, name) for each in facts.functions) for name in ("total", "active"))
    if not facts.host.iommu:
        text = f"{total} virtual functions, but no IOMMU to give them to guests safely"
        return _row(11, name, False, text, "switch on VT-d or AMD-Vi in the firmware; intel_iommu=on")
    text = f"{total} virtual functions, {made} made: <interface type='hostdev'>, <hostdev type='pci'>"
    card = facts.functions[0]
    hint = f"echo {min(card.total, 4)} >/sys/bus/pci/devices/{card.address}/sriov_numvfs makes some"
    return _row(11, name, True, text, "" if made else hint)


def _tsc_scaling(facts: Facts) -> Row:
    """What KVM said, also where it is too slow to be used."""
    name, kvm = "TSC frequency of choice", facts.kvm
    if not kvm.usable:
        return _row(12, name, False, "needs KVM; see accelerator")
    if facts.accel != "kvm":
        return _row(12, name, False, f"{kvm.tsc}; but KVM is not used, see accelerator")
    if not kvm.tsc.scaling:
        return _row(12, name, False, f"{kvm.tsc}: guests can have this frequency, within {TOLERANCE_PPM} ppm")
    return _row(12, name, True, f"{kvm.tsc}: <timer name='tsc' frequency='...'/>")


def _perf(facts: Facts) -> Row:
    name = "perf kvm"
    if facts.accel == "kvm" and facts.perf_lacks is not None:
        return _row(13, name, False, *facts.perf_lacks)
    if facts.accel == "kvm" and not facts.hardware:
        return _row(13, name, None, "corral perf counts what KVM does here, which is software emulation, too")
    return _hardware(13, name, facts, "corral perf stat counts exits, corral perf record draws host and guest")


def _usb(binary: Binary) -> Row:
    lacks = [device for device in ("ich9-usb-ehci1", "usb-redir") if not binary.has_device(device)]
    if not binary.has_spice:
        lacks.append("SPICE")
    row = _lacking(14, "USB 2.0 and USB redirection", lacks, "corral usb share DEVICE --to NAME; or over SPICE")
    if lacks and binary.has_device("ich9-usb-ehci1"):
        hint = "apt install qemu-system-modules-spice"
        return _row(14, "USB 2.0 and USB redirection", False, row.text, hint)
    return row


def _link_state(binary: Binary) -> Row:
    lacks = [] if binary.has_command("set_link") else ["set_link"]
    return _lacking(
        15, "link state of an interface", lacks, "corral nic link, virsh domif-setlink: while it runs and defined"
    )
