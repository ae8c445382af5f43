"""How fast disks may be: limits of one disk, of a group of disks, and QEMU's own word on what holds now.

Parameters are libvirt's (VIR_DOMAIN_BLOCK_IOTUNE_…). Those that are given replace their family (bytes in all, read and
written, say); the other families stay as they are. Texts are libvirt's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corral.constants import TypedParameterType
from corral.errors import ArgumentUnsupported, ConfigUnsupported, InvalidArgument
from corral.hypervisor.disks import block, media
from corral.hypervisor.events import Tunable
from corral.hypervisor.hotplug.device_changes import Change, Edit, begun, carry_out

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.figures.kvm_statistics import Statistic
    from corral.hypervisor.run import Run
    from corral.model.devices.disk import Disk
    from corral.model.devices.iotune import IOTune, Throttle, ThrottleGroup
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.runtime import Command

Limits = dict[str, int | str]

LARGEST = 10**15
"""What QEMU takes for any limit."""

UNITS = {"bytes_sec": "bps", "iops_sec": "iops"}
WAYS = {"total": "", "read": "_rd", "write": "_wr"}
EXTRAS = ("", "_max", "_max_length")
FAMILIES: dict[str, tuple[str, ...]] = {
    f"{unit}{extra}": tuple(f"{way}_{unit}{extra}" for way in WAYS) for unit in UNITS for extra in EXTRAS
} | {"size_iops_sec": ("size_iops_sec",), "group_name": ("group_name",)}
NAMES = (
    *(name for extra in ("", "_max") for unit in UNITS for name in FAMILIES[f"{unit}{extra}"]),
    "size_iops_sec",
    "group_name",
    *(name for unit in UNITS for name in FAMILIES[f"{unit}_max_length"]),
)
"""All parameters in libvirt's order."""


def _named(document: DomainDocument, name: str, complaint: str = "disk '{}' not found in domain") -> Disk:
    """The disk of that target or source path."""
    try:
        return block.named(document, name)
    except InvalidArgument as error:
        raise InvalidArgument(complaint.format(name)) from error


async def limits(domain: Domain, name: str, flags: int) -> list[Statistic]:
    """What holds for the disk: as QEMU says for a running machine, as the document does otherwise."""
    live, config = domain.impact(flags)
    if live and config:
        raise InvalidArgument("Cannot query live and config together")
    if live:
        run = domain.require_run()
        disk = _named(run.live.document, name)
        if disk.source is None or disk.source.where is None:
            raise InvalidArgument(f"disk '{disk.target.dev}' does not currently have a source assigned")
        return _statistics(await _told(run, disk))
    document = domain.config.document if domain.config is not None else domain.definition.document
    tune = block.named(document, name).iotune
    return _statistics(_of(tune) if tune is not None else {})


def _statistics(found: Limits) -> list[Statistic]:
    return [
        (each, TypedParameterType.STRING, str(found.get(each, "")))
        if each == "group_name"
        else (each, TypedParameterType.ULLONG, int(found.get(each, 0)))
        for each in NAMES
    ]


async def _told(run: Run, disk: Disk) -> Limits:
    """A drive's limits as QEMU has them (BlockDeviceInfo of QAPI's block-core)."""
    alias = disk.alias.name if disk.alias is not None else ""
    block = await media.block_of(run.require_machine(), alias) or {}
    told: dict[str, Any] = block.get("inserted") or {}
    found: Limits = {"size_iops_sec": told.get("iops_size", 0), "group_name": told.get("group", "")}
    for unit, short in UNITS.items():
        for way, suffix in WAYS.items():
            for extra in EXTRAS:
                found[f"{way}_{unit}{extra}"] = told.get(f"{short}{suffix}{extra}", 0)
    return found


def _of(tune: Throttle) -> Limits:
    return {name: value for name in NAMES if (value := getattr(tune, name)) is not None}


