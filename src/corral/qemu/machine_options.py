"""The options of the machine itself: type, accelerator, memory, vCPUs, firmware, clock, power management."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from corral.errors import ConfigUnsupported
from corral.model.domain import Domain
from corral.model.os import Loader
from corral.qemu import descriptors, guest_memory, iothreads, vcpus
from corral.qemu.context import Context, escape
from corral.qemu.cpu_option import cpu_option
from corral.qemu.devices import filesystem, graphics, platform, sound, tpm
from corral.qemu.pci_slots import is_q35
from corral.qemu.runtime import Part

Option = tuple[str, ...]

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
PFLASH = ("libvirt-pflash0", "libvirt-pflash1")
_WAKE_TABLE = Path(__file__).with_name("data") / "wake.aml"
TRACKS = {"guest": "vm", "wall": "host", "realtime": "rt", "boot": "vm"}


def options(context: Context) -> list[Option]:
    """All options that are no parts, in the order in which a person would read them."""
    domain, binary = context.domain, context.binary
    words: list[Option] = [("-name", f"guest={escape(domain.name)},debug-threads=on"), ("-S",)]
    words += [
        ("-uuid", str(domain.uuid)),
        ("-no-user-config",),
        ("-nodefaults",),
        ("-display", graphics.backend(context)),
    ]
    if binary.has_sandbox:
        words.append(("-sandbox", SANDBOX))
    words.append(("-msg", "timestamp=on"))
    words += [("-machine", _machine(context)), ("-accel", _accel(context)), ("-cpu", cpu_option(context))]
    words += [("-m", guest_memory.room(domain)), ("-smp", _smp(context)), guest_memory.locking(domain)]
    words += guest_memory.options(context)
    words += _monitor(context)
    words += [("-rtc", _rtc(context)), ("-no-shutdown",), ("-boot", _boot(context))]
    words += _sleep_states(context) + _wake_table(context) + _timer_globals(context) + _chipset(context)
    words += _firmware(context) + _kernel(context)
    for audio in domain.devices.audios:
        words += sound.options(audio, context)
    for directory in domain.devices.filesystems:
        words += filesystem.options(directory)
    for module in domain.devices.tpms:
        words += tpm.options(module)
    words += graphics.options(context)
    return words + platform.watchdog_options(context)


def parts(context: Context) -> list[Part]:
    """Memory, I/O threads and firmware images."""
    found = guest_memory.parts(context)
    found += [iothreads.part(thread, context.binary) for thread in iothreads.settings(context.domain)]
    features = context.domain.features
    if features is not None and features.vmcoreinfo is not None and features.vmcoreinfo.state == "on":
        found.append(Part("device", "vmcoreinfo0", {"driver": context.driver("vmcoreinfo")}))
    return found + graphics.parts(context) + _pflash(context)


def _machine(context: Context) -> str:
    domain = context.domain
    features, os = domain.features, domain.os
    words = [os.type.machine or "", "usb=off"]
    if features is not None and features.vmport is not None and features.vmport.state is not None:
        words.append(f"vmport={features.vmport.state}")
    if features is not None and features.smm is not None and features.smm.state is not None:
        if not context.q35 and features.smm.state == "on":
            raise ConfigUnsupported("smm is only supported with q35 machine type")
        words.append(f"smm={features.smm.state}")
    dumped = domain.memory is not None and domain.memory.dump_core == "on"
    words.append(f"dump-guest-core={'on' if dumped else 'off'}")
    if not guest_memory.cells(domain):
        words.append(f"memory-backend={guest_memory.MEMORY_ID}")
    if any(each.model == "nvdimm" for each in domain.devices.memories):
        words.append("nvdimm=on")
    if features is not None and features.ioapic is not None:
        words.append(f"kernel-irqchip={'split' if features.ioapic.driver == 'qemu' else 'on'}")
    if features is not None and features.ps2 is not None and features.ps2.state is not None:
        words.append(f"i8042={features.ps2.state}")
    if os.bios is not None and os.bios.useserial == "yes":
        words.append("graphics=off")
    if any(card.model == "pcspk" for card in domain.devices.sounds):
        card = next(card for card in domain.devices.sounds if card.model == "pcspk")
        words.append(f"pcspk-audiodev={sound.audiodev(card, context)}")
    words += [f"pflash{number}={part}" for number, part in enumerate(_pflash_tops(context))]
    for timer in domain.clock.timers if domain.clock is not None else ():
        if timer.name == "hpet" and timer.present is not None:
            words.append(f"hpet={'on' if timer.present == 'yes' else 'off'}")
    words.append(f"acpi={'on' if features is not None and features.acpi else 'off'}")
    return ",".join(words)


def _accel(context: Context) -> str:
    features, accel = context.domain.features, context.runtime.accel
    if accel == "tcg":
        words = ["tcg"] + (["thread=single"] if vcpus.in_turns(context.domain) else [])
        if features is not None and features.tcg is not None and features.tcg.tb_cache is not None:
            words.append(f"tb-size={features.tcg.tb_cache.bytes // (1024 * 1024)}")
        return ",".join(words)
    if accel == "kvm" and features is not None and features.kvm is not None:
        ring = features.kvm.dirty_ring
        if ring is not None and ring.state == "on":
            return f"kvm,dirty-ring-size={ring.size or 4096}"
    return accel


def _smp(context: Context) -> str:
    vcpu, cpu = context.domain.vcpu, context.domain.cpu
    most = vcpu.count if vcpu is not None else 1
    now = len(vcpus.at_boot(context.domain))
    words = [str(now)] + ([f"maxcpus={most}"] if now != most else [])
    topology = cpu.topology if cpu is not None else None
    if topology is None:
        return ",".join([*words, f"sockets={most}", "cores=1", "threads=1"])
    if (topology.clusters or 1) > 1:
        raise ConfigUnsupported("PC machines have no CPU clusters; a socket can have several dies")
    words.append(f"sockets={topology.sockets}")
    words += [f"dies={topology.dies}"] if topology.dies is not None else []
    return ",".join([*words, f"cores={topology.cores}", f"threads={topology.threads}"])


def _monitor(context: Context) -> list[Option]:
    runtime = context.runtime
    where = f"path={escape(str(runtime.run_dir / 'monitor.sock'))}"
    if runtime.monitor_fd is not None:
        where = f"fd={runtime.monitor_fd}"
    chardev = f"socket,id=charmonitor,{where},server=on,wait=off"
    return [("-chardev", chardev), ("-mon", "chardev=charmonitor,id=monitor,mode=control")]


def _rtc(context: Context) -> str:
    clock = context.domain.clock
    if clock is None:
        return "base=utc"
    words = [f"base={_clock_base(context)}"]
    for timer in clock.timers:
        if timer.name != "rtc":
            continue
        if timer.track is not None:
            words.append(f"clock={TRACKS[timer.track]}")
        if timer.tickpolicy == "catchup":
            words.append("driftfix=slew")
        elif timer.tickpolicy in ("merge", "discard"):
            raise ConfigUnsupported(f"unsupported rtc timer tickpolicy '{timer.tickpolicy}'")
    return ",".join(words)


def _clock_base(context: Context) -> str:
    clock = context.domain.clock
    assert clock is not None
    match clock.offset:
        case "utc" | "localtime":
            if clock.adjustment not in (None, "reset", "0"):
                return _moment(context.runtime.now + _seconds(clock.adjustment))
            return clock.offset
        case "timezone":
            return "localtime"
        case "absolute":
            return _moment(clock.start or 0)
    start = context.runtime.now + _seconds(clock.adjustment)
    if clock.basis == "localtime":
        offset = datetime.fromtimestamp(context.runtime.now).astimezone().utcoffset()
        start += offset.total_seconds() if offset is not None else 0
    return _moment(start)


def _seconds(adjustment: str | None) -> int:
    try:
        return 0 if adjustment in (None, "reset") else int(adjustment or 0)
    except ValueError:
        raise ConfigUnsupported(f"clock adjustment '{adjustment}' is no number of seconds") from None


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def environment(context: Context) -> dict[str, str]:
    """Variables for QEMU's environment: the zone that its local time means."""
    clock = context.domain.clock
    if clock is None or clock.offset != "timezone" or clock.timezone is None:
        return {}
    return {"TZ": clock.timezone}


