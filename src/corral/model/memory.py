"""Where the guest's memory comes from. https://libvirt.org/formatdomain.html#memory-backing"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element
from corral.model.units import PageSize


class HugePages(Element, tag="hugepages"):
    pages: list[PageSize] = element(tag="page", default_factory=list)


class MemorySource(Element, tag="source"):
    type: Literal["file", "anonymous", "memfd"] = attr()


class MemoryAccess(Element, tag="access"):
    mode: Literal["shared", "private"] = attr()


class Allocation(Element, tag="allocation"):
    mode: Literal["immediate", "ondemand"] | None = attr(default=None)
    threads: Annotated[int, Field(ge=1)] | None = attr(default=None)


class MemoryBacking(Element, tag="memoryBacking"):
    hugepages: HugePages | None = element(default=None)
    nosharepages: bool = element(default=False)
    locked: bool = element(default=False)
    source: MemorySource | None = element(default=None)
    access: MemoryAccess | None = element(default=None)
    allocation: Allocation | None = element(default=None)
    discard: bool = element(default=False)
