"""The kernel's performance counters of one process: perf_event_open(2) on each of its threads and those to come."""

from __future__ import annotations

import contextlib
import os
import platform
import struct
from pathlib import Path

from corral.errors import ArgumentUnsupported, HostError

_HARDWARE, _SOFTWARE = 0, 1

#: libvirt's names → perf_type_id and perf_hw_id or perf_sw_ids (linux/perf_event.h).
EVENTS: dict[str, tuple[int, int]] = {
    "cpu_cycles": (_HARDWARE, 0),
    "instructions": (_HARDWARE, 1),
    "cache_references": (_HARDWARE, 2),
    "cache_misses": (_HARDWARE, 3),
    "branch_instructions": (_HARDWARE, 4),
    "branch_misses": (_HARDWARE, 5),
    "bus_cycles": (_HARDWARE, 6),
    "stalled_cycles_frontend": (_HARDWARE, 7),
    "stalled_cycles_backend": (_HARDWARE, 8),
    "ref_cpu_cycles": (_HARDWARE, 9),
    "cpu_clock": (_SOFTWARE, 0),
    "task_clock": (_SOFTWARE, 1),
    "page_faults": (_SOFTWARE, 2),
    "context_switches": (_SOFTWARE, 3),
    "cpu_migrations": (_SOFTWARE, 4),
    "page_faults_min": (_SOFTWARE, 5),
    "page_faults_maj": (_SOFTWARE, 6),
    "alignment_faults": (_SOFTWARE, 7),
    "emulation_faults": (_SOFTWARE, 8),
}

_SYSCALL = {"x86_64": 298, "aarch64": 241, "ppc64le": 319, "s390x": 331, "riscv64": 241}
#: struct perf_event_attr in its second version: type, size, config, …, flags, … 72 bytes.
_SIZE = 72
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQQ")
_INHERIT = 1 << 1
_CLOEXEC = 8


class Counter:
    """One event of all threads of a process, from now on."""

    def __init__(self, name: str, pid: int) -> None:
        """ArgumentUnsupported for what no kernel counts, HostError when this one or its processor does not."""
        self.name = name
        self._descriptors: list[int] = []
        try:
            for thread in _threads(pid):
                with contextlib.suppress(ProcessLookupError):
                    self._descriptors.append(_open(name, thread))
        except BaseException:
            self.close()
            raise

    def read(self) -> int:
        """The count, in the event's own unit (clocks count nanoseconds)."""
        return sum(int.from_bytes(os.read(descriptor, 8), "little") for descriptor in self._descriptors)

    def close(self) -> None:
        """Count no longer."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _threads(pid: int) -> list[int]:
    try:
        return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
    except OSError as error:
        raise HostError(f"process {pid} is gone") from error


def _open(name: str, thread: int) -> int:
    import ctypes  # the daemon is smaller by it until somebody asks for counters

    known, call = EVENTS.get(name), _SYSCALL.get(platform.machine())
    if known is None or call is None:
        raise ArgumentUnsupported(f"unable to enable host cpu perf event for {name}: the kernel has no such event")
    kind, config = known
    attributes = ctypes.create_string_buffer(
        _ATTRIBUTES.pack(kind, _SIZE, config, 0, 0, 0, _INHERIT, 0, 0, 0, 0), _SIZE
    )
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(call, attributes, thread, -1, -1, _CLOEXEC))
    if found < 0:
        number = ctypes.get_errno()
        if number == 3:  # ESRCH: the thread has ended
            raise ProcessLookupError
        hint = {
            2: "this machine's processor or kernel does not count it",
            13: "the daemon needs CAP_PERFMON, or: sysctl kernel.perf_event_paranoid=1",
            1: "the daemon needs CAP_PERFMON, or: sysctl kernel.perf_event_paranoid=1",
        }.get(number)
        raise HostError(f"unable to open host cpu perf event for {name}: {os.strerror(number)}", hint=hint)
    return found
