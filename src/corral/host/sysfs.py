"""Reading the kernel's small text files and its notation for sets of numbers."""

from __future__ import annotations

from pathlib import Path


def text(path: Path, default: str = "") -> str:
    """The file's content without the final newline; `default` where the kernel does not offer it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return default


def number(path: Path, default: int = 0) -> int:
    """The number in the file; `default` where there is none."""
    content = text(path)
    try:
        return int(content)
    except ValueError:
        return default


def numbers(ranges: str) -> tuple[int, ...]:
    """The numbers of a list such as `0-3,8,10-11`."""
    found: list[int] = []
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def ranges(values: tuple[int, ...]) -> str:
    """The list that `numbers` reads: (0, 1, 2, 8) is `0-2,8`."""
    parts: list[str] = []
    start = previous = None
    for value in (*sorted(set(values)), None):
        if start is not None and previous is not None and value != previous + 1:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
            start = value
        elif start is None:
            start = value
        previous = value
    return ",".join(parts)
