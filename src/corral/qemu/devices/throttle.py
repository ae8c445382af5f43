"""How fast disks may be: limits that QEMU sets on a drive, and groups that several disks share."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.disk import Disk
from corral.model.devices.iotune import IOTune, Throttle, ThrottleGroup
from corral.qemu.context import Context, Properties, alias
from corral.qemu.runtime import Command, Part

_WAYS = {"total": "", "read": "_rd", "write": "_wr"}
_UNITS = {"bytes_sec": "bps", "iops_sec": "iops"}
_EXTRAS = ("", "_max", "_max_length")


def group_id(name: str) -> str:
    """QEMU's name of a throttle group of the domain's."""
    return f"throttle-{name}"


def groups(context: Context) -> list[Part]:
    """The throttle groups of the document."""
    named = context.domain.throttlegroups
    if named is None or not named.groups:
        return []
    if not context.binary.has_object("throttle-group"):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' has no throttle groups")
    return [Part("object", group_id(group.group_name or ""), group_properties(group)) for group in named.groups]


def group_properties(group: ThrottleGroup) -> Properties:
    """A throttle group as an object."""
    return {"qom-type": "throttle-group", "limits": group_limits(group)}


def group_limits(group: Throttle) -> Properties:
    """ThrottleLimits (QAPI, block-core): every rate is said, so that what a group had before is forgotten."""
    limits: Properties = {"iops-size": group.size_iops_sec or 0}
    for unit, short in _UNITS.items():
        for way in _WAYS:
            for extra in _EXTRAS:
                value = getattr(group, f"{way}_{unit}{extra}")
                if value or extra != "_max_length":
                    limits[f"{short}-{way}{extra.replace('_', '-')}"] = value or 0
    return limits


def limit(disk: Disk, tune: IOTune) -> Command:
    """Set a drive's limits, all of them; `block_set_io_throttle` of QAPI's block-core."""
    arguments: Properties = {"id": drive(disk)}
    for unit, short in _UNITS.items():
        for way, suffix in _WAYS.items():
            for extra in _EXTRAS:
                value = getattr(tune, f"{way}_{unit}{extra}")
                if value or not extra:
                    arguments[f"{short}{suffix}{extra}"] = value or 0
    if tune.size_iops_sec:
        arguments["iops_size"] = tune.size_iops_sec
    if tune.group_name is not None:
        arguments["group"] = tune.group_name
    return "block_set_io_throttle", arguments


def setup(disk: Disk) -> list[Command]:
    """The limits that a drive has from the start; an empty one has them with its medium."""
    if disk.iotune is None or disk.source is None or disk.source.where is None:
        return []
    return [limit(disk, disk.iotune)]


def drive(disk: Disk) -> str:
    """By what name QEMU finds the drive's front end: that of a virtio disk is inside its PCI device."""
    return f"/machine/peripheral/{alias(disk)}/virtio-backend" if disk.target.bus == "virtio" else alias(disk)
