"""USB devices given to a guest over the connection to its daemon, as the guest sees them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from tests.usb import guestlab

import corral
from corral import usb
from corral.client.domain import Domain
from corral.client.usb import Plugged
from corral.errors import CorralError, DeviceMissing, InvalidArgument, OperationFailed, ResourceBusy
from corral.guests import tiny
from corral.model.address import PCIAddress
from corral.model.devices.controller import Controller, ControllerMaster
from corral.usb.transfer import Target
from corral.usb.typist import type_text
from labs import corrald

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

EHCI, XHCI = 0, 1
"""The indexes of the guest's USB controllers."""
USB_EVENTS = ("device-added", "device-removed")


#: All that could be left behind: chardevs, slots, the daemon's and QEMU's descriptors, the guest's devices.
Holdings = tuple[set[str], set[str], int, int, str]


@dataclass
class Guest(guestlab.Guest):
    """A guest of a daemon's; `machine` and `agent` are the daemon's."""

    vm: Domain = None  # type: ignore[assignment]
    daemon: corrald.Daemon = None  # type: ignore[assignment]

    @contextlib.asynccontextmanager
    async def given(self, device: Target, **where: int | str | None) -> AsyncIterator[Plugged]:
        """A device in the guest; taken out at the end."""
        async with self.vm.usb(device, **where) as plugged:  # type: ignore[arg-type]
            try:
                yield plugged
            finally:
                print("the redirection:", plugged.service.redirection.ended or "goes on")  # shown if the test fails
        device.close()
        # The next device may have the same name: the guest is to have let go of this one.
        await self.until("grep -ls Corral /sys/bus/usb/devices/*/manufacturer || echo none", "none")

    async def holdings(self) -> Holdings:
        """What there is now of all that."""
        await self.settled()
        gc.collect()
        chardevs = {each["label"] for each in await self.vm.monitor({"execute": "query-chardev"})}
        slots = {each.alias.name for each in (await self.vm.document()).devices.redirdevs if each.alias}
        qemu = corrald.machines(self.daemon.state)[0]
        guest = await self.sh("ls /sys/bus/usb/devices /sys/block | grep -v ram")
        return chardevs, slots, descriptors(self.daemon.pid), descriptors(qemu), guest

    async def holds(self, before: Holdings) -> None:
        """Wait until nothing is held but what was before: a descriptor is closed in its own time, then too."""

        def kept(now: Holdings) -> bool:
            return (now[:2], now[4]) == (before[:2], before[4]) and now[2] <= before[2] and now[3] <= before[3]

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while not kept(await self.holdings()):  # noqa: ASYNC110 (nobody tells)
                    await asyncio.sleep(0.2)
        assert kept(now := await self.holdings()), (now, before)

    async def settled(self) -> None:
        """Wait until the daemon has taken out the last slot that it plugged in."""
        async with asyncio.timeout(60):
            while "/usb-" in await self.vm.xml():  # noqa: ASYNC110 (shorter than to listen before it is known)
                await asyncio.sleep(0.02)


