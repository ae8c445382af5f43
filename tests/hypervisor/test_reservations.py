"""The helper for persistent reservations, as QEMU's own manager meets it: no SCSI device is needed for that."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest
from tests.hypervisor import life
from tests.waiting import until

from corral.hypervisor.disks import reservations
from corral.hypervisor.domain import Domain
from corral.model.devices.disk import Disk
from corral.qemu.devices.storage import HELPER_SOCKET

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which(reservations.PROGRAM) is None, reason="there is no qemu-pr-helper"),
]

LUN = (
    "<disk type='block' device='lun'><source dev='/dev/sdz'><reservations managed='{}'>{}</reservations></source>"
    "<target dev='sda' bus='scsi'/></disk>"
)


def test_who_wants_it() -> None:
    own = Disk.from_xml(LUN.format("no", "<source type='unix' path='/run/x.sock' mode='client'/>"))
    assert reservations.wanted([Disk.from_xml(LUN.format("yes", ""))])
    assert not reservations.wanted([own])


async def test_helper(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU connects; a helper that dies is started again; another daemon takes it up; it ends with the machine."""
    monkeypatch.setattr(reservations, "PAUSE", 0.0)
    try:
        async with life.opened(short_path) as (hypervisor, _):
            domain = await hypervisor.define(life.document("a"))
            await domain.create()
            run = domain.require_run()
            await reservations.ensure(domain, run)
            first = run.reservations
            assert first is not None
            await reservations.ensure(domain, run)
            assert run.reservations is first
            assert await connected(domain, "one")
            os.kill(first.pid, signal.SIGKILL)
            await until(lambda: run.reservations is not first)
            assert await connected(domain, "two")
            pid = run.reservations.pid
        async with life.opened(short_path) as (hypervisor, _):
            domain = hypervisor.lookup_by_name("a")
            run = domain.require_run()
            monkeypatch.setattr(reservations, "wanted", lambda devices: True)
            await reservations.adopt(domain, run)
            assert run.reservations is not None and run.reservations.pid == pid
            await domain.destroy()
            await until(lambda: not Path(f"/proc/{pid}").exists())
    finally:
        life.end_machines(short_path)


async def connected(domain: Domain, name: str) -> bool:
    """Whether a new manager of QEMU's reaches the helper."""
    ask = domain.require_run().require_machine().monitor.execute
    await ask("object-add", {"qom-type": "pr-manager-helper", "id": name, "path": HELPER_SOCKET})
    async with asyncio.timeout(60):
        while True:
            found = {each["id"]: each["connected"] for each in await ask("query-pr-managers")}
            if found[name]:
                return True
            await asyncio.sleep(0.02)
