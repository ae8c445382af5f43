"""Memory devices as the guest counts them: modules and virtio-mem plugged, resized, unplugged, and refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.waiting import until

from corral.constants import DomainDeviceModifyFlags
from corral.errors import ConfigUnsupported, OperationFailed, OperationUnsupported
from corral.guests import tiny
from corral.hypervisor import events
from corral.hypervisor.domain import Domain
from corral.hypervisor.hotplug import hotplug
from corral.hypervisor.hotplug.device_changes import Note
from corral.hypervisor.memory import memory_devices

from .inside import booted, emulates_x2apic, settled, sh
from .life import Heard, opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MIB = 1024
LIVE, CONFIG = DomainDeviceModifyFlags.LIVE, DomainDeviceModifyFlags.CONFIG
DIMM = "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>"
GROWING = "<memory model='virtio-mem'><target><size unit='MiB'>512</size><requested>0</requested></target></memory>"


@contextlib.asynccontextmanager
async def guest(directory: Path, *devices: str, mib: int = 256) -> AsyncIterator[tuple[Domain, Heard]]:
    """The tiny guest with so much memory and room for more."""
    files = await tiny.build()
    xml = tiny.document("modules", tiny=files, memory_kib=mib * MIB).to_xml()
    xml = xml.replace("<memory ", "<maxMemory slots='4' unit='GiB'>2</maxMemory><memory ", 1)
    total = mib + sum(512 for each in devices if each is GROWING)
    xml = xml.replace(f">{mib * MIB}<", f">{total * MIB}<").replace("</devices>", f"{''.join(devices)}</devices>")
    async with opened(directory) as (hypervisor, heard):
        domain = await hypervisor.define(xml)
        await domain.create()
        await booted(domain)
        yield domain, heard


async def total(domain: Domain) -> int:
    """MiB of memory as the guest counts them."""
    return int((await sh(domain, "grep MemTotal /proc/meminfo")).split()[1]) // MIB


async def counts(domain: Domain, mib: int, *, around: int) -> None:
    """Wait until the guest counts so many MiB, more or less: QEMU knows of a block before the guest uses it."""
    await settled(lambda: total(domain), lambda now: abs(now - mib) <= around)


async def blocks(domain: Domain) -> int:
    """The guest's memory blocks of 128 MiB."""
    return int(await sh(domain, "ls -d /sys/devices/system/memory/memory* | wc -l"))


