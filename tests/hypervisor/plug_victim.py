"""A daemon that changes a machine's devices and dies by SIGKILL before one of the monitor's commands or the store's.

`plug_victim.py DIRECTORY CACHE CALL N`: starts the machine of `machine.xml`, does CALL with the device of `device.xml`,
dies before its Nth step (of the start, if CALL is that); prints `acknowledged` when the call came back first, and dies
then. What QEMU had before the device came is left in `before.json`, with the document's aliases and the files of the
machine's directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hypervisor import plugs
from tests.hypervisor.test_hotplug import LIVE, taken_out

from corral.errors import OperationTimeout, OperationUnsupported
from corral.hypervisor.devices import links, servers
from corral.hypervisor.hotplug import hotplug, unplug
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.settings import Settings
from corral.hypervisor.store import Store
from corral.qemu.monitor import Monitor


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: int) -> None:
    """Make the Nth step from now deadly: commands of the monitor, but a person's, transactions of the store, and when
    a program beside QEMU runs that nobody knows of yet.
    """
    count = 0

    def deadly(original: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += args[1:2] != ("human-monitor-command",)
            if count == step:
                die()
            return original(*args, **kwargs)

        return run

    for place, name in ((Monitor, "execute"), (Store, "_transaction"), (servers, "_note"), (links, "watch_passt")):
        setattr(place, name, deadly(getattr(place, name)))


async def main(directory: Path, cache: Path, call: str, step: int) -> None:
    hypervisor = await Hypervisor.open(replace(Settings.under(directory), cache=cache))
    await hypervisor.define((directory / "machine.xml").read_text())
    domain = hypervisor.lookup_by_name("a")
    if call == "start":
        arm(step)
        await domain.create()
        print("acknowledged", flush=True)
        die()
    await domain.create()
    await domain.suspend()  # firmware that scans the bus moves trays
    view, files = await plugs.view(domain), domain.require_run().directory.iterdir()
    before = {"view": view, "devices": view["devices"], "aliases": plugs.ALIAS.findall(domain.xml())}
    (directory / "before.json").write_text(json.dumps({**before, "files": sorted(path.name for path in files)}))
    xml = (directory / "device.xml").read_text()
    if call != "plug":
        await hotplug.attach(domain, xml, LIVE)
    arm(step)
    match call:
        case "plug":
            await hotplug.attach(domain, xml, LIVE)
        case "unplug":
            await taken_out(domain, xml, LIVE)
        case "refused":  # by a guest that does not answer
            unplug.UNPLUG_TIMEOUT = 1.0
            with contextlib.suppress(OperationTimeout, OperationUnsupported):  # QEMU 7.2 lets no virtio-mem go
                await hotplug.detach(domain, xml, LIVE)
        case "media":
            await hotplug.update(domain, plugs.drive(directory / "other.img"), LIVE)
    print("acknowledged", flush=True)
    die()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
