"""Secure Boot as a guest sees it: its kernel knows, and locks itself down; what nobody signed does not even start."""

from __future__ import annotations

import asyncio
import re
import struct
from pathlib import Path

import pytest

from corral.guests import tiny
from corral.hypervisor.guest.stream import ByteStream
from corral.usb import fat

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


def unsigned(image: bytes) -> bytes:
    """A PE32+ image without its certificates ("PE Format", optional header data directories)."""
    (header,) = struct.unpack_from("<I", image, 0x3C)
    directories = header + 24 + 112
    return image[: directories + 4 * 8] + bytes(8) + image[directories + 5 * 8 :]


@pytest.mark.parametrize("enforced", [True, False])
async def test_an_unsigned_image(directory: Path, enforced: bool) -> None:
    """A disk with a boot loader that nobody signed: the firmware says that it may not, and starts it if it may."""
    folder, disk = directory / "files", directory / "esp.img"
    loader = folder / "EFI" / "BOOT" / "BOOTX64.EFI"
    loader.parent.mkdir(parents=True)
    loader.write_bytes(unsigned((await tiny.build()).packed.read_bytes()))
    medium = fat.image(folder, free=0)
    disk.write_bytes(medium.read(0, medium.size))
    firmware = BY_FEATURE if enforced else "<feature enabled='no' name='secure-boot'/>"
    text = f"""<domain type='qemu'><name>esp</name><memory unit='MiB'>384</memory><os firmware='efi'>
      <type arch='x86_64' machine='q35'>hvm</type><firmware>{firmware}</firmware></os><features><acpi/></features>
      <devices><serial type='pty'/><disk type='file'><driver name='qemu' type='raw'/><source file='{disk}'/>
      <target dev='vda' bus='virtio'/><boot order='1'/></disk></devices></domain>"""
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.create_xml(text)
        told = await said(await domain.open_console(), "Access Denied|BdsDxe: starting")
        assert "BdsDxe: loading Boot" in told
        assert ("Access Denied" in told, "BdsDxe: starting" in told) == (enforced, not enforced)
        await domain.destroy()