async def test_modules_come_and_go(directory: Path) -> None:
    async with guest(directory, GROWING) as (domain, heard):
        before, had = await total(domain), await blocks(domain)
        assert domain.info().memory == 256 * MIB
        assert domain.info().max_memory == 768 * MIB
        await hotplug.attach(domain, DIMM, LIVE | CONFIG)
        await counts(domain, before + 128, around=3)
        await settled(lambda: blocks(domain), lambda now: now == had + 1)
        assert domain.info().memory == 384 * MIB
        assert "<address type='dimm' slot='0' base='0x" in domain.xml()
        assert domain.config is not None and "<memory unit='KiB'>917504</memory>" in domain.config.secure_xml

        # More than boot memory and modules have is what virtio-mem gives.
        assert await domain.set_memory(640 * MIB) == 640 * MIB
        await counts(domain, before + 384, around=8)
        assert "<current unit='KiB'>262144</current>" in domain.xml()
        assert "<currentMemory unit='KiB'>655360</currentMemory>" in domain.xml()
        sizes = [each.size for each in heard if isinstance(each, events.MemoryDeviceSizeChange)]
        assert sizes[-1] == 256 * MIB
        xml = domain.xml()
        # It shrinks to nothing before the balloon takes anything.
        assert await domain.set_memory(320 * MIB) == 320 * MIB
        await counts(domain, before + 64, around=8)
        assert "<current unit='KiB'>0</current>" in domain.xml()
        assert await domain.set_memory(384 * MIB) == 384 * MIB

        module = xml[xml.index("<memory model='virtio-mem'") : xml.rindex("</memory>") + 9]
        module = module[: module.index("</memory>") + 9].replace(">262144</requested>", ">131072</requested>")
        await hotplug.update(domain, module, LIVE)
        await until(lambda: "<current unit='KiB'>131072</current>" in domain.xml(), seconds=60)
        with pytest.raises(Exception, match="must be an integer multiple of block size"):
            await hotplug.update(domain, module.replace(">131072</requested>", ">1000</requested>"), LIVE)
        with pytest.raises(OperationUnsupported, match="cannot modify 'size' of the memory device"):
            await hotplug.update(domain, module.replace(">524288</size>", ">1048576</size>"), LIVE)
        with pytest.raises(ConfigUnsupported, match="would exceed domain's maxMemory"):
            await hotplug.attach(domain, DIMM.replace("128", "8192"), LIVE)

        await hotplug.detach_alias(domain, "dimm0", LIVE)
        await counts(domain, before + 128, around=8)
        assert "dimm0" not in domain.xml()
        assert domain.info().memory == (256 + 128) * MIB
        if not await emulates_x2apic(domain):  # QEMU 7.2
            with pytest.raises(OperationUnsupported, match="virtio based memory devices cannot be unplugged"):
                await hotplug.detach_alias(domain, "virtiomem0", LIVE)
            await until(lambda: "<current unit='KiB'>131072</current>" in domain.xml(), seconds=60)
            return
        await hotplug.detach_alias(domain, "virtiomem0", LIVE)
        await settled(lambda: blocks(domain), lambda now: now == had)
        await counts(domain, before, around=3)
        assert domain.info().memory == 256 * MIB
        assert domain.info().max_memory == 256 * MIB

        await hotplug.attach(domain, DIMM, LIVE)
        machine = domain.require_run().require_machine()
        note = Note(kind="unplug", alias="dimm0", parts=(("object", "memdimm0"), ("device", "dimm0")), config=False)
        await domain.hypervisor.store.begin_plug(domain.require_run().id, note.to_json())
        # As if the daemon were killed the moment that it has asked: the guest lets go while nobody listens.
        await machine.monitor.execute("device_del", {"id": "dimm0"})
        assert "<alias name='dimm0'/>" in domain.xml()
    async with opened(directory) as (hypervisor, _):
        domain = hypervisor.lookup_by_name("modules")
        await until(lambda: "dimm0" not in domain.xml(), seconds=60)
        assert domain.info().memory == domain.info().max_memory == 256 * MIB
        await booted(domain)
        await settled(lambda: blocks(domain), lambda now: now == had)
        await hotplug.attach(domain, DIMM, LIVE)  # nothing of it is left in the way
        await settled(lambda: blocks(domain), lambda now: now == had + 1)


async def test_a_guest_that_keeps_its_memory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with guest(directory, GROWING) as (domain, heard):
        await hotplug.attach(domain, DIMM, LIVE)
        # The guest's kernel puts its own things there, and cannot move them.
        block = await sh(domain, "ls -d /sys/devices/system/memory/memory* | sort -V | tail -1")
        await sh(domain, f"echo offline > {block}/state; echo online_kernel > {block}/state")
        await sh(domain, "mkdir /tmp/d; cd /tmp/d; for i in $(seq 10); do mkdir $(seq -f $i.%g 400); done")
        for _ in range(2):  # it can be asked again
            with pytest.raises(OperationFailed, match=r"rejected by the guest: .*\(ACPI status"):
                await hotplug.detach_alias(domain, "dimm0", LIVE)
        assert "<alias name='dimm0'/>" in domain.xml()
        assert domain.info().memory == 384 * MIB
        assert any(isinstance(each, events.DeviceRemovalFailed) for each in heard)
        monkeypatch.setattr(memory_devices, "PATIENCE", 1.0)
        await sh(domain, "rmmod virtio_mem")
        with pytest.raises(OperationFailed, match="the guest leaves its memory device 'virtiomem0' at 0 KiB"):
            await domain.set_memory(512 * MIB)
        assert "<requested unit='KiB'>0</requested>" in domain.xml()
