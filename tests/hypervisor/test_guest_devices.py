"""Devices as the guest sees them: directories of the host, a TPM with its memory, shared memory, crypto, a watchdog."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import until

from corral.constants import DomainDeviceModifyFlags as Flags
from corral.constants import DomainEventWatchdogAction as Actions
from corral.constants import DomainShutoffReason, DomainState, DomainUndefineFlags
from corral.errors import CorralError, DeviceMissing
from corral.guests import tiny
from corral.hypervisor import dumps
from corral.hypervisor.domain import Domain
from corral.hypervisor.events import Watchdog
from corral.hypervisor.hotplug import hotplug
from corral.hypervisor.hypervisor import Hypervisor
from labs import corrald, virtiofsd

from .inside import agent, booted, settled, sh
from .life import end_machines, opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
NINE = "<filesystem accessmode='mapped'><source dir='{dir}'/><target dir='nine'/></filesystem>"
FAST = """<filesystem><driver type='virtiofs'/><binary path='{program}'><sandbox mode='chroot'/></binary>
  <source dir='{dir}'/><target dir='{tag}'/></filesystem>"""
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
OTHERS = """<shmem name='corral-test-{pid}' role='peer'><model type='ivshmem-plain'/><size unit='M'>2</size></shmem>
  <crypto model='virtio' type='qemu'><backend model='builtin' queues='1'/></crypto>
  <sound model='ich9'/><hub type='usb'/><watchdog model='i6300esb' action='pause'/>
  <rng model='virtio'><backend model='builtin'/></rng><controller type='usb' model='qemu-xhci'/>
  <smartcard mode='passthrough' type='unix'><source mode='bind' path='{card}'/></smartcard>"""
#: Prints where the guest sees the host's memory, the third resource of that card, once it is switched on.
BAR = """for d in /sys/bus/pci/devices/*; do
[ "$(cat $d/device)" = 0x1110 ] && echo 1 >$d/enable && sed -n 3p $d/resource | cut -d" " -f1; done"""


@pytest.fixture
def directory(short_path: Path) -> Iterator[Path]:
    yield short_path
    end_machines(short_path)
    Path(f"/dev/shm/corral-test-{os.getpid()}").unlink(missing_ok=True)


async def start(hypervisor: Hypervisor, devices: str, *, machine: str = "q35") -> Domain:
    document = tiny.document("devices", tiny=await tiny.build())
    document.os.type.machine = machine
    if machine == "pc":  # has no ports, and room for conventional cards
        document.devices.controllers.clear()
    text = document.to_xml()
    domain = await hypervisor.define(
        text.replace("<vcpu", f"{SHARED}<vcpu").replace("<devices>", f"<devices>{devices}")
    )
    await domain.create()
    await booted(domain)
    return domain


def alive(pid: int) -> bool:
    """Whether the process has not ended (a zombie has)."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


async def pci(domain: Domain) -> set[str]:
    """vendor:device of all that is on the guest's PCI buses."""
    script = 'cd /sys/bus/pci/devices; for d in *; do echo "$(cat $d/vendor):$(cat $d/device)"; done'
    return set((await sh(domain, script)).replace("0x", "").split())


async def says(domain: Domain, script: str, wanted: str) -> None:
    """Wait until a script in the guest says that: the drivers of what is behind a device come after the agent."""
    await settled(lambda: sh(domain, script), lambda said: said == wanted)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory whose way is open to QEMU's account, which serves 9p."""
    with tempfile.TemporaryDirectory(prefix="cs") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_what_the_guest_sees(directory: Path, shared: Path) -> None:
    server, nine = virtiofsd.program(), shared / "nine"
    if server is None or shutil.which("swtpm") is None:
        pytest.skip("needs virtiofsd and swtpm (scripts/setup.sh test)")
    fast = directory / "fast"
    for place in (nine, fast):
        place.mkdir()
        place.chmod(0o777)
        (place / "word").write_text(f"from the host, {place.name}\n")
    devices = NINE.format(dir=nine) + FAST.format(dir=fast, program=server, tag="fast") + TPM
    async with opened(directory) as (hypervisor, _):
        others = OTHERS.format(pid=os.getpid(), card=nine / "card")
        devices, wanted = devices + others, {"1af4:1110", "1af4:1054", "8086:293e", "8086:25ab"}
        if (await hypervisor.offer.binary(None)).has_device("virtio-sound-pci"):  # since QEMU 8.2
            devices, wanted = devices + "<sound model='virtio'/>", wanted | {"1af4:1059"}
        domain = await start(hypervisor, devices)
        ids = await pci(domain)
        assert wanted <= ids, ids
        await settled(lambda: sh(domain, "ls /sys/bus/virtio/drivers/virtio_crypto | grep virtio"), bool)

        memory = await sh(domain, BAR)
        assert await sh(domain, f"devmem {memory} 32 0x6c6c6568; devmem {memory} 32") == "0x6C6C6568"
        assert Path(f"/dev/shm/corral-test-{os.getpid()}").read_bytes()[:4] == b"hell"  # noqa: ASYNC240
        await says(domain, "cat /sys/class/misc/hw_random/rng_current", "virtio_rng.0")
        assert await sh(domain, "dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c") == "64"
        await _a_card_is_put_in(domain, nine / "card")

        mount = "mkdir -p /mnt/{0}; mount -t {1} {0} /mnt/{0}; cat /mnt/{0}/word; echo back >/mnt/{0}/answer"
        await says(domain, mount.format("nine", "9p"), "from the host, nine")
        await says(domain, mount.format("fast", "virtiofs"), "from the host, fast")
        assert (nine / "answer").read_text() == (fast / "answer").read_text() == "back\n"

        await says(domain, "cat /sys/class/tpm/tpm0/tpm_version_major", "2")
        state = directory / "tpm" / str(domain.uuid)
        assert [path.name for path in state.glob("tpm2-*")] == ["tpm2-00.permall"]

        started = {process.pid for process in domain.require_run().servers.values()}
        assert len(started) == 2
        await domain.destroy()
        assert not any(map(alive, started))
        await domain.undefine(DomainUndefineFlags.TPM)
        assert not state.exists()


async def _a_card_is_put_in(domain: Domain, path: Path) -> None:
    """The guest has the reader on its USB; who holds the card speaks with it (VSCard protocol: init, add a reader)."""
    await says(domain, "cat /sys/bus/usb/devices/*/product | grep CCID", "QEMU USB CCID")
    message = struct.Struct(">III")  # type, reader, bytes that follow
    with socket.socket(socket.AF_UNIX) as card, card.makefile("rb") as replies:
        card.settimeout(60)
        card.connect(str(path))
        card.sendall(message.pack(1, 0, 12) + b"VSCD" + struct.pack(">II", 2, 0))
        assert replies.read(24) == message.pack(1, 0xFFFFFFFF, 12) + b"VSCD" + struct.pack(">II", 2, 0)
        card.sendall(message.pack(3, 0, 4) + b"mine")
        assert replies.read(16) == message.pack(2, 0, 4) + bytes(4)  # no error


