"""Files that QEMU was told to forget and has yet: those of a machine that does not run are closed when it does.

QEMU 7.2 closes a set of descriptors (`remove-fd`) only while the machine runs, and keeps it otherwise until it is told
again. A set that a block node has open is none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from corral.errors import CorralError
from corral.qemu import descriptors
from corral.qemu.monitor import MonitorCommandFailed

if TYPE_CHECKING:
    from corral.hypervisor.run import Run
    from corral.qemu.machine import Machine

log = logging.getLogger(__name__)


async def note(run: Run, machine: Machine, numbers: Iterable[int]) -> None:
    """Note which of the sets that were just removed are still there."""
    if wanted := set(numbers):
        run.kept_files |= wanted & await _sets(machine)


async def close(run: Run) -> None:
    """Tell QEMU again: the machine runs. What could not be told is logged, and is told when it runs the next time."""
    try:
        machine = run.require_machine()
        run.kept_files -= await _open(machine)  # whose number was given again
        for number in sorted(run.kept_files):
            await remove(machine, "remove-fd", {"fdset-id": number})
            run.kept_files.discard(number)
    except CorralError as error:
        log.warning("%s: its QEMU keeps files that it was to close: %s", run.directory, error)


async def take_up(run: Run, machine: Machine) -> None:
    """Find what an earlier daemon had removed, and keep clear of all numbers that are taken."""
    images = {number for number in await _sets(machine) if number < descriptors.FIRMWARE_SETS[0]}
    run.next_node = max(run.next_node, *(number + 1 for number in images), 0)
    if images:
        run.kept_files |= images - await _open(machine)
    if run.kept_files and await machine.status() == "running":
        await close(run)


async def _sets(machine: Machine) -> set[int]:
    """The sets that QEMU has."""
    return {int(each["fdset-id"]) for each in await machine.monitor.execute("query-fdsets")}


async def _open(machine: Machine) -> set[int]:
    """The sets that block nodes have open."""
    nodes = await machine.monitor.execute("query-named-block-nodes", {"flat": True})
    return {number for node in nodes for number in descriptors.sets_in(str(node.get("file")))}


async def remove(machine: Machine, command: str, arguments: Mapping[str, Any]) -> None:
    """Take a part out of QEMU; that it is not there is no error."""
    try:
        await machine.monitor.execute(command, arguments)
    except MonitorCommandFailed as error:
        if not missing(error):
            raise


def missing(error: MonitorCommandFailed) -> bool:
    """Whether QEMU refused because it has no such thing."""
    text = error.description
    return error.error_class == "DeviceNotFound" or "not found" in text or "Failed to find" in text
