"""The guest's memory in a file, where its document orders that when it crashes or hangs.

A guest can bring that about as often as it likes, and the store lies on the same file system: the last few of a domain
are kept, and none is begun for which there is no room.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import CorralError, HostError

if TYPE_CHECKING:
    from uuid import UUID

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run

log = logging.getLogger(__name__)

#: How many of a domain are kept, the newest one among them.
KEPT = 2
#: Bytes that are left free: for the dump's own headers and the guest's screen, and for the store.
MARGIN = 512 << 20
#: Seconds that QEMU gets to write one.
TIMEOUT = 600.0


async def write(domain: Domain, run: Run) -> None:
    """Write one, in the job slot, which the caller holds; a failure is logged, and leaves no file."""
    from corral.qemu import guest_memory

    document = run.live.document
    size = (guest_memory.size_kib(document) + guest_memory.modules_kib(document)) * 1024
    try:
        path = await asyncio.to_thread(place, domain.hypervisor.settings.dumps, domain.name, domain.uuid, size)
        await _fill(run, path)
    except (CorralError, OSError) as error:
        log.error("domain %s: cannot dump the guest's memory: %s", domain.name, error)
    else:
        log.warning("domain %s: the guest's memory is in %s", domain.name, path)


async def _fill(run: Run, path: Path) -> None:
    monitor = run.require_machine().monitor
    descriptor = _create(path)
    try:
        try:
            await monitor.execute("getfd", {"fdname": "dump"}, descriptor=descriptor)
        finally:
            os.close(descriptor)
        await monitor.execute("dump-guest-memory", {"paging": False, "protocol": "fd:dump"}, timeout=TIMEOUT)
    except BaseException:
        await asyncio.to_thread(path.unlink, missing_ok=True)  # it may be as large as the guest: that takes a while
        raise


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def place(directory: Path, name: str, uuid: UUID, size: int) -> Path:
    """Where the next one of a domain goes, with room for `size` bytes; what is too many then is removed.

    HostError when there is no room: nothing is removed.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = {
        int(match[1]): path for path in directory.iterdir() if (match := re.search(rf"-{uuid}-(\d+)\.core$", path.name))
    }
    old = [found[number] for number in sorted(found)[: 1 - KEPT]]
    there = os.statvfs(directory)
    free = there.f_bavail * there.f_frsize + sum(path.stat().st_blocks * 512 for path in old)
    if free < size + MARGIN:
        raise HostError(
            f"{directory} has {free >> 20} MiB left, and {(size + MARGIN) >> 20} MiB are needed",
            hint="remove old dumps, or give the state directory more room",
        )
    for path in old:
        path.unlink(missing_ok=True)
    return directory / f"{name}-{uuid}-{max(found, default=0) + 1}.core"
