"""`rawio='yes'`: QEMU may send SCSI devices any command (CAP_SYS_RAWIO), which is given at a start alone."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, OperationUnsupported

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.domain import Domain as DomainDocument


def _asked(device: Device) -> bool:
    return getattr(device, "rawio", None) == "yes" and getattr(device, "device", "lun") == "lun"


def account(usual: Account | None, document: DomainDocument) -> Account | None:
    """Whom QEMU runs as, with the capability if one of the domain's disks asks for it.

    Raises ConfigUnsupported where the daemon has none to give.
    """
    if not any(map(_asked, (*document.devices.disks, *document.devices.hostdevs))):
        return usual
    if os.geteuid() != 0:
        raise ConfigUnsupported("rawio='yes' takes a daemon of root's", hint="use corral --connect qemu:///system")
    return replace(usual, capabilities=("sys_rawio",)) if usual is not None else None


def refuse_plug(usual: Account | None, run: Run, device: Device) -> None:
    """Raise for a device that asks for what its running machine was not given."""
    devices = run.base.document.devices
    if _asked(device) and usual is not None and not any(map(_asked, (*devices.disks, *devices.hostdevs))):
        raise OperationUnsupported(
            "rawio='yes' cannot be given to a machine that runs",
            hint="plug it into the definition (--config), or give a disk rawio before the start",
        )
