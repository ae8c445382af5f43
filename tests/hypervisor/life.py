"""What the tests of domains with a real QEMU share: a hypervisor in a short directory, documents, events."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from corral.constants import DomainEventType, name_of
from corral.hypervisor.domain import Domain
from corral.hypervisor.events import Event, Lifecycle, MonitorEvent
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.settings import Settings
from labs import corrald


def document(name: str, *, uuid: str | None = None, extra: str = "", devices: str = "", memory: int = 32) -> str:
    """A small machine without an operating system."""
    identity = f"<uuid>{uuid}</uuid>" if uuid else ""
    return f"""<domain type='qemu'><name>{name}</name>{identity}<memory unit='MiB'>{memory}</memory>
      <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>{extra}
      <devices><controller type='usb' model='none'/><serial type='pty'/>{devices}</devices></domain>"""


class Heard(list[Event]):
    """The events of one hypervisor, in order."""

    def lifecycle(self, name: str | None = None) -> list[tuple[str | None, int]]:
        """(kind, detail) of the lifecycle events, of one domain or all."""
        return [
            (name_of(DomainEventType, event.event), event.detail)
            for event in self
            if isinstance(event, Lifecycle) and name in (None, event.dom.name)
        ]

    def other(self) -> list[str]:
        """The names of all others but QEMU's own."""
        return [type(event).__name__ for event in self if not isinstance(event, Lifecycle | MonitorEvent)]


@functools.cache
def cache() -> tempfile.TemporaryDirectory[str]:
    """What QEMU's binary was asked, for all tests of a process; gone with it."""
    return tempfile.TemporaryDirectory(prefix="corral-test-cache")


def settings(directory: Path) -> Settings:
    """Everything under `directory`, but what QEMU's binary was asked, which is the same for all tests."""
    return replace(Settings.under(directory), cache=Path(cache().name))


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[Hypervisor, Heard]]:
    """A hypervisor on the state in `directory`, let go of at the end."""
    hypervisor = await Hypervisor.open(settings(directory))
    heard = Heard(hypervisor.missed_events)
    hypervisor.events.subscribe(heard.append)
    try:
        yield hypervisor, heard
    finally:
        await hypervisor.close()


async def press(domain: Domain, command: str, condition: Callable[[], object]) -> None:
    """Repeat a command of the human monitor until the machine has come far enough for it to work."""
    async with asyncio.timeout(60):
        while not condition():
            with contextlib.suppress(Exception):
                await domain.monitor_command(command, 1)
            await asyncio.sleep(0.05)


#: What a guest does to its ports to power itself off, to reset itself, and to report a panic (ICH9, pvpanic).
POWER_OFF, RESET, PANIC = "o /w 0x604 0x2000", "o /b 0xcf9 6", "o /b 0x505 1"


def end_machines(directory: Path) -> None:
    """Kill every QEMU that keeps its files under `directory`."""
    for pid in corrald.machines(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