#: Commands of TPM 2.0 (Part 3: NV_DefineSpace, NV_Write, NV_Read) for four bytes at 0x01500001, by the owner without a
#: password; each with its tag, size and code.
NV_PLACE, NV_SESSION = "40000001", "00000009400000090000000000"
NV_DEFINE = f"8002 0000002d 0000012a {NV_PLACE} {NV_SESSION} 0000 000e 01500001 000b 00060006 0000 0004"
NV_WRITE = f"8002 00000027 00000137 {NV_PLACE} 01500001 {NV_SESSION} 0004 {b'kept'.hex()} 0000"
NV_READ = f"8002 00000023 0000014e {NV_PLACE} 01500001 {NV_SESSION} 0004 0000"


async def tpm(domain: Domain, command: str) -> bytes:
    """What the guest's TPM answers to a command, after the answer's tag, size and code, which must be success."""
    octal = "".join(f"\\{byte:03o}" for byte in bytes.fromhex(command))
    said = await sh(domain, f"exec 3<>/dev/tpm0; printf '{octal}' >&3; dd bs=4096 count=1 <&3 2>/dev/null | xxd -p")
    answer = bytes.fromhex("".join(said.split()))
    assert answer[6:10] == bytes(4), said
    return answer[10:]


@pytest.mark.slow
async def test_a_tpm_keeps_its_memory(directory: Path) -> None:
    """What a guest has written into it is there at the next start."""
    if shutil.which("swtpm") is None:
        pytest.skip("needs swtpm (scripts/setup.sh test)")
    async with opened(directory) as (hypervisor, _):
        domain = await start(hypervisor, TPM)
        await tpm(domain, NV_DEFINE)
        await tpm(domain, NV_WRITE)
        await domain.destroy()
        await domain.create()
        await booted(domain)
        assert b"kept" in await tpm(domain, NV_READ)
        await domain.destroy()
        await domain.undefine(DomainUndefineFlags.TPM)


async def test_a_directory_is_plugged(directory: Path) -> None:
    """virtiofs comes and goes with its server; one that cannot be served is refused, and nothing is left of it."""
    server = virtiofsd.program()
    if server is None:
        pytest.skip("needs virtiofsd (scripts/setup.sh test)")
    place = directory / "late"
    place.mkdir()
    (place / "word").write_text("it came late\n")
    async with opened(directory) as (hypervisor, _):
        domain = await start(hypervisor, "", machine="pc")
        before = domain.xml()
        missing = FAST.format(dir=directory / "none", program=server, tag="late")
        for xml, text in (
            (missing, "is no directory"),
            (NINE.format(dir=place), "only virtiofs filesystems can be hotplugged"),
        ):
            with pytest.raises(CorralError, match=text):
                await hotplug.attach(domain, xml, Flags.LIVE)
        assert domain.xml() == before and not domain.require_run().servers
        xml = FAST.format(dir=place, program=server, tag="late")
        await hotplug.attach(domain, xml, Flags.LIVE)
        await says(domain, "mount -t virtiofs late /mnt && cat /mnt/word", "it came late")
        await sh(domain, "umount /mnt")
        (process,) = domain.require_run().servers.values()
        await hotplug.attach(
            domain, "<crypto model='virtio' type='qemu'><backend model='builtin'/></crypto>", Flags.LIVE
        )
        await settled(lambda: pci(domain), lambda ids: "1af4:1054" in ids)
    async with opened(directory) as (hypervisor, _):  # the next daemon ends what the one before had started
        domain = hypervisor.lookup_by_name("devices")
        await hotplug.detach(domain, xml, Flags.LIVE)
        await until(
            lambda: (
                not Path(f"/proc/{process.pid}/cmdline").read_bytes() if Path(f"/proc/{process.pid}").exists() else True
            )
        )
        assert "filesystem" not in domain.xml()
        await domain.destroy()
    assert corrald.machines(directory) == []


