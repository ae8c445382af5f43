"""Secure Boot as a guest sees it: its kernel knows, and locks itself down."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from corral.guests import tiny
from corral.hypervisor.guest.stream import ByteStream

from .life import opened

OVMF = Path("/usr/share/OVMF")
BY_PATH = (
    f"<loader readonly='yes' secure='yes' type='pflash'>{OVMF}/OVMF_CODE_4M.snakeoil.fd</loader>"
    f"<nvram template='{OVMF}/OVMF_VARS_4M.snakeoil.fd'/>"
)
BY_FEATURE = "".join(f"<feature enabled='yes' name='{name}'/>" for name in ("secure-boot", "enrolled-keys"))

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (OVMF / "OVMF_VARS_4M.snakeoil.fd").exists(), reason="ovmf is not installed"),
]


async def said(console: ByteStream, pattern: str) -> str:
    """What comes from a serial port up to what looks like that."""
    seen = ""
    async with asyncio.timeout(120):
        while not re.search(pattern, seen):
            seen += (await console.read()).decode(errors="replace")
    return seen


@pytest.mark.parametrize("firmware", [BY_PATH, f"<firmware>{BY_FEATURE}</firmware>"], ids=["by path", "by feature"])
async def test_secure_boot(directory: Path, firmware: str) -> None:
    """With keys enrolled, the kernel says that Secure Boot is on and takes no modules but those that are signed."""
    text = tiny.document("locked", tiny=await tiny.build(), memory_kib=384 * 1024, efi=True).to_xml()
    text = re.sub("<firmware>.*?</firmware>", firmware, text, flags=re.DOTALL)
    if firmware == BY_PATH:
        text = text.replace(" firmware='efi'", "").replace("<acpi/>", "<acpi/><smm state='on'/>")
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.create_xml(text)
        console = await domain.open_console()
        assert "Key was rejected by service" in await said(console, "[$#] ")
        await console.write(b"dmesg; echo EN''D\n")
        told = await said(console, "END")
        assert "Secure boot enabled" in told and "Kernel is locked down from EFI Secure Boot" in told
        await domain.destroy()
