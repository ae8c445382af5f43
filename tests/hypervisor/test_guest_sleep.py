"""A guest's sleep, as the guest sees it: what its firmware offers, many sleeps of one boot, both kinds of firmware."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.waiting import until

from corral.constants import DomainState, NodeSuspendTarget
from corral.errors import InternalError
from corral.guests import tiny
from corral.hypervisor.domain import Domain
from corral.hypervisor.events import PMWakeup
from corral.hypervisor.guest import sleeping
from corral.hypervisor.hypervisor import Hypervisor

from .inside import booted, sh
from .life import Heard, opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MEM, DISK, HYBRID = NodeSuspendTarget.MEM, NodeSuspendTarget.DISK, NodeSuspendTarget.HYBRID
#: Where q35 has its power management, ACPI, root complex base (00:1f.0) and its memory-mapped configuration (00:00.0).
CHIPSET = {0x8000F840: 0x601, 0x8000F844: 0x80, 0x8000F8F0: 0xFED1C001, 0x80000060: 0xB0000001}


async def start(
    hypervisor: Hypervisor, *, pm: str = "", devices: str = "", resume: str = "", efi: bool = False
) -> Domain:
    files = await tiny.build()
    text = tiny.document("sleeper", tiny=files, memory_kib=384 * 1024, efi=efi).to_xml()
    text = text.replace("<devices>", f"{pm}<devices>{devices}").replace("hostname=", f"{resume} hostname=")
    domain = await hypervisor.define(text)
    await domain.create()
    await booted(domain)
    return domain


def swap(directory: Path) -> str:
    """A disk for what a guest keeps of its memory."""
    disk = directory / "swap.img"
    with disk.open("wb") as file:
        file.truncate(512 << 20)
    return f"<disk type='file'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda'/></disk>"


async def chipset(domain: Domain) -> dict[int, int]:
    """The chipset's registers, through its configuration port."""
    ask = domain.require_run().require_machine().monitor.human
    found = {}
    for register in CHIPSET:
        await ask(f"o /w 0xcf8 {register:#x}")
        found[register] = int((await ask("i /w 0xcfc")).split("=")[1], 16)
    return found


async def test_many_sleeps_of_one_boot(directory: Path) -> None:
    """SeaBIOS on q35 forgets the chipset at a wake-up; the guest has it back, sleeps again, and hears its button."""
    async with opened(directory) as (hypervisor, heard):
        domain = await start(hypervisor, devices=swap(directory), resume="resume=/dev/vda")
        assert await chipset(domain) == CHIPSET
        assert (await sh(domain, "cat /sys/power/state /sys/power/mem_sleep")).splitlines() == [
            "freeze mem disk",
            "s2idle [deep]",
        ]
        for _ in range(3):
            await sleeping.fall_asleep(domain, MEM)
            assert domain.state()[0] == DomainState.PMSUSPENDED
            await sleeping.wake_up(domain)
            assert domain.state()[0] == DomainState.RUNNING
            await booted(domain)
        assert (await sh(domain, "dmesg")).count("Waking up from system sleep state S3") == 3
        assert await chipset(domain) == CHIPSET

        began = time.monotonic()
        await sleeping.fall_asleep(domain, MEM, 2)
        await until(lambda: sum(isinstance(event, PMWakeup) for event in heard) == 4, seconds=60)
        assert time.monotonic() - began > 2, "it woke before its time"
        await booted(domain)

        kept = await sh(domain, "echo kept-$$ >/run/kept; cat /run/kept")
        await sleeping.fall_asleep(domain, HYBRID)
        assert domain.state()[0] == DomainState.PMSUSPENDED, "in memory, with a copy on its disk"
        await domain.destroy()  # the power goes: what is on disk counts
        await domain.create()
        await booted(domain)
        assert await sh(domain, "cat /run/kept") == kept
        await _press_the_button(domain, heard)


async def _press_the_button(domain: Domain, heard: Heard) -> None:
    await sleeping.fall_asleep(domain, MEM)
    await sleeping.wake_up(domain)
    await booted(domain)
    await domain.shutdown()
    await until(lambda: not domain.active, seconds=60)


async def test_no_sleep(directory: Path) -> None:
    """What `<pm>` switches off, the guest does not see, and nobody waits for."""
    pm = "<pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>"
    async with opened(directory) as (hypervisor, _):
        domain = await start(hypervisor, pm=pm)
        assert await sh(domain, "cat /sys/power/mem_sleep") == "[s2idle]"
        assert "platform" not in await sh(domain, "cat /sys/power/disk")
        for target, name in ((MEM, "S3"), (HYBRID, "S3"), (DISK, "S4")):
            with pytest.raises(InternalError, match=f"{name} state is disabled"):
                await sleeping.fall_asleep(domain, target)


async def test_uefi(directory: Path) -> None:
    """A guest on UEFI, chosen by feature: it sees its firmware's variables, sleeps and wakes."""
    async with opened(directory) as (hypervisor, _):
        domain = await start(hypervisor, efi=True)
        live = domain.require_run().live.document.os
        assert live.loader is not None and live.loader.type == "pflash" and live.loader.readonly == "yes"
        assert live.nvram is not None and live.nvram.path is not None and live.nvram.template is not None
        assert await sh(domain, "cat /sys/firmware/efi/fw_platform_size") == "64"
        variables = await sh(domain, "mount -t efivarfs e /sys/firmware/efi/efivars && ls /sys/firmware/efi/efivars")
        assert "BootOrder-" in variables
        for _ in range(2):
            await sleeping.fall_asleep(domain, MEM)
            await sleeping.wake_up(domain)
            await booted(domain)
        assert (await sh(domain, "dmesg")).count("Waking up from system sleep state S3") == 2


@pytest.mark.slow
async def test_uefi_to_disk(directory: Path) -> None:
    """A guest on UEFI keeps its memory on its disk: QEMU is gone, and what it knew is there at the next start."""
    async with opened(directory) as (hypervisor, _):
        domain = await start(hypervisor, devices=swap(directory), resume="resume=/dev/vda", efi=True)
        assert "disk" in (await sh(domain, "cat /sys/power/state")).split()
        kept = await sh(domain, "echo kept-$$ >/run/kept; cat /run/kept /proc/sys/kernel/random/boot_id")
        await sleeping.fall_asleep(domain, DISK)
        await until(lambda: not domain.active, seconds=60)
        await domain.create()
        await booted(domain)
        assert await sh(domain, "cat /run/kept /proc/sys/kernel/random/boot_id") == kept
