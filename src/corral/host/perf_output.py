"""What `perf script` prints, read: exits of a virtual machine by reason with their times, and stacks of samples.

Both readers take lines as they come and keep only sums, so that a long recording costs no memory. Formats are those of
perf-script(1) with `-F comm,tid,time,event,trace` and `-F comm,tid,time,event,ip,sym,dso`; the tracepoints are KVM's
(Documentation/trace/events-kvm in the kernel's sources, /sys/kernel/tracing/events/kvm).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_EVENT = re.compile(r"^\s*(?P<comm>.+?)\s+(?P<tid>\d+)\s+(?P<time>\d+\.\d+):\s+(?P<event>[\w:-]+):(?P<rest>.*)$")
_REASON = re.compile(r"\breason (?P<reason>\S+)")
_FRAME = re.compile(r"^\s+(?P<ip>[0-9a-f]+) (?P<symbol>.+?)(?: \((?P<dso>[^()]*(?:\([^()]*\))?[^()]*)\))?$")

#: The tracepoint that a span of time begins with, and how the span is called.
_BEGINS = {"kvm:kvm_exit": "exit", "kvm:kvm_userspace_exit": "userspace"}
#: Longer spans than this (seconds) are a machine that was paused, not an exit.
_LONGEST = 60.0
#: Frames of one stack.
_DEEPEST = 256


@dataclass(slots=True)
class Span:
    """The exits of one kind and reason; times in seconds. `timed` of the `count` had an end in the recording."""

    count: int = 0
    timed: int = 0
    total: float = 0.0
    shortest: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """One more with its time."""
        self.shortest = min(self.shortest, seconds) if self.timed else seconds
        self.longest = max(self.longest, seconds)
        self.total += seconds
        self.timed += 1


@dataclass(slots=True)
class Exits:
    """`spans` by (kind, reason): kind "exit" is from guest to kernel, "userspace" on from there to QEMU."""

    spans: dict[tuple[str, str], Span] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)


def exits(lines: Iterable[str]) -> Exits:
    """Sum up exits: each lasts until the next entry (`kvm_entry`), or until QEMU has handled it (`kvm_fpu: load`).

    Lines of other tracepoints are counted; those that are no events at all are left out.
    """
    found = Exits()
    open_spans: dict[tuple[str, str], tuple[float, str]] = {}
    for line in lines:
        event = _EVENT.match(line)
        if event is None:
            continue
        name, thread, time, rest = event["event"], event["tid"], float(event["time"]), event["rest"]
        found.events[name.removeprefix("kvm:")] += 1
        if kind := _BEGINS.get(name):
            reason = _REASON.search(rest)
            said = (reason["reason"] if reason else "unknown").removeprefix("KVM_EXIT_")
            found.spans.setdefault((kind, said), Span()).count += 1
            open_spans[thread, kind] = (time, said)
        elif name == "kvm:kvm_entry":
            _close(found, open_spans, thread, "exit", time)
            _close(found, open_spans, thread, "userspace", time)
        elif name == "kvm:kvm_fpu" and "unload" not in rest:
            _close(found, open_spans, thread, "userspace", time)
    return found


def _close(
    found: Exits, open_spans: dict[tuple[str, str], tuple[float, str]], thread: str, kind: str, time: float
) -> None:
    begun = open_spans.pop((thread, kind), None)
    if begun is not None and 0 <= time - begun[0] < _LONGEST:
        found.spans[kind, begun[1]].add(time - begun[0])


@dataclass(slots=True)
class Stacks:
    """How often each stack was seen, its outermost frame first; `_[g]` marks the guest's, `_[k]` the kernel's."""

    folded: Counter[tuple[str, ...]] = field(default_factory=Counter)
    samples: int = 0
    guest: int = 0


def stacks(lines: Iterable[str]) -> Stacks:
    """Fold samples: a head line, frames from the innermost to the outermost, an empty line."""
    found = Stacks()
    name: str | None = None
    frames: list[str] = []

    def end() -> None:
        nonlocal name
        if name is not None:
            found.samples += 1
            found.guest += any(frame.endswith("_[g]") for frame in frames)
            found.folded[(name, *reversed(frames))] += 1
        name = None
        frames.clear()

    for line in lines:
        if not line.strip():
            end()
        elif (event := _EVENT.match(line)) is not None and not event["rest"].strip():
            end()
            name = event["comm"].strip()
        elif name is not None and len(frames) < _DEEPEST and (frame := _FRAME.match(line)) is not None:
            frames.append(_frame(frame["symbol"], frame["dso"] or ""))
    end()
    return found


def _frame(symbol: str, dso: str) -> str:
    mark = "_[g]" if "guest" in dso else "_[k]" if "kernel" in dso or dso.endswith(".ko") or dso.startswith("[") else ""
    if symbol == "[unknown]":
        symbol = f"[{dso.rpartition('/')[2].strip('[]') or 'unknown'}]"
    return symbol.replace(";", ":") + mark


def most_frequent(found: Stacks, limit: int) -> tuple[list[tuple[list[str], int]], int]:
    """The most frequent stacks whose names fit into about `limit` characters, and how many samples did not fit."""
    kept: list[tuple[list[str], int]] = []
    left_out, used = 0, 0
    for stack, count in found.folded.most_common():
        used += sum(len(frame) + 4 for frame in stack) + 16
        if used > limit:
            left_out += count
        else:
            kept.append((list(stack), count))
    return kept, left_out
