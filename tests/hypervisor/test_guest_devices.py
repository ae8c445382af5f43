"""Devices as the guest sees them: directories of the host, a TPM with its memory, shared memory, crypto, a watchdog."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.constants import DomainDeviceModifyFlags as Flags
from corral.constants import DomainUndefineFlags
from corral.errors import CorralError, DeviceMissing
from corral.guests import tiny
from corral.hypervisor.domain import Domain
from corral.hypervisor.hotplug import hotplug
from corral.hypervisor.hypervisor import Hypervisor
from labs import corrald, virtiofsd

from .inside import booted, sh
from .life import end_machines, opened, until

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
NINE = "<filesystem accessmode='mapped'><source dir='{dir}'/><target dir='nine'/></filesystem>"
FAST = """<filesystem><driver type='virtiofs'/><binary path='{program}'><sandbox mode='chroot'/></binary>
  <source dir='{dir}'/><target dir='{tag}'/></filesystem>"""
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
OTHERS = """<shmem name='corral-test-{pid}' role='peer'><model type='ivshmem-plain'/><size unit='M'>2</size></shmem>
  <crypto model='virtio' type='qemu'><backend model='builtin' queues='1'/></crypto>
  <sound model='ich9'/><hub type='usb'/><watchdog model='i6300esb' action='pause'/>"""


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
        devices, wanted = devices + OTHERS.format(pid=os.getpid()), {"1af4:1110", "1af4:1054", "8086:293e", "8086:25ab"}
        if (await hypervisor.offer.binary(None)).has_device("virtio-sound-pci"):  # since QEMU 8.2
            devices, wanted = devices + "<sound model='virtio'/>", wanted | {"1af4:1059"}
        domain = await start(hypervisor, devices)
        ids = await pci(domain)
        assert wanted <= ids, ids
        assert await sh(domain, "ls /sys/bus/virtio/drivers/virtio_crypto | grep virtio") != ""

        mount = "mkdir -p /mnt/{0}; mount -t {1} {0} /mnt/{0}; cat /mnt/{0}/word; echo back >/mnt/{0}/answer"
        assert await sh(domain, mount.format("nine", "9p")) == "from the host, nine"
        assert await sh(domain, mount.format("fast", "virtiofs")) == "from the host, fast"
        assert (nine / "answer").read_text() == (fast / "answer").read_text() == "back\n"

        assert await sh(domain, "cat /sys/class/tpm/tpm0/tpm_version_major") == "2"
        state = directory / "tpm" / str(domain.uuid)
        assert [path.name for path in state.glob("tpm2-*")] == ["tpm2-00.permall"]

        started = {process.pid for process in domain.require_run().servers.values()}
        assert len(started) == 2
        await domain.destroy()
        assert not any(map(alive, started))
        await domain.undefine(DomainUndefineFlags.TPM)
        assert not state.exists()


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
        tries = "for i in $(seq 100); do mount -t virtiofs late /mnt 2>/dev/null && break; usleep 50000; done"
        assert await sh(domain, f"{tries}; cat /mnt/word") == "it came late"
        await sh(domain, "umount /mnt")
        (process,) = domain.require_run().servers.values()
        await hotplug.attach(
            domain, "<crypto model='virtio' type='qemu'><backend model='builtin'/></crypto>", Flags.LIVE
        )
        assert "1af4:1054" in await pci(domain)
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
        await until(lambda: "Watchdog" in heard.other(), seconds=30)
        await until(lambda: domain.state() == (3, 6), seconds=10)
