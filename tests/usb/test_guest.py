"""Devices written in Python as a Linux guest sees them, through QEMU's usb-redir and without a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.usb.guestlab import EHCI, XHCI, Guest, booted

from corral import usb
from corral.usb import fat

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


class Stick(usb.MassStorage):
    name = "Python stick"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    async with booted() as running:
        yield running


def blank(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
    return path


# Speed and product of every device of ours.
SPEEDS = "cd /sys/bus/usb/devices; for d in *; do grep -qs Corral $d/manufacturer && cat $d/speed $d/product; done"


async def test_stick_at_high_speed(guest: Guest, tmp_path: Path) -> None:
    stick = Stick(blank(tmp_path / "stick.img", 16))
    async with guest.plugged(stick, XHCI):
        disk = await guest.disk("Python stick")
        assert (await guest.sh(SPEEDS)).split("\n")[:2] == ["480", "Python stick"]
        assert "high-speed USB device" in await guest.sh("dmesg | grep 'USB device number' | tail -n 1")
        script = f"""set -e
            mkdosfs /dev/{disk} >/dev/null; mkdir -p /mnt/stick; mount -t vfat /dev/{disk} /mnt/stick
            dd if=/dev/urandom of=/mnt/stick/data bs=1M count=8 2>/dev/null
            md5sum </mnt/stick/data; umount /mnt/stick; echo 3 >/proc/sys/vm/drop_caches
            mount -t vfat /dev/{disk} /mnt/stick; md5sum </mnt/stick/data; umount /mnt/stick; echo whole"""
        output = await guest.sh(script, 150)
        before, after, end = (output + "\n\n").split("\n")[:3]
        assert (after, end) == (before, "whole"), output
        assert stick.bytes_written > 8 << 20
    await guest.until("ls /sys/block", "")
    assert "I/O error" not in await guest.sh("dmesg")


async def test_read_only_stick_cannot_be_written(guest: Guest, tmp_path: Path) -> None:
    image = blank(tmp_path / "fixed.img", 4)
    async with guest.plugged(Stick(image, read_only=True), EHCI):
        disk = await guest.disk("Python stick")
        await guest.until(f"cat /sys/block/{disk}/ro", "1")
        assert "Read-only" in await guest.sh(f"echo no >/dev/{disk}")


async def test_folder_is_mounted(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a file with a long name.txt").write_text("from a folder\n")
    (tmp_path / "in" / "SHORT.TXT").write_bytes(bytes(300_000))
    async with guest.plugged(Stick(fat.image(tmp_path)), XHCI):
        disk = await guest.disk("Python stick")
        assert (
            await guest.sh(f"mkdir -p /mnt/f; mount -t vfat /dev/{disk} /mnt/f && cat /mnt/f/*.txt")
            == "from a folder\n"
        )
        assert "300000" in await guest.sh("wc -c /mnt/f/in/SHORT.TXT; umount /mnt/f")


async def test_tablet_points(guest: Guest) -> None:
    tablet = usb.Tablet()
    async with guest.plugged(tablet, XHCI):
        entry = (await guest.until("cat /proc/bus/input/devices", "USB tablet")).split("USB tablet")[1]
        event = next(word for word in entry.split() if word.startswith("event"))
        watch = asyncio.create_task(
            guest.sh(f"timeout 50 dd if=/dev/input/{event} bs=24 count=6 2>/dev/null | od -A n -t d4 -v")
        )
        while not watch.done():  # it tells nobody when it begins to read
            for place in ((1, 2), (12345, 23456)):
                tablet.move(*place)
                await asyncio.wait([watch], timeout=0.2)
        values = [int(word) for word in (await watch).split() if word.isdigit()]
        assert 12345 in values and 23456 in values


async def test_chardev_that_goes_ends_it(tmp_path: Path, guest: Guest) -> None:
    """QEMU closes its end of the socket: the redirection parts without an error, and the stick can be used again."""
    stick = Stick(blank(tmp_path / "left.img", 4))
    async with guest.slot(EHCI) as path:
        service = await usb.serve(stick, path)
        await guest.disk("Python stick")
    async with asyncio.timeout(60):
        assert "closed" in await service.ended()
    async with guest.plugged(stick, EHCI):
        await guest.disk("Python stick")