async def test_the_watchdog_bites(directory: Path) -> None:
    """A guest that stops feeding its watchdog: the action, the event, and the action changed while it runs."""
    async with opened(directory) as (hypervisor, heard):
        domain = await start(hypervisor, "<watchdog model='i6300esb' action='reset'/>")
        await hotplug.update(domain, "<watchdog model='i6300esb' action='pause'/>", Flags.LIVE)
        assert "action='pause'" in domain.xml()
        with pytest.raises(DeviceMissing):
            await hotplug.update(domain, "<watchdog model='ib700' action='pause'/>", Flags.LIVE)
        await sh(domain, "watchdog -T 3 -t 60 /dev/watchdog")
        await until(lambda: "Watchdog" in heard.other(), seconds=60)
        await until(lambda: domain.state() == (3, 6), seconds=60)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_each_action_of_a_watchdog(directory: Path) -> None:
    """What becomes of a guest that stops feeding its watchdog, for every action there is; and the event of each."""
    async with opened(directory) as (hypervisor, heard):
        domain = await start(hypervisor, "<watchdog model='i6300esb' action='none'/>")

        async def bites(action: str) -> None:
            """Set the action, let the guest stop feeding, and wait for the event, which tells what QEMU does."""
            await hotplug.update(domain, f"<watchdog model='i6300esb' action='{action}'/>", Flags.LIVE)
            before = len(told())
            await sh(domain, "killall watchdog; sleep 0.3; watchdog -T 2 -t 60 /dev/watchdog")
            await until(lambda: len(told()) > before, seconds=60)
            assert told()[-1] == getattr(
                Actions, {"dump": "PAUSE", "inject-nmi": "INJECTNMI"}.get(action, action.upper())
            )

        def told() -> list[int]:
            return [event.action for event in heard if isinstance(event, Watchdog)]

        await bites("none")
        assert domain.state() == (DomainState.RUNNING, 1)
        assert "NMI" not in await sh(domain, "dmesg | grep -i 'nmi received'")
        await bites("inject-nmi")
        assert "NMI" in await sh(domain, "sleep 0.5; dmesg | grep -i 'nmi received'")
        for number in (1, 2, 3):
            before = len(heard.lifecycle())
            await bites("dump")  # told before the machine stops
            await until(lambda: len(heard.lifecycle()) == before + 2 and domain.jobs.holder is None, seconds=60)  # noqa: B023
            assert domain.state()[0] == DomainState.RUNNING
            kept = sorted(hypervisor.settings.dumps.iterdir())
            newest = range(max(1, number - dumps.KEPT + 1), number + 1)
            assert [path.name for path in kept] == [f"{domain.name}-{domain.uuid}-{each}.core" for each in newest]
            assert all(path.read_bytes()[:4] == b"\x7fELF" for path in kept)
        assert await sh(domain, "echo it goes on") == "it goes on"
        await bites("pause")
        await until(lambda: domain.state() == (DomainState.PAUSED, 6))
        await domain.resume()
        boot = await sh(domain, "cat /proc/sys/kernel/random/boot_id")
        await bites("reset")
        await booted(domain)
        assert await sh(domain, "cat /proc/sys/kernel/random/boot_id") != boot
        # QEMU carries out a power-off by ending without another word, and libvirtd, too, takes that for a failure.
        for action, detail in (("shutdown", 0), ("poweroff", 5)):
            await bites(action)
            await until(lambda: not domain.active, seconds=60)
            assert heard.lifecycle()[-1] == ("stopped", detail), action
            await domain.create()
            await booted(domain)
        await domain.destroy()


async def test_the_guests_kernel_panics(directory: Path) -> None:
    """A real panic, told through the machine's device for it."""
    async with opened(directory) as (hypervisor, heard):
        domain = await start(hypervisor, "<panic model='pvpanic'/>")
        await settled(lambda: sh(domain, "ls /sys/bus/pci/drivers | grep pvpanic"), bool)
        with contextlib.suppress(CorralError):  # its agent does not live to tell that it was asked
            await agent(domain, "guest-exec", path="/bin/sh", arg=["-c", "sleep 0.2; echo c >/proc/sysrq-trigger"])
        await until(lambda: not domain.active, seconds=60)
        assert ("crashed", 0) in heard.lifecycle()
        assert domain.state() == (DomainState.SHUTOFF, DomainShutoffReason.CRASHED)
