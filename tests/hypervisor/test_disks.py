"""Disks of machines without an operating system: images that are missing, limits of drives that are empty."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.hypervisor import life, plugs

from corral.constants import DomainDeviceModifyFlags as Flags
from corral.constants import DomainStatsTypes
from corral.errors import HostError, XMLError
from corral.hypervisor.disks import media, throttling
from corral.hypervisor.events import DiskChange
from corral.hypervisor.hotplug import hotplug

pytestmark = pytest.mark.qemu

SCSI = "<controller type='scsi' model='virtio-scsi'/>"


def drive(path: Path, policy: str, target: str = "sda", device: str = "cdrom") -> str:
    return (
        f"<disk type='file' device='{device}'><source file='{path}' startupPolicy='{policy}'/>"
        f"<target dev='{target}' bus='scsi'/></disk>"
    )


async def test_missing_images(short_path: Path) -> None:
    """What may be missing is left out and told of; what may not keeps the machine from starting."""
    gone, lost = short_path / "gone.iso", short_path / "lost.img"
    try:
        async with life.opened(short_path) as (hypervisor, heard):
            devices = SCSI + drive(gone, "optional") + drive(lost, "optional", "sdb", "disk")
            domain = await hypervisor.define(life.document("a", devices=devices))
            await domain.create()
            told = [event for event in heard if isinstance(event, DiskChange)]
            assert [(each.dev_alias, each.old_src_path, each.new_src_path, each.reason) for each in told] == [
                ("scsi0-0-0-0", str(gone), None, 0),
                ("scsi0-0-0-1", str(lost), None, 1),
            ]
            disks = domain.require_run().live.document.devices.disks
            assert [(disk.target.dev, disk.source) for disk in disks] == [("sda", None)]
            assert domain.config is not None and {str(gone), str(lost)} <= set(domain.config.secure_xml.split("'"))
            await domain.destroy()
            gone.write_bytes(bytes(4096))
            lost.write_bytes(bytes(4096))
            await domain.create()
            assert len(domain.require_run().live.document.devices.disks) == 2
            await domain.destroy()
            gone.unlink()
            for policy in ("mandatory", "requisite"):
                other = await hypervisor.define(life.document(f"b{policy}", devices=SCSI + drive(gone, policy)))
                with pytest.raises(HostError, match="No such file"):
                    await other.create()
            with pytest.raises(XMLError, match="allowed only for cdrom"):
                await hypervisor.define(life.document("c", devices=SCSI + drive(gone, "requisite", device="disk")))
            with pytest.raises(HostError, match="No such file"):
                await domain.create()
                await hotplug.attach(domain, drive(gone, "optional", "sdc", "disk"), Flags.LIVE)
    finally:
        life.end_machines(short_path)


async def test_limits_of_an_empty_drive(short_path: Path) -> None:
    """They hold from the moment that a medium is in it."""
    medium = short_path / "one.iso"
    medium.write_bytes(b"1" * 4096)
    try:
        async with life.opened(short_path) as (hypervisor, _):
            domain = await hypervisor.define(life.document("a", devices=SCSI + plugs.drive(None)))
            await domain.create(1)  # paused: firmware that scans the bus closes trays
            await throttling.limit(domain, "sda", {"total_bytes_sec": 4096}, 1)
            await hotplug.update(domain, plugs.drive(medium), Flags.LIVE)
            machine = domain.require_run().require_machine()
            told = await media.block_of(machine, "scsi0-0-0-0")
            assert told is not None and told["inserted"]["bps"] == 4096
            figures = {name: value for name, _, value in await throttling.limits(domain, "sda", 1)}
            assert figures["total_bytes_sec"] == 4096
            await throttling.limit(domain, "sda", {"total_bytes_sec": 0}, 1)
            assert "<iotune>" not in domain.xml()
    finally:
        life.end_machines(short_path)


async def test_how_far_an_image_is_written(short_path: Path) -> None:
    """Told of its file, which is what may run full, and not of the guest's disk; an empty drive has nothing to tell."""
    image = short_path / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True, timeout=60)  # noqa: ASYNC221
    empty = "<disk type='file' device='cdrom'><target dev='sdb' bus='scsi'/></disk>"
    devices = SCSI + plugs.disk(image, "sda", "scsi", kind="qcow2") + empty
    try:
        async with life.opened(short_path) as (hypervisor, _):
            domain = await hypervisor.define(life.document("a", devices=devices))
            await domain.create()
            await domain.monitor_command('qemu-io -d /machine/peripheral/scsi0-0-0-0 "write 4096 65536"', 1)
            told = {name: value for name, _, value in await domain.stats(DomainStatsTypes.BLOCK)}
            # A cluster each of header, reference table and counts, and first table go before the guest's own.
            assert told["block.0.allocation"] > 4 * 65536 + 4096
            assert told["block.0.capacity"] == 1 << 20 and "block.1.allocation" not in told
            await domain.destroy()
    finally:
        life.end_machines(short_path)