def _boot(context: Context) -> str:
    os = context.domain.os
    words = []
    if os.bootmenu is not None:
        words.append(f"menu={'on' if os.bootmenu.enable == 'yes' else 'off'}")
        if os.bootmenu.enable == "yes" and os.bootmenu.timeout is not None:
            words.append(f"splash-time={os.bootmenu.timeout}")
    if os.bios is not None and os.bios.reboot_timeout is not None:
        words.append(f"reboot-timeout={os.bios.reboot_timeout}")
    return ",".join([*words, "strict=on"])


def _sleep_states(context: Context) -> list[Option]:
    pm = context.domain.pm
    device = "ICH9-LPC" if context.q35 else "PIIX4_PM"
    states = [] if pm is None else [("disable_s3", pm.suspend_to_mem), ("disable_s4", pm.suspend_to_disk)]
    return [
        ("-global", f"{device}.{name}={0 if state.enabled == 'yes' else 1}")
        for name, state in states
        if state is not None
    ]


def wake_table(domain: Domain) -> str | None:
    """The ACPI table by which a guest on q35 mends its chipset when SeaBIOS has woken it from S3 (data/wake.asl)."""
    pm = domain.pm
    sleeps = pm is None or pm.suspend_to_mem is None or pm.suspend_to_mem.enabled == "yes"
    loader = domain.os.loader
    flash = loader is not None and loader.path is not None and loader.type == "pflash"  # UEFI wakes properly
    acpi = domain.features is not None and domain.features.acpi
    return str(_WAKE_TABLE) if is_q35(domain) and sleeps and acpi and not flash else None


