"""Files that QEMU was told to forget and has yet: those of a machine that does not run are closed when it does.

QEMU 7.2 closes a set of descriptors (`remove-fd`) only while the machine runs, and keeps it otherwise until it is told
again. Numbers of sets are never given twice in one run, so that what is told late hits nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from corral.qemu import descriptors
from corral.qemu.monitor import MonitorCommandFailed

if TYPE_CHECKING:
    from corral.hypervisor.run import Run
    from corral.qemu.machine import Machine


async def note(run: Run, machine: Machine, numbers: Iterable[int]) -> None:
    """Note which of the sets that were just removed are still there."""
    if wanted := set(numbers):
        run.kept_files |= wanted & await _sets(machine)


async def close(run: Run) -> None:
    """Tell QEMU again: the machine runs."""
    while run.kept_files and run.machine is not None:
        await remove(run.machine, "remove-fd", {"fdset-id": run.kept_files.pop()})


async def take_up(run: Run, machine: Machine) -> None:
    """Find what an earlier daemon had removed, and keep clear of all numbers that are taken."""
    there = await _sets(machine)
    run.next_node = max(run.next_node, *(number + 1 for number in there), 0)
    if there:
        nodes = await machine.monitor.execute("query-named-block-nodes", {"flat": True})
        run.kept_files = there - {number for node in nodes for number in descriptors.sets_in(str(node.get("file")))}
    if run.kept_files and await machine.status() == "running":
        await close(run)


async def _sets(machine: Machine) -> set[int]:
    """The sets of images that QEMU has."""
    sets = {int(each["fdset-id"]) for each in await machine.monitor.execute("query-fdsets")}
    return {number for number in sets if number < descriptors.FIRMWARE_SETS[0]}


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
