"""What a machine has one of, or few: random numbers, the balloon, watchdogs, panic notifiers."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.address import ISAAddress
from corral.model.devices.memballoon import Memballoon
from corral.model.devices.panic import Panic
from corral.model.devices.rng import Rng
from corral.model.devices.watchdog import Watchdog
from corral.qemu import descriptors
from corral.qemu.context import Context, Properties, alias, given, switch, virtio_options
from corral.qemu.runtime import Command, Part

EVERYBODYS = ("/dev/random", "/dev/urandom")
"""Sources of random numbers that any account may read."""
WATCHDOG_ACTIONS = {"dump": "pause"}
"""QEMU pauses the guest; what follows is the daemon's."""


def rng(device: Rng, context: Context) -> list[Part]:
    """The source of numbers, then the device."""
    source = f"obj{alias(device)}"
    if device.backend.model == "builtin":
        backend: Properties = {"qom-type": "rng-builtin"}
    else:
        backend = {"qom-type": "rng-random", "filename": device.backend.path or "/dev/random"}
    if not context.binary.has_object(backend["qom-type"]):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' has no object '{backend['qom-type']}'")
    files = []
    if backend.get("filename", "/dev/random") not in EVERYBODYS:
        files.append(descriptors.other(source, backend["filename"], "source"))
        backend["filename"] = descriptors.reference(files[0])
    props: Properties = {"driver": context.virtio("virtio-rng", device.model), "rng": source}
    if device.rate is not None:
        props |= {"max-bytes": device.rate.bytes, "period": device.rate.period or 1000}
    props |= context.place(device) | virtio_options(device.driver)
    return [*files, Part("object", source, backend), Part("device", alias(device), props)]


def memballoon(device: Memballoon, context: Context) -> list[Part]:
    """The balloon; nothing for model `none`."""
    if device.model == "none":
        return []
    props: Properties = {"driver": context.virtio("virtio-balloon", device.model)}
    props |= given(
        {
            "deflate-on-oom": switch(device.autodeflate),
            "free-page-reporting": switch(device.free_page_reporting),
        }
    )
    return [Part("device", alias(device), props | context.place(device) | virtio_options(device.driver))]


def balloon_setup(device: Memballoon) -> list[Command]:
    """How often the guest reports its memory."""
    if device.stats is None or not device.stats.period:
        return []
    target = {"path": f"/machine/peripheral/{alias(device)}", "property": "guest-stats-polling-interval"}
    return [("qom-set", target | {"value": device.stats.period})]


def watchdog(device: Watchdog, context: Context) -> list[Part]:
    """The card; q35's own watchdog is no device to add."""
    if device.model == "itco":
        if not context.q35:
            raise ConfigUnsupported("itco watchdog is only supported with the q35 machine type")
        return []
    return [Part("device", alias(device), {"driver": context.driver(device.model)} | context.place(device))]


def watchdog_options(context: Context) -> list[tuple[str, ...]]:
    """The one action of all watchdogs, and q35's own allowed to reset."""
    watchdogs = context.domain.devices.watchdogs
    actions = {device.action or "reset" for device in watchdogs}
    if len(actions) > 1:
        raise ConfigUnsupported("all watchdogs must have the same action")
    options: list[tuple[str, ...]] = []
    if any(device.model == "itco" for device in watchdogs):
        options.append(("-global", "ICH9-LPC.noreboot=off"))
    return options + [("-action", f"watchdog={WATCHDOG_ACTIONS.get(action, action)}") for action in actions]


def panic(device: Panic, context: Context) -> list[Part]:
    """A pvpanic device on ISA or PCI."""
    match device.model:
        case "hyperv":
            if context.runtime.accel != "kvm":
                raise ConfigUnsupported("panic model 'hyperv' needs KVM: the guest reports through Hyper-V registers")
            return []
        case "pvpanic":
            return [Part("device", alias(device), {"driver": context.driver("pvpanic-pci")} | context.place(device))]
    props: Properties = {"driver": context.driver("pvpanic")}
    if isinstance(device.address, ISAAddress):
        props |= given(ioport=device.address.iobase)
    return [Part("device", alias(device), props)]