def _wake_table(context: Context) -> list[Option]:
    table = wake_table(context.domain)
    return [] if table is None else [("-acpitable", f"file={escape(context.readable(table))}")]


def _timer_globals(context: Context) -> list[Option]:
    found: list[Option] = []
    for timer in context.domain.clock.timers if context.domain.clock is not None else ():
        if timer.name == "pit" and timer.tickpolicy in ("delay", "discard") and context.runtime.accel == "kvm":
            found.append(("-global", f"kvm-pit.lost_tick_policy={timer.tickpolicy}"))
        elif timer.name == "pit" and timer.tickpolicy in ("catchup", "merge"):
            raise ConfigUnsupported(f"unsupported pit tickpolicy '{timer.tickpolicy}'")
        elif timer.name in ("platform", "armvtimer"):
            raise ConfigUnsupported(f"unsupported timer type (name) '{timer.name}'")
    return found


def _chipset(context: Context) -> list[Option]:
    """Sizes of the chipset's own memory windows."""
    found: list[Option] = []
    features = context.domain.features
    smm = features.smm if features is not None else None
    if smm is not None and smm.tseg is not None:
        found.append(("-global", f"mch.extended-tseg-mbytes={smm.tseg.bytes >> 20}"))
    for controller in context.domain.devices.controllers:
        if controller.pcihole64 is not None:
            host = "q35-pcihost" if context.q35 else "i440FX-pcihost"
            found.append(("-global", f"{host}.pci-hole64-size={controller.pcihole64.bytes >> 10}K"))
    return found


def _flash(context: Context) -> Loader | None:
    loader = context.domain.os.loader
    return loader if loader is not None and loader.path is not None and loader.type == "pflash" else None


def _pflash_tops(context: Context) -> list[str]:
    """The nodes that the machine's flash chips read."""
    code = _flash(context)
    tops = [] if code is None else [f"{PFLASH[0]}-format"]
    nvram = context.domain.os.nvram
    if tops and nvram is not None and nvram.path is not None:
        tops.append(f"{PFLASH[1]}-{'storage' if (nvram.format or 'raw') == 'raw' else 'format'}")
    return tops


def _pflash(context: Context) -> list[Part]:
    """Block nodes of the firmware's code (never written) and variables."""
    code, nvram = _flash(context), context.domain.os.nvram
    if code is None:
        return []
    readonly = code.readonly != "no"
    assert code.path is not None
    file = descriptors.image(descriptors.FIRMWARE_SETS[0], code.path, writable=not readonly)
    storage = {"driver": "file", "filename": descriptors.reference(file), "read-only": readonly, "discard": "unmap"}
    found = [
        file,
        Part("blockdev", f"{PFLASH[0]}-storage", storage),
        Part(
            "blockdev",
            f"{PFLASH[0]}-format",
            {"driver": code.format or "raw", "read-only": readonly, "file": f"{PFLASH[0]}-storage"},
        ),
    ]
    if nvram is not None and nvram.path is not None:
        variables = descriptors.image(descriptors.FIRMWARE_SETS[1], nvram.path, writable=True)
        storage = {"driver": "file", "filename": descriptors.reference(variables), "read-only": False}
        found += [variables, Part("blockdev", f"{PFLASH[1]}-storage", storage)]
        if (nvram.format or "raw") != "raw":
            found.append(
                Part(
                    "blockdev",
                    f"{PFLASH[1]}-format",
                    {"driver": nvram.format, "read-only": False, "file": f"{PFLASH[1]}-storage"},
                )
            )
    return found


def _firmware(context: Context) -> list[Option]:
    loader = context.domain.os.loader
    if loader is None or loader.path is None:
        return []
    if loader.type != "pflash":
        return [("-bios", context.readable(loader.path))]
    return [("-global", "driver=cfi.pflash01,property=secure,value=on")] if loader.secure == "yes" else []


def _kernel(context: Context) -> list[Option]:
    os = context.domain.os
    if os.kernel is None:
        if os.initrd is not None or os.cmdline is not None:
            raise ConfigUnsupported("initrd and cmdline need a kernel")
        return []
    words: list[Option] = [("-kernel", context.readable(os.kernel))]
    words += [("-initrd", context.readable(os.initrd))] if os.initrd is not None else []
    words += [("-append", os.cmdline)] if os.cmdline is not None else []
    return words
