"""Secure Boot, as a guest and its firmware see it: what the firmware's keys have signed is booted, nothing else."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from corral.guests import tiny
from corral.hypervisor.domain import Domain
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.stream import ByteStream

from .life import end_machines, opened

OVMF = Path("/usr/share/OVMF")
KEY, CERTIFICATE = (Path(f"/usr/share/ovmf/PkKek-1-snakeoil.{kind}") for kind in ("key", "pem"))
#: Of the key's file, which Debian publishes so that guests can be signed for tests.
PASSPHRASE = "snakeoil"

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not KEY.exists(), reason="ovmf's test keys are not installed (apt-get install ovmf)"),
    pytest.mark.skipif(
        shutil.which("sbsign") is None or shutil.which("openssl") is None,
        reason="sbsign or openssl is not installed (scripts/setup.sh test)",
    ),
]


@pytest.fixture
def directory(short_path: Path) -> Iterator[Path]:
    yield short_path
    end_machines(short_path)


def signed(kernel: Path, directory: Path) -> Path:
    """The kernel, signed with the key that the firmware's variables for tests have enrolled."""
    plain, result = directory / "plain.key", directory / "signed"
    openssl = ["openssl", "pkey", "-in", str(KEY), "-passin", f"pass:{PASSPHRASE}", "-out", str(plain)]
    subprocess.run(openssl, check=True, capture_output=True, timeout=30)
    words = ["sbsign", "--key", str(plain), "--cert", str(CERTIFICATE), "--output", str(result), str(kernel)]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    result.chmod(0o644)
    return result


async def said(console: ByteStream, pattern: str) -> str:
    """What comes from a serial port up to what looks like that."""
    seen = ""
    async with asyncio.timeout(120):
        while not re.search(pattern, seen):
            seen += (await console.read()).decode(errors="replace")
    return seen


async def define(hypervisor: Hypervisor, name: str, kernel: Path, firmware: str, *, chosen: bool) -> Domain:
    """The tiny guest with that kernel; `chosen`: its firmware by feature, otherwise by path."""
    files = replace(await tiny.build(), packed=kernel)
    text = tiny.document(name, tiny=files, memory_kib=384 * 1024, efi=True).to_xml()
    text = re.sub("<firmware>.*?</firmware>", firmware, text, flags=re.DOTALL)
    if not chosen:
        text = text.replace(" firmware='efi'", "").replace("<acpi/>", "<acpi/><smm state='on'/>")
    return await hypervisor.define(text)


@pytest.mark.slow
async def test_secure_boot(directory: Path) -> None:
    """By path and template: a signed kernel boots and knows it; by feature: the firmware refuses one that is not."""
    snakeoil = (
        f"<loader readonly='yes' secure='yes' type='pflash'>{OVMF}/OVMF_CODE_4M.snakeoil.fd</loader>"
        f"<nvram template='{OVMF}/OVMF_VARS_4M.snakeoil.fd'/>"
    )
    files = await tiny.build()
    kernel = await asyncio.to_thread(signed, files.packed, directory)
    async with opened(directory) as (hypervisor, _):
        domain = await define(hypervisor, "trusted", kernel, snakeoil, chosen=False)
        await domain.create()
        console = await domain.open_console()
        seen = await said(console, "\\$ |# ")
        assert "Key was rejected by service" in seen, "a kernel that was booted so takes no modules that are not signed"
        await console.write(b"dmesg; echo EN''D\n")
        told = await said(console, "END")
        assert "Secure boot enabled" in told and "Kernel is locked down from EFI Secure Boot" in told
        console.close()
        await domain.destroy()

        features = "".join(f"<feature enabled='yes' name='{name}'/>" for name in ("secure-boot", "enrolled-keys"))
        domain = await define(hypervisor, "refused", kernel, f"<firmware>{features}</firmware>", chosen=True)
        await domain.create()
        console = await domain.open_console()
        assert "Linux version" not in await said(console, "BdsDxe|PXE"), "it looks elsewhere"
        await domain.destroy()
