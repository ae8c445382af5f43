"""How this host's kernel takes asynchronous I/O from a program without privileges."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_SETUP = 425
"""The number of io_uring_setup(2), the same on all architectures."""
_FEATURES_AT, _PARAMS_SIZE = 20, 120
"""Where struct io_uring_params has what the kernel can, and its size."""
_NATIVE_WORKERS = 1 << 9
"""The kernel is 5.12 or newer: from then on rings do not count against RLIMIT_MEMLOCK."""


def engines() -> tuple[str, ...]:
    """QEMU's names of the ways, the best first; its own threads are always left."""
    return ("io_uring", "native") if io_uring() else ("native",)


@functools.cache
def io_uring() -> bool:
    """Whether a ring can be made: not switched off (kernel.io_uring_disabled), not filtered away in a container."""
    try:
        if int(Path("/proc/sys/kernel/io_uring_disabled").read_text()) != 0:
            return False
    except (OSError, ValueError):
        pass  # a kernel before 6.6 has no such switch
    import ctypes  # the daemon is smaller by it until a machine asks

    parameters = (ctypes.c_ubyte * _PARAMS_SIZE)()
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(_SETUP, 4, parameters)
    if descriptor < 0:
        return False
    os.close(descriptor)
    features = int.from_bytes(bytes(parameters[_FEATURES_AT : _FEATURES_AT + 4]), "little")
    return bool(features & _NATIVE_WORKERS)
