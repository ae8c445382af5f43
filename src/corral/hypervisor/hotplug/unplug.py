"""Taking a device out of a running machine: the guest is asked, and has the last word until it lets go.

QEMU tells DEVICE_DELETED when the guest has let go. Until then the device is in the machine and in its document, and
the unplug can be tried again; one that comes after we gave up waiting is carried through all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from corral.constants import DomainState
from corral.errors import CorralError, OperationAborted, OperationFailed, OperationTimeout, OperationUnsupported
from corral.hypervisor import events
from corral.hypervisor.devices import lending, links, servers
from corral.hypervisor.disks import images
from corral.hypervisor.guest import guest_agent
from corral.hypervisor.hotplug import answers, connecting, kept_files
from corral.hypervisor.hotplug.device_changes import Change, Edit, Note, machinery, names, write
from corral.hypervisor.memory import memory_devices
from corral.qemu.monitor import COMMAND_TIMEOUT, MonitorCommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Leftover, Run
    from corral.model.devices.device import Device
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.machine import Machine
    from corral.qemu.runtime import Command, Part

log = logging.getLogger(__name__)

#: Seconds that a guest gets to let go of a device (PCI Express hotplug has five of its own built in).
UNPLUG_TIMEOUT = 10.0
#: Seconds that one gets to let go of a device whose plug failed.
UNDO_TIMEOUT = 3.0

#: Seconds between looks whether a USB controller is gone: QEMU 10.0 does not tell of them.
LOOK = 0.5

#: What QEMU says while the guest has not yet answered an earlier request.
_UNDER_WAY = "in the process of unplug"
#: What QEMU 7.2 says of virtio-mem.
_NEVER = "cannot be unplugged"


async def run_unplug(domain: Domain, run: Run, device: Device, config: Edit | None) -> None:
    """Have the guest let go of the device, take it out, write that down, tell.

    Raises OperationFailed with the guest's reason, OperationTimeout when it does not answer: it then still has it.
    """
    parts = await parts_of(domain, run, device)
    alias = device.alias.name if device.alias is not None else ""
    note = Note(kind="unplug", alias=alias, parts=names(parts), config=config is not None)
    await domain.hypervisor.store.begin_plug(run.id, note.to_json())
    growing = [each for each in memory_devices.modules([device]) if each.model == "virtio-mem"]
    try:
        for module in growing:
            await memory_devices.drain(domain, run, module)
        try:
            await take_out(run, parts, timeout=UNPLUG_TIMEOUT)
        except (OperationFailed, OperationUnsupported):
            for module in growing:  # its guest gets back what it gave; while QEMU still waits for it, it could not
                await memory_devices.ask_again(domain, run, module)
            raise
    except BaseException as error:
        if domain.run is run:
            await domain.hypervisor.store.end_plug(run.id)
            if isinstance(error, OperationTimeout) and domain.state()[0] != DomainState.RUNNING:
                error.hint = "it does not run now, and may let go when it goes on (resume, wake); then try again"
        raise
    await _written_off(domain, run, device, config)


async def parts_of(domain: Domain, run: Run, device: Device) -> list[Part]:
    """The parts that a device of the live document is made of."""
    from corral.qemu import plan

    facts = await machinery(domain, run)
    return plan.device_parts(run.live.document, device, facts.binary, facts.runtime)


async def take_out(run: Run, parts: Sequence[Part], *, timeout: float = UNDO_TIMEOUT) -> None:
    """Take parts out of QEMU, the last first; what is not there any more is no error."""
    from corral.qemu import render
    from corral.qemu.devices import controller

    machine = run.require_machine()
    # Of a plug that an earlier daemon noted only the names are known.
    silent = {part.id for part in parts if part.props.get("driver") in (None, *controller.USB.values())}
    for command in render.detach(parts):
        if command[0] == "device_del":
            await _let_go(run, machine, command, timeout, silent=command[1]["id"] in silent)
        else:
            if command[0] == "netdev_del":
                await connecting.settled(machine, str(command[1]["id"]))
            await kept_files.remove(machine, *command)
    await kept_files.note(run, machine, [int(part.id) for part in parts if part.kind == "fdset"])


async def _let_go(run: Run, machine: Machine, command: Command, timeout: float, *, silent: bool) -> None:
    """Ask the guest to let go of one device and wait until it has; `silent`: QEMU does not tell when that is."""
    name, arguments = command
    alias = str(arguments["id"])
    answer = answers.expect(run, alias)
    try:
        try:
            await machine.monitor.execute(name, arguments)
        except MonitorCommandFailed as error:
            if kept_files.missing(error):
                return
            if _NEVER in error.description:
                raise OperationUnsupported(f"this QEMU cannot unplug device '{alias}': {error.description}") from error
            if _UNDER_WAY not in error.description:
                raise
        gone = await _answered(machine, alias, answer, timeout, look=LOOK if silent else timeout)
        if not answer.done():
            if machine.end.done():
                raise OperationAborted(f"the machine ended while device '{alias}' was taken out")
            if gone:
                return
            raise OperationTimeout(
                f"the guest has not let go of device '{alias}' in {timeout:g} s and still has it",
                hint="it may be busy or not running yet; try again",
            )
        if reason := answer.result():
            raise OperationFailed(f"unplug of device was rejected by the guest: {reason}")
    finally:
        answers.forget(run, alias)


async def _answered(machine: Machine, alias: str, answer: asyncio.Future[str], timeout: float, *, look: float) -> bool:
    """Wait for the guest's answer or the machine's end, and look each `look` seconds whether QEMU has it no more."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    while (left := deadline - clock()) > 0:
        waited = (answer, machine.end)
        done, _ = await asyncio.wait(waited, timeout=min(left, look), return_when=asyncio.FIRST_COMPLETED)
        if done:
            return False
        if (left := deadline - clock()) > 0:
            with contextlib.suppress(OperationTimeout):
                if alias not in await peripherals(machine, timeout=left):
                    return not answer.done()
    return False


