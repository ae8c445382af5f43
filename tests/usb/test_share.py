"""`corral usb share` the whole way: one guest gives its disk, real to its kernel and to libusb, to another guest.

The giving guest runs this computer's Python with the whole command line; its way to the daemon is a UNIX socket that a
bridge carries over the guest's network, as `ssh` does for a host elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from tests.usb import guestlab, pythonlab
from tests.usb.guestlab import booted
from tests.usb.test_daemon import XHCI, Guest
from tests.usb.test_daemon import guest as guest
from tests.usb.test_usbredirect import QEMU_DISK

from corral.guests import tiny

pytestmark = [
    *(pytest.mark.guest, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)),
]


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one to the other, until the end: one direction of a bridge, here and in the guest."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


PROGRAM = f"""
import asyncio, sys, threading

{inspect.getsource(carry)}

async def bridge(port, ready):
    async def accept(reader, writer):
        there = await asyncio.open_connection("10.0.2.2", port)
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))
    server = await asyncio.start_unix_server(accept, "/run/corral-sock")
    ready.set()
    await server.serve_forever()

ready = threading.Event()
threading.Thread(target=lambda: asyncio.run(bridge(int(sys.argv[1]), ready)), daemon=True).start()
ready.wait()
from corral.cli import main
sys.argv[1:] = ["--connect", "qemu+unix:///system?socket=/run/corral-sock", "usb", *sys.argv[2:]]
print("ended with status", main(), flush=True)
"""

IMPORTS = (
    *("usb1", "typer.*", "typer._click.*", "corral.client.*", "corral.protocol.*", "pydantic.plugin.*"),
    *("corral.cli.app", "corral.cli.usb", "corral.cli.target", "corral.usb.computer"),
)
DRIVER = "readlink $(dirname $(grep -l 46f4 /sys/bus/usb/devices/*/idVendor))/*:1.0/driver"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("share") / "disk"
    image.write_bytes(os.urandom(1 << 20))
    return image


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def giver(disk: Path) -> AsyncIterator[guestlab.Guest]:
    """A guest with a disk on its USB and `corral` to give it away."""
    pythonlab.require()
    built = await tiny.build()
    initrd = pythonlab.initrd(built, disk.parent, PROGRAM, IMPORTS, ("libusb-1.0.so.0",))
    drive = ("-blockdev", f"driver=file,node-name=disk,filename={disk}")
    more = (*drive, "-device", "usb-storage,id=victim,drive=disk,bus=ehci.0", "-initrd", str(initrd), "-m", "768")
    async with booted(*more) as running:
        await running.until("ip -4 addr show eth0", "10.0.2.15")
        await running.disk("QEMU HARDDISK")
        yield running


@asynccontextmanager
async def reachable(guest: Guest) -> AsyncIterator[int]:
    """A port that leads to the daemon's socket."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(str(guest.daemon.socket))
        with contextlib.closing(writer), contextlib.closing(there[1]):
            await asyncio.gather(carry(reader, there[1]), carry(there[0], writer), return_exceptions=True)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def share(giver: guestlab.Guest, port: int, *words: str) -> None:
    """`corral usb share …` in the giving guest, which goes on; what it prints is in /run/log."""
    await giver.sh(f"{pythonlab.RUN} /py/program {port} share {' '.join(words)} >/run/log 2>&1 </dev/null &")


async def shared(giver: guestlab.Guest) -> str:
    """What the command said when the device was there."""
    said = await giver.until("grep -q -e 'takes it out' -e Error /run/log && cat /run/log && echo said", "said", 240)
    assert "Ctrl-C takes it out" in said, said
    return said


async def test_disk_shared_read_and_handed_back(guest: Guest, giver: guestlab.Guest, disk: Path) -> None:
    before = await guest.holdings()
    assert (await giver.sh(DRIVER)).strip().endswith("/usb-storage")
    async with reachable(guest) as port:
        await share(giver, port, QEMU_DISK, "--to", "desk", "--bus", str(XHCI))
        said = await shared(giver)
        assert said.startswith(f"desk has {QEMU_DISK} QEMU QEMU USB HARDDRIVE (")
        await giver.until(DRIVER, "/usbfs")  # between its resets it has no driver
        name = await guest.disk("QEMU HARDDISK", 60)
        content = await asyncio.to_thread(disk.read_bytes)
        assert (await guest.sh(f"md5sum </dev/{name}", 120)).split()[0] == hashlib.md5(content).hexdigest()
        await giver.sh("kill -INT $(pidof loader)")
        assert "ended with status 0" in await giver.until("cat /run/log", "ended with", 60)
        await giver.until(DRIVER, "/usb-storage")
        await giver.disk("QEMU HARDDISK")
        await guest.until("ls /sys/block | grep -c sd", "0")
        assert await guest.holdings() == before


async def test_unplugging_here_unplugs_there(guest: Guest, giver: guestlab.Guest) -> None:
    before = await guest.holdings()
    async with reachable(guest) as port:
        await share(giver, port, "1.99", "--to", "desk")
        said = await giver.until("cat /run/log", "ended with", 240)
        assert "no USB device of this computer is '1.99'; there are 46f4:0001" in said and "status 1" in said
        place = (await giver.sh("grep -l 46f4 /sys/bus/usb/devices/*/idVendor | xargs dirname")).strip()
        number = (await giver.sh(f"echo $(cat {place}/busnum).$(cat {place}/devnum)")).strip()
        await share(giver, port, number, "--to", "desk", "--bus", str(XHCI))
        await shared(giver)
        await guest.disk("QEMU HARDDISK", 60)
        await giver.machine.monitor.execute("device_del", {"id": "victim"})
        said = await giver.until("cat /run/log", "ended with", 60)
        assert "It left desk: it was unplugged from this computer." in said and "status 0" in said
        await guest.until("ls /sys/block | grep -c sd", "0")
        assert await guest.holdings() == before