async def limit(domain: Domain, name: str, given: Mapping[str, Any], flags: int) -> None:
    """Change the limits of a disk, and of all disks of its group; for the machine, the definition, or both."""
    wanted = _checked(given)

    async def work() -> None:
        live, config = domain.impact(flags)
        edit = None
        if live:
            _named(domain.require_run().live.document, name)
        if config:
            assert domain.config is not None
            definition = domain.config.document
            there = _named(definition, name, "missing persistent configuration for disk '{}'")
            edit = _edit(*_next(definition, there, wanted))
        if (run := await begun(domain, edit, live=live)) is None:
            return
        disk, tune = _next(run.live.document, _named(run.live.document, name), wanted)
        await _change(domain, run, disk, tune, edit)
        kind, text = TypedParameterType.ULLONG, TypedParameterType.STRING
        params = [("blkdeviotune.disk", int(text), disk.target.dev)]
        params += [(f"blkdeviotune.{key}", int(text if key == "group_name" else kind), wanted[key]) for key in wanted]  # type: ignore[misc]
        domain.hypervisor.events.emit(Tunable(domain.identity(), tuple(params)))

    await domain.change("block I/O limits", work)


def _checked(given: Mapping[str, Any]) -> Limits:
    """What a client gave, where it makes sense by itself."""
    for name in given:
        if name not in NAMES:
            raise InvalidArgument(f"parameter '{name}' not supported")
    for family, members in FAMILIES.items():
        total, *others = members
        if others and "_length" not in family and given.get(total) and any(given.get(each) for each in others):
            raise InvalidArgument(f"total and read/write of {family} cannot be set at the same time")
    if any(isinstance(value, int) and value > LARGEST for value in given.values()):
        raise ArgumentUnsupported(f"block I/O throttle limit value must be no more than {LARGEST}")
    return dict(given)


def _next(document: DomainDocument, disk: Disk, given: Limits) -> tuple[Disk, IOTune | None]:
    """The disk and the limits that it has after the change; None for no limit at all."""
    from corral.model.devices.iotune import IOTune

    group = given.get("group_name")
    if group and len(given) == 1:  # it joins the group, whose limits hold
        for other in document.devices.disks:
            if other.iotune is not None and other.iotune.group_name == group:
                return disk, other.iotune.copy()
    after = merged(_of(disk.iotune) if disk.iotune is not None else {}, given)
    _agree(after)
    kept = {key: value for key, value in after.items() if value}
    return disk, IOTune.model_validate(kept) if set(kept) - {"group_name"} else None


def merged(old: Limits, given: Limits) -> Limits:
    """The old limits with each family of which something is given replaced."""
    found = dict(old)
    for members in FAMILIES.values():
        if any(each in given for each in members):
            for each in members:
                found.pop(each, None)
            found |= {each: given[each] for each in members if each in given}
    for unit in UNITS:  # a burst without a rate has no length
        for way in WAYS:
            name = f"{way}_{unit}_max"
            if not found.get(name) and f"{name}_length" not in given:
                found.pop(f"{name}_length", None)
    return found


def _agree(found: Limits) -> None:
    """Raise ConfigUnsupported for a burst that is below its rate, or has none."""
    for unit in UNITS:
        for way in WAYS:
            name = f"{way}_{unit}"
            rate, burst = int(found.get(name, 0)), int(found.get(f"{name}_max", 0))
            if burst and not rate:
                raise ConfigUnsupported(f"cannot reset '{name}' when '{name}_max' is set")
            if burst and burst < rate:
                raise ConfigUnsupported(f"value '{name}_max' cannot be smaller than '{name}'")


def _edit(disk: Disk, tune: IOTune | None) -> Edit:
    """The edit that gives the limits to the disk and to all others of their group."""
    target = disk.target.dev
    group = tune.group_name if tune is not None else None

    def edit(document: DomainDocument) -> None:
        from corral.model import device_set

        for each in list(document.devices.disks):
            shares = group and each.iotune is not None and each.iotune.group_name == group
            if each.target.dev == target or shares:
                changed = each.copy()
                changed.iotune = tune.copy() if tune is not None else None
                device_set.replace(document, each, changed)

    return edit


