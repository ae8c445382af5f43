"""The host's end of a vsock, opened for QEMU, whose account may not, and the guest's number (CID) asked for on it.

The kernel gives a number to one guest at a time, this daemon's or another program's, for as long as the end is open:
what is ours here cannot be another's when QEMU asks for it again. Linux: include/uapi/linux/vhost.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, HostError

if TYPE_CHECKING:
    from corral.model.devices.device import Device
    from corral.model.devices.vsock import Vsock

SET_GUEST_CID = 0x4008AF60
FIRST, LAST = 3, 2**32 - 2
"""0 to 2 are the hypervisor's, the loopback's and the host's."""


@contextlib.contextmanager
def opened(devices: Iterable[Device]) -> Iterator[Mapping[str, int]]:
    """The descriptor that the vsock among the devices needs, by the name that the plan gives it.

    A device that takes any number is told, in place, which it has. Raises ConfigUnsupported for a host without vsocks,
    HostError for a number that another guest has.
    """
    from corral.model.devices.vsock import Vsock
    from corral.qemu.devices.vsock import END, HOSTS

    device = next((each for each in devices if isinstance(each, Vsock)), None)
    if device is None:
        yield {}
        return
    try:
        end = os.open(HOSTS, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = f"{HOSTS}: {error.strerror}; modprobe vhost_vsock"
        raise ConfigUnsupported("unable to open vhost-vsock device", hint=hint) from error
    try:
        _number(device, end)
        yield {END: end}
    finally:
        os.close(end)


def _number(device: Vsock, end: int) -> None:
    cid = device.cid
    if cid is None:
        return
    wanted = range(FIRST, LAST + 1) if cid.auto == "yes" else [cid.address] if cid.address is not None else []
    for number in wanted:
        try:
            fcntl.ioctl(end, SET_GUEST_CID, struct.pack("=Q", number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and cid.auto == "yes":
                continue
            hint = "another guest has it; <cid auto='yes'/> takes one that is free" if cid.auto != "yes" else None
            raise HostError(f"failed to set guest cid {number}: {error.strerror}", hint=hint) from error
        cid.address = number
        return
