"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest entry and two spaces apart, as podman and kubectl print them."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def emit_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def size(kib: int) -> str:
    """A size in KiB for a person: `512 MiB`, `1.5 GiB`."""
    value = float(kib)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def duration(seconds: float) -> str:
    """A time for a person: `3.2s`, `4m 10s`, `2h 5m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    return f"{minutes // 60}h {minutes % 60}m"


def state(name: str, reason: str = "") -> str:
    """A state for a person; the reason only where it is news."""
    words = {"shutoff": "off", "pmsuspended": "asleep", "shutdown": "shutting down", "nostate": "unknown"}
    text = words.get(name, name)
    usual = {"booted", "unknown", "user", "shutdown", "destroyed", "unpaused", "migrated", "restored", "from-snapshot"}
    return text if not reason or reason in usual else f"{text} ({reason.replace('-', ' ')})"
