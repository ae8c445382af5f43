"""The value of `-cpu`: model, features, and the hypervisor's own services (Hyper-V's and KVM's)."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.clock import Timer
from corral.model.cpu import CPU
from corral.model.element import State
from corral.model.features import Features, HyperV
from corral.qemu import guest_memory
from corral.qemu.context import Context
from corral.qemu.cpu_models import is_service
from corral.qemu.devices.iommu import XAPIC_LIMIT

HYPERV = {
    "relaxed": "hv-relaxed",
    "vapic": "hv-vapic",
    "vpindex": "hv-vpindex",
    "runtime": "hv-runtime",
    "synic": "hv-synic",
    "stimer": "hv-stimer",
    "reset": "hv-reset",
    "frequencies": "hv-frequencies",
    "reenlightenment": "hv-reenlightenment",
    "tlbflush": "hv-tlbflush",
    "ipi": "hv-ipi",
    "evmcs": "hv-evmcs",
    "avic": "hv-avic",
    "emsr_bitmap": "hv-emsr-bitmap",
    "xmm_input": "hv-xmm-input",
}
QEMU_NAMES = {
    "cmp_legacy": "cmp-legacy",
    "ds_cpl": "ds-cpl",
    "fxsr_opt": "fxsr-opt",
    "lahf_lm": "lahf-lm",
    "nodeid_msr": "nodeid-msr",
    "pclmuldq": "pclmulqdq",
    "perfctr_core": "perfctr-core",
    "perfctr_nb": "perfctr-nb",
    "tsc_adjust": "tsc-adjust",
}
"""CPU features whose names differ between libvirt and QEMU."""

SYSTEMS_OWN = frozenset({"osxsave", "ospke", "cmt", "mbm_total", "mbm_local"})
"""What libvirt lists as features of a host and no hypervisor gives: an operating system sets them, or keeps them."""


def cpu_option(context: Context) -> str:
    """The whole value. Raises ConfigUnsupported; what the host lacks of it is the start's to see."""
    cpu = context.domain.cpu or CPU(mode="custom")
    words = _model(cpu, context)
    words += _features(cpu, context)
    words += _tuning(cpu)
    words += _width(cpu, context)
    if context.domain.features is not None:
        words += _services(context.domain.features, context.runtime.accel)
    words += _timers(context)
    if any(panic.model == "hyperv" for panic in context.domain.devices.panics):
        words.append("hv-crash=on")
    return ",".join(words)


def _model(cpu: CPU, context: Context) -> list[str]:
    accel = context.runtime.accel
    match cpu.mode:
        case "host-passthrough":
            if accel != "kvm":
                raise ConfigUnsupported("CPU mode 'host-passthrough' needs KVM; use 'maximum' or a named model")
            return ["host", *_migratable(cpu)]
        case "maximum":
            return ["max", *(_migratable(cpu) if accel == "kvm" else [])]
        case "host-model":
            return _host_model(context)
    if cpu.match == "minimum":
        return _host_model(context)
    name = cpu.model.name if cpu.model is not None and cpu.model.name else "qemu64"
    # A binary that was not asked under KVM knows the same models; what the host lacks of them shows at the start.
    context.binary.cpu_model(name, accel if context.binary.cpu_models(accel) else "tcg")
    return [name]


def _migratable(cpu: CPU) -> list[str]:
    return [] if cpu.migratable is None else [f"migratable={cpu.migratable}"]


def _host_model(context: Context) -> list[str]:
    """The named model that comes nearest to the host, with the features that tell them apart."""
    found = context.binary.host_model(context.runtime.accel)
    if found is None:
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' does not tell what CPU the host could give")
    words = [found.name]
    words += [f"{QEMU_NAMES.get(name, name)}=on" for name in found.require]
    words += [f"{QEMU_NAMES.get(name, name)}=off" for name in found.disable]
    return words


def _features(cpu: CPU, context: Context) -> list[str]:
    words = []
    known = context.binary.cpu_features
    for feature in cpu.features:
        if feature.name in SYSTEMS_OWN:
            continue
        if known and feature.name not in known:
            raise ConfigUnsupported(f"unknown CPU feature: {feature.name}")
        if is_service(feature.name) and feature.policy != "disable":
            raise ConfigUnsupported(
                f"CPU feature '{feature.name}' is a service of KVM's: policy 'disable' takes it from the guest, "
                f"'{feature.policy or 'require'}' means nothing of it",
                hint="a guest under KVM has it unless it is taken away",
            )
        name = QEMU_NAMES.get(feature.name, feature.name)
        match feature.policy:
            case "disable" | "forbid":
                words.append(f"{name}=off")
            case "optional":
                if feature.name in context.binary.available_features(context.runtime.accel):
                    words.append(f"{name}=on")
            case _:
                words.append(f"{name}=on")
    return words


