"""Machines of type kvm on this machine's own KVM, however slow: what runs, what KVM refuses, what it counts.

Firmware ends within seconds even where KVM is emulated a thousand times too slowly; a kernel would not.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree
from tests.waiting import until

from corral.constants import DomainStatsTypes
from corral.errors import ConfigUnsupported
from corral.hypervisor.domain import Domain
from corral.hypervisor.hypervisor import Hypervisor

from .life import document, end_machines, settings

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened"),
]

PASSTHROUGH = "<cpu mode='host-passthrough'/>"


@contextlib.asynccontextmanager
async def under_kvm(directory: Path) -> AsyncIterator[Hypervisor]:
    """A hypervisor that may use KVM even where it is slow."""
    user = "root" if os.geteuid() == 0 else None  # /dev/kvm may be root's alone
    hypervisor = await Hypervisor.open(replace(settings(directory), allow_slow_kvm=True, qemu_user=user))
    try:
        if not hypervisor.offer.kvm.usable:
            pytest.skip(hypervisor.offer.kvm.reason)
        yield hypervisor
    finally:
        await hypervisor.close()
        end_machines(directory)


def kvm_document(name: str, *, extra: str = "", features: str = "", devices: str = "") -> str:
    xml = document(name, extra=PASSTHROUGH + extra, devices=devices)
    return xml.replace("type='qemu'", "type='kvm'", 1).replace("<acpi/>", f"<acpi/>{features}")


def asked() -> tuple[int, bool, int]:
    """What the kernel says, asked here with its own ioctls: TSC in kHz, whether it scales, version of the PMU."""
    device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    try:
        machine = fcntl.ioctl(device, 0xAE01, 0)
        vcpu = fcntl.ioctl(machine, 0xAE41, 0)
        khz, scaling = fcntl.ioctl(vcpu, 0xAEA3, 0), fcntl.ioctl(device, 0xAE03, 60) > 0
        cpuid = bytearray(8 + 40 * 256)
        struct.pack_into("<I", cpuid, 0, 256)
        fcntl.ioctl(device, 0xC008AE05, cpuid)
        entries = (struct.unpack_from("<4I", cpuid, 8 + 40 * i) for i in range(struct.unpack_from("<I", cpuid)[0]))
        version = next((eax & 0xFF for function, _, _, eax in entries if function == 0xA), 0)
        os.close(vcpu)
        os.close(machine)
        return khz, scaling, version
    finally:
        os.close(device)


async def figures(domain: Domain, groups: int) -> dict[str, object]:
    return {name: value for name, _, value in await domain.stats(groups)}


@pytest.mark.timeout(120)
async def test_firmware_runs_and_kvm_counts(short_path: Path) -> None:
    """One machine: its firmware's words on its console and debug port, and KVM's figures of it (perf: test_perf.py)."""
    console, debug = short_path / "console", short_path / "debug"
    ports = f"""<serial type='file'><source path='{console}'/><target port='1'/></serial>
      <serial type='file'><source path='{debug}'/><target type='isa-debug' port='2'>
      <model name='isa-debugcon'/></target><address type='isa' iobase='0x402'/></serial>"""
    xml = kvm_document("firmware", devices=ports).replace("<serial type='pty'/>", "")
    xml = xml.replace("</os>", "<bios useserial='yes'/></os>").replace("port='1'", "port='0'")
    async with under_kvm(short_path) as hypervisor:
        domain = await hypervisor.create_xml(xml)
        assert "<domain type='kvm' id=" in domain.xml()
        await until(lambda: debug.exists() and b"Running on KVM" in debug.read_bytes(), seconds=60)
        await until(lambda: b"SeaBIOS (version" in console.read_bytes(), seconds=60)
        first = await figures(domain, DomainStatsTypes.VCPU | DomainStatsTypes.VM | DomainStatsTypes.CPU_TOTAL)
        assert int(str(first["vcpu.0.exits.sum"])) > 100
        assert isinstance(first["vcpu.0.guest_mode.cur"], bool)
        assert "cpu.haltpoll.success.time" in first
        assert any(name.startswith("vm.") and name.endswith(".sum") for name in first)
        assert not any("hist" in name for name in first)
        await asyncio.sleep(0.5)
        then = await figures(domain, DomainStatsTypes.VCPU)
        assert then["vcpu.0.exits.sum"] >= first["vcpu.0.exits.sum"]  # type: ignore[operator]
        await domain.destroy()


async def test_tsc_and_pmu_are_what_the_kernel_says(short_path: Path) -> None:
    """Given or refused by the kernel's own answers, before there is a QEMU."""
    khz, scaling, version = asked()
    async with under_kvm(short_path) as hypervisor:
        kvm = hypervisor.offer.kvm
        assert (kvm.tsc.khz, kvm.tsc.scaling, kvm.pmu.version) == (khz, scaling, version)
        counter = etree.fromstring(hypervisor.offer.capabilities()).find("host/cpu/counter")
        assert counter is not None
        assert dict(counter.attrib) == {
            "name": "tsc",
            "frequency": str(khz * 1000),
            "scaling": "yes" if scaling else "no",
        }

        def clock(hz: int) -> str:
            return f"<clock offset='utc'><timer name='tsc' frequency='{hz}'/></clock>"

        near = await hypervisor.create_xml(kvm_document("near", extra=clock(khz * 1000 + khz // 10), features=""))
        assert near.active
        await near.destroy()
        far = await hypervisor.define(kvm_document("far", extra=clock(khz * 2000)))
        if scaling:
            await far.create()
            await far.destroy()
        else:
            with pytest.raises(ConfigUnsupported, match=f"{khz * 2000:,} Hz is wanted: .*{khz * 1000:,} Hz"):
                await far.create()
            assert not far.active
        counting = await hypervisor.define(kvm_document("counting", features="<pmu state='on'/>"))
        if version:
            await counting.create()
            assert f"version='{version}'" in counting.xml().replace('"', "'")
            await counting.destroy()
        else:
            with pytest.raises(ConfigUnsupported, match=r"<pmu state='on'/>.*KVM has none"):
                await counting.create()
            assert not counting.active
        for name in ("far", "counting"):  # no process was ever made: its log would say so
            assert scaling or version or not hypervisor.settings.domain_log(name).exists()


async def test_what_only_kvm_gives_is_refused_in_emulation(short_path: Path) -> None:
    def timed(attributes: str) -> str:
        return document("tsc", extra=f"<clock offset='utc'><timer name='tsc' {attributes}/></clock>")

    async with under_kvm(short_path) as hypervisor:
        for xml, words in (
            (document("pmu").replace("<acpi/>", "<acpi/><pmu state='on'/>"), "virtual PMU .* needs KVM"),
            (
                document("tsc", extra="<clock><timer name='tsc' frequency='1000000000'/></clock>"),
                "a frequency of timer",
            ),
            (document("tsc", extra="<clock><timer name='tsc' mode='native'/></clock>"), "mode 'native' of timer 'tsc'"),
            (
                document("tsc", extra="<clock><timer name='tsc' mode='emulate'/></clock>"),
                "mode 'emulate' of timer 'tsc'",
            ),
        ):
            with pytest.raises(ConfigUnsupported, match=words):
                await hypervisor.define(xml.replace("<clock>", "<clock offset='utc'>"))
