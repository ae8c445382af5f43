"""How fast a disk may be. https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms, "iotune"

Bytes and requests a second, in all or read and written apart; `…_max` is what a burst may reach, `…_max_length` for
how many seconds. Zero and absent mean no limit.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_xml import element

from corral.model.element import Element

Limit = Annotated[int, Field(ge=0, le=2**63 - 1)] | None


class Throttle(Element):
    """The limits of a disk or of a group of disks, in libvirt's order."""

    total_bytes_sec: Limit = element(default=None)
    read_bytes_sec: Limit = element(default=None)
    write_bytes_sec: Limit = element(default=None)
    total_iops_sec: Limit = element(default=None)
    read_iops_sec: Limit = element(default=None)
    write_iops_sec: Limit = element(default=None)
    total_bytes_sec_max: Limit = element(default=None)
    read_bytes_sec_max: Limit = element(default=None)
    write_bytes_sec_max: Limit = element(default=None)
    total_iops_sec_max: Limit = element(default=None)
    read_iops_sec_max: Limit = element(default=None)
    write_iops_sec_max: Limit = element(default=None)
    size_iops_sec: Limit = element(default=None)
    group_name: str | None = element(default=None)
    total_bytes_sec_max_length: Limit = element(default=None)
    read_bytes_sec_max_length: Limit = element(default=None)
    write_bytes_sec_max_length: Limit = element(default=None)
    total_iops_sec_max_length: Limit = element(default=None)
    read_iops_sec_max_length: Limit = element(default=None)
    write_iops_sec_max_length: Limit = element(default=None)

    def faults(self) -> str | None:
        """What contradicts itself, in libvirt's words; None when all is well."""
        for unit in ("bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max"):
            total, read, write = (getattr(self, f"{way}_{unit}") for way in ("total", "read", "write"))
            if total and (read or write):
                return f"total and read/write {unit} cannot be set at the same time"
        for unit in ("bytes_sec", "iops_sec"):
            for way in ("total", "read", "write"):
                if getattr(self, f"{way}_{unit}_max_length") and not getattr(self, f"{way}_{unit}_max"):
                    return f"value '{way}_{unit}_max' must be set if '{way}_{unit}_max_length' is set"
        return None


class IOTune(Throttle, tag="iotune"):
    """The limits of one disk, shared with all disks of the same `group_name`."""


class ThrottleGroup(Throttle, tag="throttlegroup"):
    """Limits with a name, which disks of the domain share by their `<throttlefilters>`."""


class ThrottleGroups(Element, tag="throttlegroups"):
    groups: list[ThrottleGroup] = element(tag="throttlegroup", default_factory=list)
