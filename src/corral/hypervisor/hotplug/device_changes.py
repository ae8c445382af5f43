"""Changing a domain's devices: plug, unplug, update, for the running machine, the definition, or both.

A change of a machine is noted in the store before QEMU hears of it and struck out in the transaction that writes the
documents, so a daemon that dies in between leaves a note; `plug_recovery` is what the next one makes of it. What QEMU
has taken of a change that fails is taken back before the error is told.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from corral.errors import CorralError, OperationInvalid
from corral.host import io_engines
from corral.hypervisor import rewriting
from corral.hypervisor.devices import links
from corral.hypervisor.documents import Definition
from corral.hypervisor.rewriting import applied, latest

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.binary import Binary
    from corral.qemu.runtime import Command, Image, Part, Runtime

Edit = Callable[["DomainDocument"], None]
"""A change of a document whose devices may be exchanged but not changed (`device_set.shared`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a change makes of the documents; None leaves one as it is."""

    live: Edit | None = None
    base: Edit | None = None
    config: Edit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the store remembers while a machine is changed.

    `parts` are those to be added (`plug`, `media`) or taken away (`unplug`): (kind, id) in order of creation. `devices`
    is what is added, as XML of the running and of the defined machine; `alias` the device that is changed.
    """

    kind: Literal["plug", "unplug", "media"]
    alias: str
    parts: Sequence[Sequence[str]] = ()
    devices: Sequence[Sequence[str]] = ()
    config: bool = False

    def to_json(self) -> str:
        return json.dumps(
            {
                "kind": self.kind,
                "alias": self.alias,
                "parts": [list(part) for part in self.parts],
                "devices": [list(device) for device in self.devices],
                "config": self.config,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Note:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Machinery:
    """What planning for a running machine takes."""

    binary: Binary
    runtime: Runtime
    chains: dict[str, tuple[Image, ...]] = field(default_factory=dict)


async def machinery(domain: Domain, run: Run, chains: dict[str, tuple[Image, ...]] | None = None) -> Machinery:
    """The binary and the facts of this run."""
    from corral.qemu.plan import Runtime

    document = run.live.document
    runtime = Runtime(
        accel=domain.hypervisor.offer.accelerator(document),
        run_dir=run.directory,
        chains=chains or {},
        now=time.time(),
        engines=io_engines.engines(),
        vhost=links.vhost_offered(),
    )
    binary = await domain.hypervisor.offer.binary(document.devices.emulator)
    return Machinery(binary, runtime, chains or {})


def _edit(edit: Edit) -> rewriting.Edit:
    """The edit of a definition; what it leaves alone the next version shares with the last."""

    def make(definition: Definition) -> Definition:
        from corral.model import device_set

        document = device_set.shared(definition.document)
        edit(document)
        return Definition.of(document)

    return make


async def configured(domain: Domain, edit: Edit) -> Definition:
    """The next definition: after `edit`, and completed as a new one would be. Raises what a definition would."""
    if domain.config is None:
        raise OperationInvalid("transient domains do not have any persistent config")
    next_config = await applied(_edit(edit), domain.config)
    return await domain.hypervisor.offer.completed(next_config.secure_xml, validate=False)


async def begun(domain: Domain, edit: Edit | None, *, live: bool) -> Run | None:
    """Begin a change of which the definition has `edit`: what it would refuse is raised before a machine is touched.

    The run that is to be changed; None where only the definition is: then it is written, and all is done.
    """
    if edit is not None:
        await configured(domain, edit)
    if live:
        return domain.require_run()
    await write(domain, None, Change(config=edit))
    return None


async def write(domain: Domain, run: Run | None, change: Change) -> None:
    """Write the documents after a change, all in one transaction that also strikes out the note of it."""
    hypervisor = domain.hypervisor
    async with hypervisor.definitions:
        config = await configured(domain, change.config) if change.config else None
        definition = (domain.uuid, config.secure_xml) if config else None
        if run is None:
            if config is not None:
                await hypervisor.store.define(domain.uuid, domain.name, config.secure_xml)
        else:
            before = run.live
            live = await applied(_edit(change.live), before) if change.live else None
            base = await applied(_edit(change.base), run.base) if change.base else None
            await hypervisor.store.end_plug(
                run.id,
                live_xml=live.secure_xml if live else None,
                base_xml=base.secure_xml if base else None,
                definition=definition,
            )
            if live and change.live:
                live = await latest(domain, run, _edit(change.live), before, live)
            run.live, run.base = live or run.live, base or run.base
        if config is not None:
            domain.config = config
        domain.touch()


async def carry_out(
    domain: Domain, run: Run, commands: Sequence[Command], change: Change, back: Sequence[Command]
) -> None:
    """Tell QEMU, then write it down; when either fails QEMU is told `back`, and the first error is raised."""
    machine = run.require_machine()
    try:
        for name, arguments in commands:
            await machine.monitor.execute(name, arguments)
        await write(domain, run, change)
    except BaseException:
        for name, arguments in back:
            with contextlib.suppress(CorralError):
                await machine.monitor.execute(name, arguments)
        raise


def names(parts: Sequence[Part]) -> list[tuple[str, str]]:
    """The parts as a note has them."""
    return [(part.kind, part.id) for part in parts]


def same(document: DomainDocument, device: Device) -> Device:
    """That device in another version of the document, by its alias."""
    from corral.errors import DeviceMissing
    from corral.model import device_set

    alias = device.alias.name if device.alias is not None else ""
    found = device_set.by_alias(document, alias)
    if found is None:
        raise DeviceMissing(f"no device found with alias {alias}")
    return found
