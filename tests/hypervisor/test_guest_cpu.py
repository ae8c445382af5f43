"""CPU models as the guest sees them in /proc/cpuinfo, and what an emulator cannot give of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.errors import ConfigUnsupported, CPUIncompatible
from corral.guests import tiny

from .inside import booted, emulates_x2apic, sh
from .life import opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MODELS = {
    "SandyBridge": ("GenuineIntel", "Intel Xeon E312xx (Sandy Bridge)", "tsc-deadline"),
    "Opteron_G4": ("AuthenticAMD", "AMD Opteron 62xx class CPU", "fma4 misalignsse nrip-save xop"),
}


VT_D = "<iommu model='intel'><driver intremap='on' eim='on'/></iommu>"


async def document(name: str, cpu: str, devices: str = "") -> str:
    xml = tiny.document(name, tiny=await tiny.build()).to_xml()
    return xml.replace("<clock ", f"{cpu}<clock ", 1).replace("</devices>", f"{devices}</devices>", 1)


@pytest.mark.parametrize("model", MODELS)
async def test_a_model_in_the_guests_own_words(model: str, directory: Path) -> None:
    vendor, words, missing = MODELS[model]
    async with opened(directory) as (hypervisor, _):
        cpu = f"<cpu mode='custom'><model>{model}</model></cpu>"
        domain = await hypervisor.define(await document("cpu", cpu, VT_D if vendor == "GenuineIntel" else ""))
        if vendor == "GenuineIntel" and not await emulates_x2apic(domain):
            with pytest.raises(ConfigUnsupported, match="this QEMU's software emulation has no x2APIC"):
                await domain.create()
            domain = await hypervisor.define(domain.xml().replace(" eim='on'", ""))
            missing = f"x2apic {missing}"
        await domain.create()
        live = domain.xml()
        assert "<cpu mode='custom' match='exact' check='full'>" in live
        assert f"<model fallback='forbid'>{model}</model>" in live
        for name in missing.split():
            assert f"<feature policy='disable' name='{name}'/>" in live
            assert name not in domain.xml(2)  # the definition says what was asked for
        await booted(domain)
        told = await sh(domain, "grep -E -m3 'vendor_id|model name|flags' /proc/cpuinfo")
        assert vendor in told
        assert words in told
        flags = told.partition("flags")[2].split()
        if vendor == "GenuineIntel":
            assert "dmar0" in await sh(domain, "ls /sys/class/iommu")
            assert "IRQ remapping" in await sh(domain, "dmesg | grep DMAR-IR")
        assert {"aes", "avx", "xsave"} <= set(flags)
        assert not {name.replace("-", "_") for name in missing.split()} & set(flags)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("cpu", "named"),
    [
        ("<cpu><model>Opteron_G4</model><feature policy='require' name='fma4'/></cpu>", "fma4"),
        ("<cpu match='exact' check='full'><model>SandyBridge</model></cpu>", "tsc-deadline"),
    ],
)
async def test_what_was_required_and_is_missing_refuses_the_start(cpu: str, named: str, directory: Path) -> None:
    async with opened(directory) as (hypervisor, _):
        with pytest.raises(CPUIncompatible, match=f"features: .*{named}"):
            await (await hypervisor.define(await document("strict", cpu))).create()
        assert not any(domain.active for domain in hypervisor.domains())