def _tuning(cpu: CPU) -> list[str]:
    words = []
    if cpu.model is not None and cpu.model.vendor_id is not None:
        words.append(f"vendor={cpu.model.vendor_id}")
    if cpu.cache is not None:
        match (cpu.cache.mode, cpu.cache.level):
            case ("emulate", None | 3):
                words += ["l3-cache=on", "host-cache-info=off"]
            case ("passthrough", None):
                words += ["host-cache-info=on", "l3-cache=off"]
            case ("disable", None):
                words += ["host-cache-info=off", "l3-cache=off"]
            case _:
                raise ConfigUnsupported(f"CPU cache mode '{cpu.cache.mode}' with this level is not supported by QEMU")
    if cpu.maxphysaddr is not None:
        match cpu.maxphysaddr.mode:
            case "passthrough":
                words.append("host-phys-bits=on")
                if cpu.maxphysaddr.limit is not None:
                    words.append(f"host-phys-bits-limit={cpu.maxphysaddr.limit}")
            case "emulate" if cpu.maxphysaddr.bits is not None:
                words += ["host-phys-bits=off", f"phys-bits={cpu.maxphysaddr.bits}"]
    return words


def _width(cpu: CPU, context: Context) -> list[str]:
    """Address bits for a guest whose memory needs more than QEMU gives by itself, and APIC ids for many vCPUs."""
    words = []
    bits = guest_memory.width(context.domain)
    if cpu.maxphysaddr is None and bits > guest_memory.WIDTHS[0]:
        words.append(f"phys-bits={bits}" if context.runtime.accel == "tcg" else "host-phys-bits=on")
    vcpu = context.domain.vcpu
    if vcpu is not None and vcpu.count > XAPIC_LIMIT and not any(each.name == "x2apic" for each in cpu.features):
        words.append("x2apic=on")
    return words


def _services(features: Features, accel: str) -> list[str]:
    words = []
    if features.apic is not None and features.apic.eoi is not None:
        words.append(f"kvm-pv-eoi={features.apic.eoi}")
    if features.pmu is not None and features.pmu.state is not None:
        if features.pmu.state == "on" and accel != "kvm":
            raise ConfigUnsupported(
                "a virtual PMU (<pmu state='on'/>) needs KVM: software emulation has no performance counters",
                hint="leave <pmu> out, or use domain type 'kvm'",
            )
        words.append(f"pmu={features.pmu.state}")
    if features.pvspinlock is not None and features.pvspinlock.state is not None:
        words.append(f"kvm-pv-unhalt={features.pvspinlock.state}")
    # Software emulation has none of Hyper-V's services: most QEMUs ignore the wish there, 7.2 stumbles over some.
    if features.hyperv is not None and accel == "kvm":
        words += _hyperv(features.hyperv)
    if features.kvm is not None:
        if _on(features.kvm.hidden):
            words.append("kvm=off")
        if _on(features.kvm.hint_dedicated):
            words.append("kvm-hint-dedicated=on")
        if _on(features.kvm.poll_control):
            words.append("kvm-poll-control=on")
        if features.kvm.pv_ipi is not None and features.kvm.pv_ipi.state == "off":
            words.append("kvm-pv-ipi=off")
    return words


def _hyperv(hyperv: HyperV) -> list[str]:
    words = ["hv-passthrough=on"] if hyperv.mode == "passthrough" else []
    for field, name in HYPERV.items():
        state: State | None = getattr(hyperv, field)
        if state is not None and (state.state == "on" or (state.state == "off" and hyperv.mode == "passthrough")):
            words.append(f"{name}={state.state}")
    if hyperv.spinlocks is not None and hyperv.spinlocks.state == "on":
        retries = 0xFFFFFFFF if hyperv.spinlocks.retries is None else hyperv.spinlocks.retries
        words.append(f"hv-spinlocks={retries:#x}")
    if hyperv.stimer is not None and _on(hyperv.stimer) and _on(hyperv.stimer.direct):
        words.append("hv-stimer-direct=on")
    if hyperv.tlbflush is not None and _on(hyperv.tlbflush):
        words += ["hv-tlbflush-direct=on"] if _on(hyperv.tlbflush.direct) else []
        words += ["hv-tlbflush-ext=on"] if _on(hyperv.tlbflush.extended) else []
    if hyperv.vendor_id is not None and hyperv.vendor_id.state == "on":
        words.append(f"hv-vendor-id={hyperv.vendor_id.value or ''}")
    return words


def _on(state: State | None) -> bool:
    return state is not None and state.state == "on"


def _timers(context: Context) -> list[str]:
    words = []
    for timer in context.domain.clock.timers if context.domain.clock is not None else ():
        present = None if timer.present is None else "on" if timer.present == "yes" else "off"
        match timer.name:
            case "kvmclock" if present is not None:
                words.append(f"kvmclock={present}")
            case "hypervclock" if present == "on" and context.runtime.accel == "kvm":
                words.append("hv-time=on")
            case "tsc":
                words += _tsc(timer, context)
    return words


def _tsc(timer: Timer, context: Context) -> list[str]:
    """The guest's time stamp counter: absent, at a pace of its own, or the processor's."""
    if timer.present == "no":
        return ["tsc=off"]
    if context.runtime.accel != "kvm":
        for said, what in ((timer.frequency, "a frequency"), (timer.mode == "native", "mode 'native'")):
            if said:
                raise ConfigUnsupported(
                    f"{what} of timer 'tsc' needs KVM: in software emulation the counter is the emulator's",
                    hint="leave it out, or use domain type 'kvm'",
                )
    return [f"tsc-frequency={timer.frequency}"] if timer.frequency else []
