"""Plans meet the installed QEMU: every golden document starts paused, and parts can be plugged and taken out again."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.errors import ConfigUnsupported, HostError
from corral.host.firmware import descriptors
from corral.model.devices.device import Device
from corral.model.domain import Domain
from corral.qemu.binary import Binary, find_emulators, probe
from corral.qemu.defaults import Host, complete
from corral.qemu.descriptors import opened
from corral.qemu.machine import Listener, Machine
from corral.qemu.monitor import MonitorEvent
from corral.qemu.plan import GraphicsPorts, Plan, Runtime, device_parts, plan, settle
from corral.qemu.render import argv, attach, detach

pytestmark = pytest.mark.qemu

GOLDEN = Path(__file__).parent / "golden"
#: What is outside: images on other machines (tests/guests/test_passthrough.py has their servers), and the host's ends
#: of network cards (tests/guests/test_networks.py makes them), and a USB device of the host.
ELSEWHERE = {"disk-sources", "q35-devices", "q35-network-cards"}
NAMES = sorted(path.stem for path in GOLDEN.glob("*.xml") if "." not in path.stem and path.stem not in ELSEWHERE)


_LISTENERS: list[socket.socket] = []


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Binary:
    """The host's own QEMU."""
    return asyncio.run(probe(find_emulators()[0], tmp_path_factory.mktemp("facts")))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on a disk (direct I/O does not work everywhere else) with a short name."""
    with tempfile.TemporaryDirectory(prefix="cr", dir="/var/tmp") as directory:
        yield Path(directory)


def read(text: str, place: Path) -> Domain:
    """The document with its images made at `place`, and free ports."""
    for name in sorted(set(re.findall(r"/images/([\w.-]+)", text))):
        make_image(place / name)
    text = text.replace("/images/", f"{place}/").replace("service='4555'", f"service='{free_port()}'")
    text = text.replace("service='4001'", f"service='{somebody_listens()}'")
    return Domain.from_xml(text)


@functools.cache
def somebody_listens() -> int:
    """A port at which a connection is taken, as long as the tests run."""
    listener = socket.create_server(("127.0.0.1", 0))
    _LISTENERS.append(listener)
    return int(listener.getsockname()[1])


def make_image(path: Path) -> None:
    match path.suffix:
        case ".qcow2":
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        case ".raw":
            path.write_bytes(bytes(1 << 20))
        case _ if path.name == "vmlinuz":
            header = bytearray(1 << 16)
            header[0x1F1], header[0x202:0x208], header[0x22C:0x230] = 4, b"HdrS\x0c\x02", b"\xff\xff\xff\x37"
            path.write_bytes(header)
        case _ if path.name == "initrd":
            path.write_bytes(b"nothing")
        case _ if path.name == "nssdb":
            make_certificates(path)
        case _ if path.name == "pipe":
            subprocess.run(["mkfifo", path], check=True)


def make_certificates(path: Path) -> None:
    """A database of NSS's with three certificates."""
    path.mkdir()
    noise = path / "noise"
    noise.write_bytes(bytes(range(200)))
    certutil = ["certutil", "-d", f"sql:{path}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    for name in ("one", "two", "three"):
        words = ["-S", "-x", "-n", name, "-s", f"CN={name}", "-t", "CT,CT,CT", "-z", str(noise)]
        subprocess.run([*certutil, *words], check=True, capture_output=True)


def free_port(first: int = 0) -> int:
    for port in range(first, 65536) if first else (0,):
        with socket.socket() as probe_socket:
            try:
                probe_socket.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe_socket.getsockname()[1])
    raise AssertionError("no free port")


def completed(document: Domain, binary: Binary, place: Path) -> Domain:
    """The document as defined on this host; skips what this host has no firmware or module for."""
    host = Host(kvm=False, firmwares=descriptors(), nvram_dir=place)
    try:
        full = complete(document, binary, host)
    except ConfigUnsupported as error:
        if "firmware" in str(error) or "spice" in str(error) or "qxl" in str(error):
            pytest.skip(f"this host cannot: {error}")
        raise
    if full.os.nvram is not None and full.os.nvram.path is not None and full.os.nvram.template is not None:
        shutil.copy(full.os.nvram.template, full.os.nvram.path)
    return full


@asynccontextmanager
async def running(planned: Plan, listener: Listener, place: Path) -> AsyncIterator[tuple[Machine, list[MonitorEvent]]]:
    """The machine of a plan, paused, and its events."""
    events: list[MonitorEvent] = []
    async with opened(planned.parts) as fds:
        machine = await Machine.start(
            argv(planned, fds),
            name="test",
            listener=listener,
            log=place / "qemu.log",
            cwd=place,
            pass_fds=(*planned.fds, *fds.values()),
            on_event=events.append,
        )
    try:
        yield machine, events
    finally:
        await machine.kill()
        await machine.close()


