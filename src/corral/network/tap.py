"""Taps: links of the host's whose other end is a descriptor. Documentation/networking/tuntap.rst, linux/if_tun.h.

A tap that nobody made persistent is gone when its last descriptor is closed: one that QEMU holds needs no clearing
away, whatever becomes of the daemon.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from corral.errors import HostError, OperationInvalid

TUN = "/dev/net/tun"
#: What the kernel numbers when the document names nothing; names of this kind belong to a run, not to a definition.
TEMPLATE = "vnet%d"

MACVTAP = "macvtap"
"""What names of macvtaps begin with; those belong to a run, too."""

_TUNSETIFF, _TUNGETIFF, _TUNSETSNDBUF = 0x400454CA, 0x800454D2, 0x400454D4
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
_IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap's name and a descriptor for each of its queues, which belong to the caller."""

    name: str
    fds: tuple[int, ...]


def open_tap(
    name: str | None, *, queues: int, headers: bool, device: str = TUN, there: bool = False, sndbuf: int | None = None
) -> Tap:
    """Make a tap, or with `there` attach to one that somebody has made; a name may have one `%d`.

    `headers`: packets carry virtio's header, which a virtio card wants. `sndbuf` in bytes. Raises PermissionError where
    we may not, HostError for everything else.
    """
    if name is not None and "%" not in name and _exists(name) != there:
        if there:
            raise HostError(f"the tap '{name}' that <target managed='no'/> names is not there")
        raise OperationInvalid(
            f"a network link '{name}' is there already",
            hint="leave <target dev='…'/> out, or give a tap of your own with type='ethernet' and managed='no'",
        )
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if headers else 0) | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(os.open(device, os.O_RDWR | os.O_CLOEXEC))
            answer = fcntl.ioctl(fds[-1], _TUNSETIFF, _IFREQ.pack((name or TEMPLATE).encode(), flags))
            name = bytes(_IFREQ.unpack(answer)[0]).rstrip(b"\0").decode()
            if sndbuf is not None:
                fcntl.ioctl(fds[-1], _TUNSETSNDBUF, struct.pack("i", min(sndbuf, 2**31 - 1)))
    except OSError as error:
        close(fds)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise
        raise HostError(f"cannot make the tap '{name or TEMPLATE}' with {device}: {error.strerror}") from error
    assert name is not None
    return Tap(name, tuple(fds))


def free_macvtap(taken: frozenset[str]) -> str:
    """The first name that no macvtap has."""
    number = 0
    while (name := f"{MACVTAP}{number}") in taken or Path("/sys/class/net", name).exists():
        number += 1
    return name


def set_headers(fd: int, *, headers: bool, queues: int) -> None:
    """Say the same of a macvtap's descriptor."""
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if headers else 0) | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(b"", flags))


def close(fds: list[int] | tuple[int, ...]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def _exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()
