"""The helper that makes persistent reservations of SCSI devices for a machine: QEMU itself may not.

One `qemu-pr-helper` a machine, with our rights, on a socket in the machine's directory that we make and QEMU may
connect to. It outlives us as its machine does, is found again by its name and working directory, is started anew when
it dies, and ends with the machine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, CorralError, HostError
from corral.qemu.devices.storage import HELPER_SOCKET
from corral.qemu.process import Process, find_by_marker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device

log = logging.getLogger(__name__)

PROGRAM = "qemu-pr-helper"
PLACES = (f"/usr/bin/{PROGRAM}", f"/usr/libexec/{PROGRAM}", f"/usr/lib/qemu/{PROGRAM}")
#: Seconds before a helper that has died is started again: one that cannot run shall not keep the host busy.
PAUSE = 1.0

#: The socket is handed over as by systemd (sd_listen_fds(3)): as descriptor 3, with the number of the process.
_HAND_OVER = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], [sys.argv[2]])
"""


def find() -> str | None:
    """The program, or None when this host has none."""
    return shutil.which(PROGRAM) or next((place for place in PLACES if os.access(place, os.X_OK)), None)


def wanted(devices: Iterable[Device]) -> bool:
    """Whether one of the devices has reservations that we manage."""
    from corral.model.devices.disk import Disk

    return any(
        isinstance(each, Disk)
        and each.source is not None
        and each.source.reservations is not None
        and each.source.reservations.managed == "yes"
        for each in devices
    )


async def ensure(domain: Domain, run: Run) -> None:
    """Start the helper unless it runs; QEMU can connect when this returns. Raises ConfigUnsupported without it."""
    if run.reservations is None or run.reservations.ended:
        run.reservations = await _start(domain, run)
        _watch(domain, run, run.reservations)


def _watch(domain: Domain, run: Run, helper: Process) -> None:
    def ended() -> None:
        if domain.run is run and not run.ending and run.reservations is helper and not domain.hypervisor.closing:
            domain.hypervisor.spawn(_again(domain, run))

    helper.on_end(ended)


async def _again(domain: Domain, run: Run) -> None:
    log.warning("domain %s: %s has died and is started again", domain.name, PROGRAM)
    await asyncio.sleep(PAUSE)
    try:
        if domain.run is run and not run.ending:
            await ensure(domain, run)
        if run.ended.is_set():  # in the meantime, and nobody else ends what has just been started
            await end(run)
    except CorralError:
        log.exception("domain %s: %s cannot be started again", domain.name, PROGRAM)


async def _start(domain: Domain, run: Run) -> Process:
    program = find()
    if program is None:
        raise ConfigUnsupported(f"there is no {PROGRAM} for <reservations managed='yes'/>", hint="install QEMU's")
    path = run.directory / HELPER_SOCKET
    account = domain.hypervisor.account
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            if account is not None:
                os.chown(path, account.uid, account.gid)
            listener.listen(16)
            command = [sys.executable, "-I", "-S", "-c", _HAND_OVER, str(listener.fileno()), program]
            return await Process.spawn(command, log=run.log, pass_fds=(listener.fileno(),), cwd=run.directory)
    except OSError as error:
        raise HostError(f"cannot make {path}: {error.strerror}") from error


async def adopt(domain: Domain, run: Run) -> None:
    """Take up the helper of a machine that was found again; one that has died meanwhile is started."""
    if not wanted(run.live.document.devices.disks):
        return
    for helper in await _found(run.directory):
        run.reservations = helper
        _watch(domain, run, helper)
        return
    await ensure(domain, run)


async def _found(directory: Path) -> list[Process]:
    found = []
    for pid, start_time in await asyncio.to_thread(find_by_marker, PROGRAM, cwd=directory):
        try:
            found.append(Process.adopt(pid, start_time))
        except HostError:
            continue
    return found


async def end(run: Run) -> None:
    """The machine is gone, and its helper goes."""
    helper, run.reservations = run.reservations, None
    if helper is not None and not helper.ended:
        helper.kill()
        try:
            await helper.wait(5)
        except TimeoutError:
            log.warning("%s with process id %d does not end", PROGRAM, helper.pid)


async def sweep(directory: Path) -> None:
    """End the helper of a start that was never acknowledged."""
    for helper in await _found(directory):
        helper.kill()
        helper.close()