class Agent:
    """The guest's agent by way of the daemon."""

    def __init__(self, vm: Domain) -> None:
        self.vm = vm

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        return await self.vm.agent(command, arguments)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    built = await tiny.build()
    document = tiny.document("desk", tiny=built, memory_kib=384 << 10, kvm=False)
    masters = (("ich9-uhci1", 0), ("ich9-uhci2", 2), ("ich9-uhci3", 4))
    place = {"bus": 0, "slot": 0x1D}
    document.devices.controllers += [
        Controller(type="usb", index=EHCI, model="ich9-ehci1", address=PCIAddress(**place, function=7)),
        *(
            Controller(
                type="usb",
                index=EHCI,
                model=model,
                master=ControllerMaster(startport=port),
                address=PCIAddress(**place, function=port // 2, multifunction="on" if not port else None),
            )
            for model, port in masters
        ),
        Controller(type="usb", index=XHCI, model="qemu-xhci", ports=8),
    ]
    with tempfile.TemporaryDirectory(prefix="cu") as name, corrald.running(Path(name)) as daemon:
        async with corral.connect(daemon.uri) as host:
            vm = await host.launch(document, transient=True)
            await vm.wait_for_agent(timeout=120)
            yield Guest(None, Agent(vm), Path(name), vm=vm, daemon=daemon)  # type: ignore[arg-type]
            await vm.destroy()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


#: Bytes of a mapping that is the guest's.
GUEST_MEMORY = 128 << 20


def resident(pid: int) -> int:
    """KiB of memory, without a guest's own and its translated code, which grow with what the guest does."""
    total, counts = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ", line):
            counts = int(head[2], 16) - int(head[1], 16) < GUEST_MEMORY and "wx" not in head[3]
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def blank(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
    return path


class Stick(usb.MassStorage):
    name = "Python stick"


SPEEDS = "cd /sys/bus/usb/devices; for d in *; do grep -qs Corral $d/manufacturer && cat $d/speed $d/product; done"


async def keeps(guest: Guest, stick: Stick, disk: str, mebibytes: int, seconds: float) -> None:
    """A file system on the stick gives back what was written, past the guest's cache."""
    script = f"""set -e
        mkdosfs /dev/{disk} >/dev/null; mkdir -p /mnt/stick; mount -t vfat /dev/{disk} /mnt/stick
        dd if=/dev/urandom of=/run/random bs=1M count=4 2>/dev/null
        for n in $(seq {mebibytes // 4}); do cat /run/random; echo $n; done >/mnt/stick/data
        md5sum </mnt/stick/data; umount /mnt/stick; echo 3 >/proc/sys/vm/drop_caches
        mount -t vfat /dev/{disk} /mnt/stick; md5sum </mnt/stick/data; umount /mnt/stick; echo whole"""
    output = await guest.sh(script, seconds)
    first, second, end = (output + "\n\n").split("\n")[:3]
    assert (second, end) == (first, "whole"), f"{output}\n{await guest.sh('dmesg | tail -n 20')}"
    assert min(stick.bytes_written, stick.bytes_read) > mebibytes << 20


@pytest.mark.parametrize("mebibytes", [8, pytest.param(64, marks=pytest.mark.slow)])
async def test_stick_at_high_speed_keeps_what_it_is_given(guest: Guest, tmp_path: Path, mebibytes: int) -> None:
    stick = Stick(blank(tmp_path / "stick.img", mebibytes + 16))
    before = await guest.holdings()
    async with guest.vm.events(*USB_EVENTS) as events:
        async with guest.given(stick) as plugged:
            slot = (await guest.vm.document()).devices.redirdevs[0]
            assert slot.alias is not None and slot.alias.name == plugged.alias == "redir0"
            assert slot.type == "unix" and str(slot.address) == f"{EHCI}:1"
            added = await anext(events)
            disk = await guest.disk("Python stick")
            assert (await guest.sh(SPEEDS)).split("\n")[:2] == ["480", "Python stick"]
            assert "new high-speed USB device" in await guest.sh("dmesg | grep 'USB device number' | tail -n 1")
            await keeps(guest, stick, disk, mebibytes, seconds=250)
        removed = await anext(events)
    assert (added.alias, removed.alias) == ("redir0", "redir0")  # type: ignore[attr-defined]
    await guest.holds(before)


async def test_stick_at_full_speed_on_a_companion(guest: Guest, tmp_path: Path) -> None:
    stick = Stick(blank(tmp_path / "slow.img", 8), speed=usb.Speed.FULL)
    async with guest.given(stick, bus=EHCI):
        disk = await guest.disk("Python stick")
        assert (await guest.sh(SPEEDS)).split("\n")[:2] == ["12", "Python stick"]
        assert "uhci_hcd" in await guest.sh("dmesg | grep 'USB device number' | tail -n 1")
        script = f"echo kept | dd of=/dev/{disk} conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches"
        assert await guest.sh(f"{script}; head -n 1 /dev/{disk}") == "kept\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_stick_at_full_speed_keeps_64_megabytes(guest: Guest, tmp_path: Path) -> None:
    stick = Stick(blank(tmp_path / "stick.img", 80), speed=usb.Speed.FULL)
    async with guest.given(stick, bus=EHCI):
        disk = await guest.disk("Python stick")
        assert (await guest.sh(SPEEDS)).split("\n")[:2] == ["12", "Python stick"]
        assert "new full-speed USB device number" in await guest.sh("dmesg | grep 'USB device number' | tail -n 1")
        await keeps(guest, stick, disk, 64, seconds=1500)


async def test_stick_at_super_speed_is_asked_for_much_at_a_time(guest: Guest, tmp_path: Path) -> None:
    stick = Stick(blank(tmp_path / "quick.img", 16), speed=usb.Speed.SUPER)
    async with guest.given(stick, bus=XHCI):
        disk = await guest.disk("Python stick")
        assert (await guest.sh(SPEEDS)).split("\n")[:2] == ["5000", "Python stick"]
        assert (await guest.sh(f"cat /sys/block/{disk}/queue/max_sectors_kb")).strip() == "1024"
        await keeps(guest, stick, disk, 12, seconds=100)


async def test_keyboard_types_a_line_into_the_console(guest: Guest) -> None:
    keyboard = usb.Keyboard()
    async with guest.given(keyboard, bus=XHCI):
        await guest.sh("setsid sh -c 'exec sh </dev/tty1 >/dev/tty1 2>/dev/null' </dev/null >/dev/null 2>&1 &")
        assert await type_text(keyboard, 'echo "It is: $((6 * 7))!" > /run/typed\nexit\n')
    assert await guest.until("cat /run/typed", "42") == "It is: 42!\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_keyboard_loses_nothing_in_thirty_times(guest: Guest) -> None:
    """Plugged in, typed on at once and taken out, while the guest is kept busy."""
    text = "".join(map(chr, range(ord(" "), 0x7F)))
    await guest.sh("setsid sh -c 'exec </dev/tty1; stty raw -echo; exec cat' </dev/null >/run/typed 2>&1 &")
    await guest.until("stty -F /dev/tty1", "-icanon")
    busy = "dd if=/dev/urandom of=/dev/null bs=1M"
    await guest.sh(f"{busy} >/dev/null 2>&1 </dev/null &")
    for round in range(30):
        async with guest.given(keyboard := usb.Keyboard(), bus=XHCI):
            assert await type_text(keyboard, text + "\n")
        # Enter is a carriage return, and the terminal is raw.
        typed = await guest.until("wc -c </run/typed; tail -c 96 /run/typed", f"{96 * (round + 1)}\n")
        assert typed.split("\n", 1)[1].strip("\r\n") == text
    await guest.sh(f"pkill -f '{busy}'; killall cat")


async def test_serial_port_echoes(guest: Guest) -> None:
    port = usb.Serial()
    with usb.Pty(port) as pty:
        async with guest.given(port):
            await guest.until("ls /dev", "ttyACM0")
            await guest.sh("(stty raw -echo; exec cat) </dev/ttyACM0 >/dev/ttyACM0 2>/dev/null &")
            await guest.until("stty -F /dev/ttyACM0", "-icanon")
            terminal = await asyncio.to_thread(os.open, pty.path, os.O_RDWR | os.O_NOCTTY)
            try:
                sent = bytes(range(256)) * 4
                await asyncio.to_thread(os.write, terminal, sent)
                back = b""
                async with asyncio.timeout(60):
                    while len(back) < len(sent):
                        back += await asyncio.to_thread(os.read, terminal, 4096)
                assert back == sent
            finally:
                os.close(terminal)


@pytest.mark.parametrize("times", [12, pytest.param(50, marks=pytest.mark.slow)])
async def test_plugged_and_unplugged_again_and_again(guest: Guest, tmp_path: Path, times: int) -> None:
    """Neither the guest, nor QEMU, nor the daemon keeps anything."""
    image = blank(tmp_path / "often.img", 4)
    qemu = corrald.machines(guest.daemon.state)[0]
    await guest.sh("echo 0 >/sys/module/usb_storage/parameters/delay_use")  # it waits a second for slow sticks

    async def once() -> None:
        async with guest.given(Stick(image), bus=XHCI):
            await guest.until("ls /sys/block", "sd")

    for _ in range(3):
        await once()
    before, memory = await guest.holdings(), (resident(guest.daemon.pid), resident(qemu))
    for _ in range(times):
        await once()
    await guest.holds(before)
    grown = [after - then for after, then in zip((resident(guest.daemon.pid), resident(qemu)), memory, strict=True)]
    assert max(grown) < 8 << 10, f"KiB that the daemon and QEMU have grown by: {grown}"


GARBAGE = {
    "a packet before the hello": b"\x64\0\0\0\x0a\0\0\0\1\0\0\0" + bytes(10),
    "a hello without an end": b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0",
    "something else": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


async def raw(guest: Guest) -> tuple[str, object]:
    args = {"dom": guest.vm.reference, "slot": None, "bus": XHCI, "speed": 2, "flags": 0}
    answer, stream = await guest.vm.host.connection.open_stream("corral.usb_redirect", args)
    return answer.alias, stream


@pytest.mark.parametrize("what", GARBAGE)
async def test_malformed_packets_end_the_redirection_and_nothing_else(guest: Guest, what: str) -> None:
    before = await guest.holdings()
    _, stream = await raw(guest)
    await stream.write(GARBAGE[what])  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        with pytest.raises(OperationFailed, match="the device's side"):
            while True:
                assert await stream.read(), "the stream ended without an error"  # type: ignore[attr-defined]
    await guest.holds(before)


async def test_answer_that_nobody_asked_for(guest: Guest) -> None:
    """A device's side that keeps to the order of things, and then answers what was not asked."""
    before = await guest.holdings()
    keyboard = usb.Keyboard()
    async with guest.vm.usb(keyboard, bus=XHCI) as plugged:
        await guest.until("cat /proc/bus/input/devices", "USB keyboard")
        id = (77).to_bytes(8, "little")
        plugged.service._write(b"\x65\0\0\0\x0a\0\0\0" + id + b"\x81\0\0\0\0\0\0\0\0\0")
        async with asyncio.timeout(60):
            with pytest.raises(OperationFailed, match="77"):
                await plugged.ended()
    await guest.holds(before)


@pytest.mark.parametrize("what", GARBAGE)
async def test_malformed_packets_of_the_guests_side(guest: Guest, what: str) -> None:
    """A peer in QEMU's place at a slot's socket: the client learns who broke the protocol, and all else goes on."""
    path = open_place(guest) / f"liar{list(GARBAGE).index(what)}"
    await guest.vm.attach(f"<redirdev bus='usb' type='unix'><source mode='bind' path='{path}'/></redirdev>", live=True)
    slot = (await guest.vm.document()).devices.redirdevs[0]
    assert slot.alias is not None
    path.unlink()

    async def lie(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GARBAGE[what])

    liar = await asyncio.start_unix_server(lie, str(path))
    async with liar, guest.vm.usb(usb.Keyboard(), slot=slot.alias.name) as plugged, asyncio.timeout(60):
        with pytest.raises(OperationFailed, match="the guest's side"):
            await plugged.ended()
    await guest.vm.detach(slot, live=True)
    assert await guest.sh("echo well") == "well\n"


def open_place(guest: Guest) -> Path:
    """A directory in which QEMU, who is somebody else, may make sockets."""
    guest.directory.chmod(0o711)
    place = guest.directory / "open"
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    return place


async def test_connection_that_breaks_unplugs(guest: Guest, tmp_path: Path) -> None:
    """A client that dies in the midst of it, as kill -9 would have it."""
    before = await guest.holdings()
    stick = Stick(blank(tmp_path / "gone.img", 4))
    async with corral.connect(guest.daemon.uri) as other:
        vm = await other.domain(guest.vm.name)
        async with vm.usb(stick, bus=XHCI) as plugged:
            await guest.disk("Python stick")
            assert other.connection._transport is not None
            other.connection._transport.abort()
            with pytest.raises(CorralError):
                await plugged.ended()
    await guest.until("ls /sys/block | grep -c sd", "0")
    await guest.holds(before)


async def test_declared_slot_is_filled_and_stays(guest: Guest, tmp_path: Path) -> None:
    path = open_place(guest) / "slot"
    await guest.vm.attach(f"<redirdev bus='usb' type='unix'><source mode='bind' path='{path}'/></redirdev>", live=True)
    slot = (await guest.vm.document()).devices.redirdevs[0]
    assert slot.alias is not None
    alias = slot.alias.name
    async with guest.given(Stick(blank(tmp_path / "one.img", 4)), slot=alias):
        await guest.disk("Python stick")
        with pytest.raises(ResourceBusy):
            async with guest.vm.usb(usb.Keyboard(), slot=alias):
                pass
    async with guest.given(Stick(blank(tmp_path / "two.img", 4)), slot=alias):
        await guest.disk("Python stick")
    await guest.vm.detach(slot, live=True)
    with pytest.raises(DeviceMissing):
        async with guest.vm.usb(usb.Keyboard(), slot=alias):
            pass
    with pytest.raises(DeviceMissing):
        async with guest.vm.usb(usb.Keyboard(), slot="channel0"):
            pass
    with pytest.raises((InvalidArgument, CorralError)):
        async with guest.vm.usb(usb.Keyboard(), bus=7):
            pass


async def test_slot_taken_out_under_a_device(guest: Guest, tmp_path: Path) -> None:
    """virsh detach-device of a slot in use: the client learns of it, and nothing is left."""
    before = await guest.holdings()
    async with guest.vm.usb(Stick(blank(tmp_path / "left.img", 4)), bus=XHCI) as plugged:
        await guest.disk("Python stick")
        slot = (await guest.vm.document()).devices.redirdevs[0]
        await guest.vm.detach(slot, live=True)
        async with asyncio.timeout(60):
            assert "closed" in await plugged.ended()
    await guest.until("ls /sys/block | grep -c sd", "0")
    await guest.holds(before)


async def test_slot_on_tcp_is_filled_without_the_daemon(guest: Guest, tmp_path: Path) -> None:
    """A slot plugged in on a port: whoever connects there gives the device."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    source = f"<source mode='bind' host='127.0.0.1' service='{port}'/><protocol type='raw'/>"
    await guest.vm.attach(f"<redirdev bus='usb' type='tcp'>{source}</redirdev>", live=True)
    slot = (await guest.vm.document()).devices.redirdevs[0]
    service = await usb.serve(Stick(blank(tmp_path / "far.img", 4)), ("127.0.0.1", port))
    await guest.disk("Python stick")
    await guest.vm.detach(slot, live=True)
    async with asyncio.timeout(60):
        assert "closed" in await service.ended()
    await guest.until("ls /sys/block | grep -c sd", "0")


async def test_redirfilter_keeps_a_device_out(guest: Guest, tmp_path: Path) -> None:
    """A machine's filter holds for what comes over the daemon, too; the machine has no system to ask."""
    rules = "<usbdev class='0x03' allow='yes'/><usbdev allow='no'/>"
    document = f"""<domain type='qemu'><name>strict</name><memory unit='MiB'>64</memory>
        <os><type arch='x86_64' machine='q35'>hvm</type></os>
        <devices><controller type='usb' model='qemu-xhci'/><redirfilter>{rules}</redirfilter></devices></domain>"""
    strict = await guest.vm.host.launch(document, transient=True)
    try:
        async with strict.usb(Stick(blank(tmp_path / "out.img", 4))) as plugged, asyncio.timeout(60):
            with pytest.raises(OperationFailed, match="filter keeps this device out"):
                await plugged.ended()
        async with strict.usb(usb.Keyboard()) as plugged:
            async with asyncio.timeout(60):  # QEMU lists the slot before what is in it has told its speed
                while "Speed 12 Mb/s" not in await strict.monitor("info usb", hmp=True):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    finally:
        await strict.destroy()


@contextlib.asynccontextmanager
async def command(guest: Guest, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`corral usb …` beside the test, interrupted at the end if it has not ended: it must end well."""
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    program = (sys.executable, "-m", "corral.cli", "--connect", guest.daemon.uri, "usb")
    process = await asyncio.create_subprocess_exec(*program, *words, **pipes)
    try:
        yield process
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_commands(guest: Guest, tmp_path: Path) -> None:
    before = await guest.holdings()
    (tmp_path / "hello.txt").write_text("from a folder\n")
    async with command(guest, "stick", "desk", str(tmp_path)) as stick:
        assert stick.stderr is not None
        said = (await stick.stderr.readline()).decode()
        assert said == f"desk has a stick of {tmp_path} (redir0). Ctrl-C takes it out.\n"
        disk = await guest.disk("USB stick")
        assert await guest.sh(f"mkdir -p /mnt/f; mount -t vfat /dev/{disk} /mnt/f && cat /mnt/f/hello.txt") == (
            "from a folder\n"
        )
        await guest.sh("umount /mnt/f")
        async with command(guest, "ls", "desk") as listed:
            assert listed.stdout is not None
            rows = (await listed.stdout.read()).decode().splitlines()
            await listed.wait()  # an end that a signal meets before it was seen is told with a wrong status
            assert rows[0].split() == ["SLOT", "TYPE", "PLACE", "SOURCE"]
            assert rows[1].split()[:3] == ["redir0", "unix", "1:1"]
    async with command(guest, "serial", "desk") as serial:
        assert serial.stdout is not None
        path = (await serial.stdout.readline()).decode().strip()
        await guest.until("ls /dev", "ttyACM0")
        await guest.sh("stty -F /dev/ttyACM0 raw -echo; echo hello >/dev/ttyACM0")
        terminal = await asyncio.to_thread(os.open, path, os.O_RDWR | os.O_NOCTTY)
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(os.read, terminal, 100) == b"hello\n"
        os.close(terminal)
    await guest.sh("setsid sh -c 'exec sh </dev/tty1 >/dev/tty1 2>/dev/null' </dev/null >/dev/null 2>&1 &")
    async with command(guest, "keyboard", "desk", "echo by command >/run/command\\nexit\\n") as keyboard:
        async with asyncio.timeout(60):
            await keyboard.wait()
    assert await guest.until("cat /run/command", "by ") == "by command\n"
    await guest.until("grep -ls Corral /sys/bus/usb/devices/*/manufacturer || echo none", "none")
    await guest.holds(before)