async def _change(domain: Domain, run: Run, disk: Disk, tune: IOTune | None, config: Edit | None) -> None:
    """Tell QEMU, and write it down; of a drive that is empty it learns the limits with its next medium."""
    from corral.model.devices.iotune import IOTune
    from corral.qemu.devices import throttle

    empty = disk.source is None or disk.source.where is None
    new, old = ([] if empty else [throttle.limit(disk, each or IOTune())] for each in (tune, disk.iotune))
    edit = _edit(disk, tune)
    await carry_out(domain, run, new, Change(live=edit, base=edit, config=config), old)


async def set_group(domain: Domain, name: str, given: Mapping[str, Any], flags: int) -> None:
    """Make a group of disks with limits, or change its limits."""
    wanted = _checked({key: value for key, value in given.items() if key != "group_name"})

    def edit(document: DomainDocument) -> None:
        from corral.model.devices.iotune import ThrottleGroups

        groups = _groups(document)
        fresh = _next_group(document, name, wanted)
        kept = [fresh if each.group_name == name else each for each in groups]
        document.throttlegroups = ThrottleGroups(
            groups=kept if any(each is fresh for each in kept) else [*groups, fresh]
        )

    async def work() -> None:
        from corral.qemu.devices import throttle

        live, config = domain.impact(flags)
        later = edit if config else None
        if (run := await begun(domain, later, live=live)) is None:
            return
        document = run.live.document
        old = next((each for each in _groups(document) if each.group_name == name), None)
        fresh = _next_group(document, name, wanted)
        made: Command = ("object-add", throttle.group_properties(fresh) | {"id": throttle.group_id(name)})
        command, back = made, ("object-del", {"id": throttle.group_id(name)})
        if old is not None:
            command, back = _set_group(fresh), _set_group(old)
        await carry_out(domain, run, [command], Change(live=edit, base=edit, config=later), [back])

    await domain.change("throttle group", work)


def _set_group(group: ThrottleGroup) -> Command:
    from corral.qemu.devices import throttle

    path = f"/objects/{throttle.group_id(group.group_name or '')}"
    return "qom-set", {"path": path, "property": "limits", "value": throttle.group_limits(group)}


def _groups(document: DomainDocument) -> Sequence[ThrottleGroup]:
    return document.throttlegroups.groups if document.throttlegroups is not None else []


def _next_group(document: DomainDocument, name: str, given: Limits) -> ThrottleGroup:
    from corral.model.devices.iotune import ThrottleGroup

    old = next((each for each in _groups(document) if each.group_name == name), None)
    after = merged(_of(old) if old is not None else {}, given)
    _agree(after)
    return ThrottleGroup.model_validate({key: value for key, value in after.items() if value} | {"group_name": name})


async def delete_group(domain: Domain, name: str, flags: int) -> None:
    """Forget a group that no disk uses."""

    def edit(document: DomainDocument) -> None:
        from corral.model.devices.iotune import ThrottleGroups

        _unused(document, name)
        kept = [each for each in _groups(document) if each.group_name != name]
        document.throttlegroups = ThrottleGroups(groups=kept) if kept else None

    async def work() -> None:
        from corral.qemu.devices import throttle

        live, config = domain.impact(flags)
        later = edit if config else None
        if (run := await begun(domain, later, live=live)) is None:
            return
        _unused(run.live.document, name)
        gone: Command = ("object-del", {"id": throttle.group_id(name)})
        old = next((each for each in _groups(run.live.document) if each.group_name == name), None)
        back = gone
        if old is not None:
            back = ("object-add", throttle.group_properties(old) | {"id": throttle.group_id(name)})
        await carry_out(domain, run, [gone], Change(live=edit, base=edit, config=later), [back])

    await domain.change("throttle group", work)


def _unused(document: DomainDocument, name: str) -> None:
    for disk in document.devices.disks:
        if disk.throttlefilters is not None and any(each.group == name for each in disk.throttlefilters.filters):
            raise InvalidArgument(f"throttle group '{name}' is still being used by disk {disk.target.dev}")
