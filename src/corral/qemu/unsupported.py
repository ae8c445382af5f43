"""What a document can say and Corral does not do yet: refused with its name, because nothing is dropped silently."""

from __future__ import annotations

from collections.abc import Iterator

from corral.errors import ConfigUnsupported
from corral.model.devices.chardev import Chardev
from corral.model.devices.disk import Disk
from corral.model.devices.graphics import Graphics
from corral.model.domain import Domain

Claim = tuple[bool, str]
"""Whether the document says it, and what to call it."""


def refuse(domain: Domain) -> None:
    """Raise ConfigUnsupported for the first thing in the document that would not be honoured."""
    for said, name in _claims(domain):
        if said:
            raise ConfigUnsupported(f"{name} is not supported yet")


def _claims(domain: Domain) -> Iterator[Claim]:
    yield from _machine(domain)
    yield from _cpu(domain)
    yield from _clock(domain)
    devices = domain.devices
    for disk in devices.disks:
        yield from _disk(disk, domain)
    for graphics in devices.graphics:
        yield from _graphics(graphics)
    chardevs: list[Chardev] = [*devices.serials, *devices.parallels, *devices.consoles, *devices.channels]
    for chardev in chardevs:
        source = chardev.source
        yield source is not None and source.tls == "yes", "TLS on a chardev"
    for video in devices.videos:
        yield video.driver is not None and video.driver.vgaconf is not None, "<driver vgaconf='…'> of a video card"
        accelerated = video.model.acceleration if video.model is not None else None
        yield accelerated is not None and accelerated.rendernode is not None, "rendernode of a video card"


def _machine(domain: Domain) -> Iterator[Claim]:
    vcpu, features = domain.vcpu, domain.features
    tune = domain.numatune
    if tune is not None:
        modes = [each.mode for each in tune.memnodes] + ([tune.memory.mode] if tune.memory is not None else [])
        yield "restrictive" in modes, "<numatune> mode 'restrictive'"
        yield tune.memory is not None and tune.memory.placement == "auto", "<numatune> placement 'auto'"
    yield vcpu is not None and vcpu.placement == "auto", "<vcpu placement='auto'>"
    yield domain.on_lockfailure is not None, "on_lockfailure"
    yield features is not None and features.gic is not None, "<gic> on x86"


def _cpu(domain: Domain) -> Iterator[Claim]:
    cpu = domain.cpu
    yield cpu is not None and cpu.deprecated_features is not None, "<cpu deprecated_features='…'> on x86"


def _clock(domain: Domain) -> Iterator[Claim]:
    for timer in domain.clock.timers if domain.clock is not None else ():
        yield timer.catchup is not None, f"<catchup> of timer '{timer.name}'"
        known = ("auto", "native") if timer.name == "tsc" else ("auto",)
        yield timer.mode not in (None, *known), f"mode '{timer.mode}' of timer '{timer.name}'"
        yield timer.track is not None and timer.name != "rtc", f"track of timer '{timer.name}'"


def _disk(disk: Disk, domain: Domain) -> Iterator[Claim]:
    name, driver = disk.target.dev, disk.driver
    yield driver is not None and driver.name not in (None, "qemu"), f"a driver other than 'qemu' of disk '{name}'"
    yield disk.target.tray == "open", f"an open tray of disk '{name}'"
    tuned = driver is not None and (driver.queues or driver.queue_size)
    if tuned and disk.target.bus != "virtio":
        raise ConfigUnsupported("queues attribute in disk driver element is only supported for virtio bus")
    threads = driver is not None and (driver.iothread is not None or driver.iothreads is not None)
    if threads and disk.target.bus != "virtio":
        raise ConfigUnsupported(f"IOThreads not available for bus {disk.target.bus} target {name}")
    yield disk.sgio == "unfiltered", f"sgio='unfiltered' of disk '{name}' (no kernel offers it)"


def _graphics(graphics: Graphics) -> Iterator[Claim]:
    yield len(graphics.listens) > 1, "more than one <listen> of a display"
    yield any(listen.type == "network" for listen in graphics.listens), "<listen type='network'> (name an address)"
