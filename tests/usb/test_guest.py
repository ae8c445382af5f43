"""Devices written in Python as a Linux guest sees them, through QEMU's usb-redir."""

from __future__ import annotations

import asyncio
import gc
import os
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


@pytest.mark.parametrize("bus", [EHCI, XHCI])
async def test_stick_at_high_speed_keeps_64_megabytes(guest: Guest, tmp_path: Path, bus: str) -> None:
    stick = Stick(blank(tmp_path / "stick.img", 80))
    async with guest.plugged(stick, bus):
        disk = await guest.disk("Python stick")
        assert (await guest.sh(SPEEDS)).split("\n")[:2] == ["480", "Python stick"]
        assert "high-speed USB device" in await guest.sh("dmesg | grep 'USB device number' | tail -n 1")
        script = f"""set -e
            mkdosfs /dev/{disk} >/dev/null; mkdir -p /mnt/stick; mount -t vfat /dev/{disk} /mnt/stick
            dd if=/dev/urandom of=/mnt/stick/data bs=1M count=64 2>/dev/null
            md5sum </mnt/stick/data; umount /mnt/stick; echo 3 >/proc/sys/vm/drop_caches
            mount -t vfat /dev/{disk} /mnt/stick; md5sum </mnt/stick/data; umount /mnt/stick; echo whole"""
        output = await guest.sh(script, 150)
        before, after, end = (output + "\n\n").split("\n")[:3]
        assert (after, end) == (before, "whole"), output
        assert stick.bytes_written > 64 << 20
    await guest.until("ls /sys/block", "")
    assert "I/O error" not in await guest.sh("dmesg")


async def test_stick_at_full_speed_on_a_companion(guest: Guest, tmp_path: Path) -> None:
    stick = Stick(blank(tmp_path / "slow.img", 8), speed=usb.Speed.FULL)
    async with guest.plugged(stick, EHCI):
        disk = await guest.disk("Python stick")
        assert (await guest.sh(SPEEDS)).split("\n")[:2] == ["12", "Python stick"]
        script = f"""echo kept | dd of=/dev/{disk} conv=fsync 2>/dev/null
            echo 3 >/proc/sys/vm/drop_caches; head -n 1 /dev/{disk}"""
        assert await guest.sh(script) == "kept\n"
    assert (tmp_path / "slow.img").read_bytes()[:5] == b"kept\n"


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


async def test_keyboard_types_a_line_into_the_console(guest: Guest) -> None:
    keyboard = usb.Keyboard()
    async with guest.plugged(keyboard, EHCI):
        await guest.until("cat /proc/bus/input/devices", "USB keyboard")
        await guest.sh("setsid sh -c 'exec sh </dev/tty1 >/dev/tty1 2>/dev/null' </dev/null >/dev/null 2>&1 &")
        keyboard.type('echo "It is: $((6 * 7))!" > /run/typed\n')
        assert await guest.until("cat /run/typed", "42") == "It is: 42!\n"
        keyboard.type("exit\n")
        await guest.until("ps", "ps")


async def test_tablet_points(guest: Guest) -> None:
    tablet = usb.Tablet()
    async with guest.plugged(tablet, XHCI):
        entry = (await guest.until("cat /proc/bus/input/devices", "USB tablet")).split("USB tablet")[1]
        event = next(word for word in entry.split() if word.startswith("event"))
        watch = asyncio.create_task(
            guest.sh(f"timeout 10 dd if=/dev/input/{event} bs=24 count=3 2>/dev/null | od -A n -t d4 -v")
        )
        await asyncio.sleep(1)
        tablet.move(12345, 23456)
        values = [int(word) for word in (await watch).split() if word.isdigit()]
        assert 12345 in values and 23456 in values


async def test_serial_port_echoes(guest: Guest) -> None:
    port = usb.Serial()
    with usb.Pty(port) as pty:
        async with guest.plugged(port, EHCI):
            await guest.until("ls /dev", "ttyACM0")
            await guest.sh("(stty raw -echo; exec cat) </dev/ttyACM0 >/dev/ttyACM0 2>/dev/null &")
            await guest.until("ps", " cat")
            terminal = await asyncio.to_thread(os.open, pty.path, os.O_RDWR | os.O_NOCTTY)
            try:
                sent = bytes(range(256)) * 64

                def exchange() -> bytes:
                    back = b""
                    for at in range(0, len(sent), 1024):
                        os.write(terminal, sent[at : at + 1024])
                        while len(back) < at + 1024:
                            back += os.read(terminal, 4096)
                    return back

                async with asyncio.timeout(60):
                    assert await asyncio.to_thread(exchange) == sent
                assert port.open
            finally:
                os.close(terminal)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_plugged_and_unplugged_fifty_times(guest: Guest, tmp_path: Path) -> None:
    """Neither the guest, nor QEMU, nor we keep anything."""
    image = blank(tmp_path / "often.img", 4)

    async def facts() -> tuple[str, int, int]:
        gc.collect()
        theirs, ours = descriptors(guest.machine.process.pid), descriptors(os.getpid())
        return await guest.sh("ls /sys/bus/usb/devices; ls /sys/block | grep sd"), theirs, ours

    async with guest.slot(XHCI) as path:
        counted = 0
        before = await facts()
        for _ in range(50):
            stick = Stick(image)
            service = await usb.serve(stick, path)
            await guest.until("ls /sys/block", "sd")
            service.unplug()
            async with asyncio.timeout(10):
                assert await service.ended() == "unplugged"
            stick.close()
            await guest.until("ls /sys/block | grep -c sd", "0")
            counted += 1
        await guest.until("ls /sys/bus/usb/devices | wc -l", str(len(before[0].split())))
        assert await facts() == before
        assert counted == 50


async def test_chardev_that_goes_ends_it(tmp_path: Path, guest: Guest) -> None:
    """QEMU closes its end of the socket: the redirection parts without an error, and the stick can be used again."""
    stick = Stick(blank(tmp_path / "left.img", 4))
    async with guest.slot(EHCI) as path:
        service = await usb.serve(stick, path)
        await guest.disk("Python stick")
    async with asyncio.timeout(10):
        assert "closed" in await service.ended()
    async with guest.plugged(stick, EHCI):
        await guest.disk("Python stick")
