"""Sets of CPUs or NUMA nodes as libvirt writes them: `0-3,^2,7`. https://libvirt.org/formatdomain.html#cpu-allocation"""

from __future__ import annotations

import re
from collections.abc import Iterable

from corral.errors import XMLError

#: No set of libvirt's reaches further (the CPU map of its protocol has 2,048 bytes).
LIMIT = 2048 * 8

_ITEM = re.compile(r"(\^?)(\d{1,6})(?:-(\d{1,6}))?")


def parse(text: str) -> frozenset[int]:
    """The numbers that a set names; XMLError for what is none, or reaches beyond LIMIT."""
    found: set[int] = set()
    for item in text.replace(" ", "").split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise XMLError(f"Failed to parse bitmap '{text}'")
        first, last = int(match[2]), int(match[3] or match[2])
        if last < first or last >= LIMIT:
            raise XMLError(f"Failed to parse bitmap '{text}'")
        if match[1]:
            found.difference_update(range(first, last + 1))
        else:
            found.update(range(first, last + 1))
    return frozenset(found)


def write(numbers: Iterable[int]) -> str:
    """The shortest set: `0-3,7`; "" for none."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