@pytest.mark.parametrize("name", NAMES)
async def test_starts_paused(name: str, installed: Binary, place: Path) -> None:
    if name == "sound" and not installed.has_device("virtio-sound-pci"):
        pytest.skip(f"'{installed.path}' has no virtio sound card (QEMU 8.2 brought it)")
    if name == "iommu-many-vcpus" and "x2apic" not in installed.available_features("tcg"):
        pytest.skip(f"the software emulation of '{installed.path}' knows no x2APIC, which so many vCPUs need")
    text = (GOLDEN / f"{name}.xml").read_text()
    full = completed(read(text, place), installed, place)
    with Listener(place / "monitor") as listener:
        ports = {0: GraphicsPorts(port=free_port(5990))}
        planned = plan(full, installed, Runtime(accel="tcg", run_dir=place, monitor_fd=listener.fd, graphics=ports))
        if name == "host-devices" and not (lent := Path("/dev/bus/usb/001/004")).exists():
            with pytest.raises(HostError, match=f"'{lent}': No such file"):
                async with running(planned, listener, place):
                    pass
            return
        async with running(planned, listener, place) as (machine, _):
            for command, arguments in planned.setup:
                await machine.monitor.execute(command, arguments)
            assert await machine.status() == "prelaunch"
            known = await machine.monitor.execute("qom-list", {"path": "/machine/peripheral"})
            assert isinstance(known, list)
            names = {entry["name"] for entry in known}
            devices = {part.id: "failover_pair_id" in part.props for part in planned.parts if part.kind == "device"}
            hidden = {device for device, waits in devices.items() if waits}  # until its partner's driver asks for it
            assert devices.keys() & names == devices.keys() - hidden


PLUGGED = {
    "disk": "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/images/new.qcow2'/>"
    "<target dev='vdb' bus='virtio'/></disk>",
    "scsi-disk": "<disk type='file'><source file='/images/new.raw'/><target dev='sdb' bus='scsi'/></disk>",
    "scsi-cdrom": "<disk device='cdrom'><source file='/images/new.raw'/><target dev='sdc' bus='scsi'/></disk>",
    "usb-disk": "<disk type='file' device='disk'><source file='/images/new.raw'/><target dev='sdd' bus='usb'/></disk>",
    "interface": "<interface type='user'><model type='virtio'/></interface>",
    "e1000e": "<interface type='user'><model type='e1000e'/></interface>",
    "tablet": "<input type='tablet' bus='usb'/>",
    "keyboard": "<input type='keyboard' bus='virtio'/>",
    "channel": "<channel type='unix'><target type='virtio' name='org.example.0'/></channel>",
    "rng": "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "usb-sound": "<sound model='usb'/>",
    "usb-serial": "<serial type='pty'><target type='usb-serial'/></serial>",
    "hub": "<hub type='usb'/>",
    "watchdog": "<watchdog model='i6300esb'/>",
}

BASE = """
<domain type='qemu'>
  <name>plug</name>
  <memory unit='MiB'>128</memory>
  <os><type machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='virtio-serial'/>
    <serial type='null'/>
    {device}
  </devices>
</domain>
"""


def newest(live: Domain, family: str) -> Device:
    """The device under test: the last of its family in the document, or the one that its text names."""
    devices = live.devices
    match family:
        case "disk" | "scsi-disk" | "scsi-cdrom" | "usb-disk":
            return devices.disks[-1]
        case "interface" | "e1000e":
            return devices.interfaces[-1]
        case "tablet" | "keyboard":
            return next(device for device in devices.inputs if device.bus != "ps2")
        case "channel":
            return devices.channels[-1]
        case "rng":
            return devices.rngs[-1]
        case "usb-sound":
            return devices.sounds[-1]
        case "usb-serial":
            return devices.serials[-1]
        case "hub":
            return devices.hubs[-1]
    return next(device for device in devices.watchdogs if device.model != "itco")


async def deleted(device: str, events: list[MonitorEvent], machine: Machine) -> None:
    """Wait for the device to go; one without a system lets go of its PCI devices at a reset."""
    for attempt in range(6000):
        if any(event.name == "DEVICE_DELETED" and event.data.get("device") == device for event in events):
            return
        if attempt % 1000 == 20:
            await machine.system_reset()
        await asyncio.sleep(0.01)
    raise AssertionError(f"{device} was not deleted")


@pytest.mark.parametrize("family", PLUGGED)
async def test_plug_and_undo(family: str, installed: Binary, place: Path) -> None:
    full = completed(read(BASE.format(device=PLUGGED[family]), place), installed, place)
    with Listener(place / "monitor") as listener:
        runtime = Runtime(accel="tcg", run_dir=place, monitor_fd=listener.fd)
        live = settle(full, runtime)
        parts = device_parts(live, newest(live, family), installed, runtime)
        planned = plan(live, installed, runtime)
        assert parts and all(part in planned.parts for part in parts), "a hotplug and a start differ"
        rest = tuple(part for part in planned.parts if part not in parts)
        async with running(dataclasses.replace(planned, parts=rest), listener, place) as (machine, events):
            await machine.cont()  # QEMU 7.2 closes a file that it is to forget only while the machine runs
            before = await nodes_and_chardevs(machine)
            for _ in range(2):
                async with opened(parts) as fds:
                    for command, arguments in attach(parts):
                        fd = fds[str(arguments["fdset-id"])] if command == "add-fd" else None
                        await machine.monitor.execute(command, arguments, descriptor=fd)
                for command, arguments in detach(parts):
                    await machine.monitor.execute(command, arguments)
                    if command == "device_del":
                        await deleted(arguments["id"], events, machine)
                events.clear()
            assert await nodes_and_chardevs(machine) == before


async def nodes_and_chardevs(machine: Machine) -> tuple[object, ...]:
    nodes = await machine.monitor.execute("query-named-block-nodes", {"flat": True})
    chardevs = await machine.monitor.execute("query-chardev")
    objects = await machine.monitor.execute("qom-list", {"path": "/objects"})
    assert isinstance(nodes, list) and isinstance(chardevs, list) and isinstance(objects, list)
    return (
        sorted(node["node-name"] for node in nodes),
        sorted(chardev["label"] for chardev in chardevs),
        sorted(entry["name"] for entry in objects),
        sorted(entry["fdset-id"] for entry in await machine.monitor.execute("query-fdsets")),
    )