async def peripherals(machine: Machine, *, timeout: float = COMMAND_TIMEOUT) -> frozenset[str]:
    """The ids of the devices that QEMU was given; OperationTimeout when it does not say in time."""
    children = await machine.monitor.execute("qom-list", {"path": "/machine/peripheral"}, timeout=timeout)
    return frozenset(str(each["name"]) for each in children if str(each.get("type", "")).startswith("child<"))


async def _written_off(domain: Domain, run: Run, device: Device, config: Edit | None) -> None:
    """The device is out of QEMU: out of the documents too, and tell."""
    from corral.model.devices.chardev import Channel
    from corral.model.devices.disk import Disk
    from corral.model.devices.hostdev_scsi import SCSIHostdev
    from corral.model.devices.interface import Interface
    from corral.qemu import plugging

    alias = device.alias.name if device.alias is not None else ""
    if isinstance(device, Disk):
        run.next_node = max(run.next_node, plugging.next_node(run.live.document))
        domain.hypervisor.images.release_paths(domain.uuid, await images.real_paths(device))
    if isinstance(device, SCSIHostdev):
        domain.hypervisor.images.release_paths(domain.uuid, [images.lent(device)])
    if isinstance(device, Channel) and device.target.name == guest_agent.PORT and run.agent is not None:
        agent, run.agent = run.agent, None
        await agent.close()
    if isinstance(device, Interface):
        await links.release(domain, run, [device])
    await give_back(domain, run, [device])
    if session := run.sessions.pop(alias, None):
        session.close()
    await write(domain, run, Change(live=without(device), base=without(device), config=config))
    memory_devices.counted(run, [device], -1)
    domain.hypervisor.events.emit(events.DeviceRemoved(domain.identity(), alias))


async def give_back(domain: Domain, run: Run, devices: Sequence[Device]) -> None:
    """What the host had for devices which QEMU has no more: servers, and the functions that were lent."""
    for device in devices:
        if device.alias is not None and servers.has_server(device):
            await servers.end(run, device.alias.name)
    await lending.release(domain, run, devices)


def without(device: Device) -> Edit:
    """The edit that takes a device of the live document out of that, or of one without aliases."""

    def edit(document: DomainDocument) -> None:
        from corral.model import device_set

        found = device_set.twin(document, device)
        if found is not None:
            device_set.remove(document, found)

    return edit


def device_deleted(domain: Domain, run: Run, alias: str) -> None:
    """QEMU says that the guest has let go of a device: somebody waits for that, or it happens unasked or late."""
    from corral.model import device_set

    if answers.answered(run, alias, ""):
        return
    leftover = next((each for each in run.leftovers if any(part.id == alias for part in each.parts)), None)
    if leftover is not None:
        run.leftovers.remove(leftover)
        domain.hypervisor.spawn(_clear(domain, run, leftover))
    elif device_set.by_alias(run.live.document, alias) is not None:
        domain.hypervisor.spawn(_gone(domain, run, alias))


def unplug_refused(domain: Domain, run: Run, alias: str) -> None:
    """The guest keeps the device."""
    answers.answered(run, alias, "it gave no reason")
    domain.hypervisor.events.emit(events.DeviceRemovalFailed(domain.identity(), alias))


async def _clear(domain: Domain, run: Run, leftover: Leftover) -> None:
    """The rest of a plug that failed, now that the guest has let go."""
    async with domain.jobs.hold("undo a plug"):
        if domain.run is run and run.machine is not None:
            try:
                await take_out(run, leftover.parts)
            finally:  # the guest has let go of the device itself, whatever else of it QEMU keeps
                await give_back(domain, run, leftover.devices)


async def _gone(domain: Domain, run: Run, alias: str) -> None:
    """A device has gone without anybody waiting for it."""
    try:
        async with domain.jobs.hold("device gone"):
            if domain.run is run and not run.ending:
                await forget(domain, run, alias)
    except CorralError:
        log.exception("domain %s: cannot write off device '%s'", domain.name, alias)


async def forget(domain: Domain, run: Run, alias: str) -> None:
    """Take out what is left of a device whose front end the guest has let go of; the job slot is held."""
    from corral.model import device_set

    device = device_set.by_alias(run.live.document, alias)
    if device is None:
        return
    parts = [part for part in await parts_of(domain, run, device) if part.kind != "device"]
    try:
        await take_out(run, parts)
    except CorralError as error:
        log.warning("domain %s: something of device '%s' is left in QEMU: %s", domain.name, alias, error)
    await _written_off(domain, run, device, None)
