"""What `corral doctor` judges: host, KVM, emulators and programs, gathered once a report."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import CorralError
from corral.host import kvm, perf, usb, vfio, virtiofsd
from corral.host.account import Account, choose
from corral.host.firmware import Firmware, descriptors
from corral.host.kvm import KVM
from corral.host.node import Host
from corral.host.pci import PhysicalFunction, physical_functions
from corral.hypervisor.devices import links
from corral.hypervisor.disks import reservations
from corral.hypervisor.displays import display_certificates, displays
from corral.hypervisor.host.capabilities import emulator_for
from corral.network import bridge_helper
from corral.network.tap import TUN
from corral.qemu.binary import MODULE_DIRECTORIES, Binary, find_emulators, probe
from corral.qemu.devices.vsock import HOSTS as VSOCK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from corral.hypervisor.settings import Settings


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: `ok` is True (works), False (does not) or None (optional, or not offered yet).

    `hint` says what to do about it, "" when nothing. `number` is for the sixteen capabilities.
    """

    name: str
    ok: bool | None
    text: str
    hint: str = ""
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """What the host has for network cards; `helper`: QEMU's setuid helper makes taps for those who may not."""

    root: bool = False
    tun: bool = False
    vhost: bool = False
    helper: bool = False
    bridges: tuple[str, ...] = ()

    @classmethod
    def look(cls) -> Network:
        """As it is now."""
        helper = bridge_helper.find()
        setuid = helper is not None and bool(Path(helper).stat().st_mode & stat.S_ISUID)
        bridges = tuple(sorted(each.parent.name for each in Path("/sys/class/net").glob("*/bridge")))
        tun = os.access(TUN, os.R_OK | os.W_OK)
        return cls(os.geteuid() == 0, tun, links.vhost_offered(), setuid, bridges)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rows are made of. `faults` are emulators that could not be asked, with the reason."""

    host: Host
    kvm: KVM
    allow_slow_kvm: bool
    binaries: tuple[Binary, ...]
    faults: tuple[str, ...] = ()
    programs: dict[str, str | None] = field(default_factory=dict)
    functions: tuple[PhysicalFunction, ...] = ()
    firmwares: tuple[Firmware, ...] = ()
    uri: str = ""
    system: bool = False
    account: Account | None = None
    #: Whether QEMU's iSCSI initiator is there: distributions have it in a package of its own.
    iscsi: bool = False
    network: Network = field(default_factory=Network)
    #: Where displays' certificates are to be, and whether they are.
    certificates: tuple[str, bool] = ("", False)
    #: The devices that draw for OpenGL.
    render_nodes: tuple[str, ...] = ()
    #: The host's own kinds of devices that guests may be lent → what stands in the way; None: nothing does.
    lendable: dict[str, str | None] = field(default_factory=dict)
    #: What keeps the daemon from using the host's perf, and what to do about it; None when nothing does.
    perf_lacks: tuple[str, str] | None = None

    @property
    def binary(self) -> Binary | None:
        """The emulator for this host's own kind of guests."""
        return emulator_for(self.host.arch, self.binaries)

    @property
    def hardware(self) -> bool:
        """Whether guests run on the processor itself."""
        return self.kvm.offered(allow_slow=self.allow_slow_kvm) and self.kvm.fast

    @property
    def accel(self) -> str:
        """The accelerator a guest gets unless its document says otherwise."""
        return "kvm" if self.kvm.offered(allow_slow=self.allow_slow_kvm) else "tcg"


async def gather(settings: Settings, programs: Iterable[str]) -> Facts:
    """Ask the host and every emulator, and look for the programs."""
    found = await kvm.probe(settings.cache)
    paths = (settings.emulator,) if settings.emulator else await asyncio.to_thread(find_emulators)
    binaries, faults = [], []
    for path in paths:
        try:
            offered = found.offered(allow_slow=settings.allow_slow_kvm)
            binaries.append(await probe(path, settings.cache, kvm=offered))
        except CorralError as error:
            faults.append(str(error))
    host, functions, firmwares = await asyncio.to_thread(lambda: (Host.read(), physical_functions(), descriptors()))
    return Facts(
        host=host,
        kvm=found,
        allow_slow_kvm=settings.allow_slow_kvm,
        binaries=tuple(binaries),
        faults=tuple(faults),
        programs=await asyncio.to_thread(lambda: {name: _program(name) for name in programs}),
        lendable=await asyncio.to_thread(_lendable),
        functions=functions,
        firmwares=firmwares,
        uri=settings.uri,
        system=not settings.session,
        iscsi=await asyncio.to_thread(_has_iscsi),
        account=await asyncio.to_thread(choose, settings.qemu_user),
        network=await asyncio.to_thread(Network.look),
        certificates=(str(settings.certificates), display_certificates.present(settings)),
        render_nodes=tuple(map(str, displays.render_nodes())),
        perf_lacks=await asyncio.to_thread(_perf_lacks),
    )


def _program(name: str) -> str | None:
    """Where a program is; those that nobody but QEMU's parts start are in no PATH."""
    found = virtiofsd.find() if name == "virtiofsd" else reservations.find() if name == reservations.PROGRAM else None
    return str(found) if found is not None else shutil.which(name)


def _lendable() -> dict[str, str | None]:
    """What of the host's own can be lent to guests, by what the kernel shows."""
    return {
        "PCI functions (VFIO)": None if vfio.guarded() else "there are no IOMMU groups",
        "USB devices": None if usb.present() else "there is no USB bus",
        "SCSI devices": None if any(Path("/sys/class/scsi_device").glob("*")) else "there is none; iSCSI LUNs can be",
        "vsock": None if Path(VSOCK).exists() else f"there is no {VSOCK} (modprobe vhost_vsock)",
    }


def _has_iscsi() -> bool:
    return any(any(place.glob("block-iscsi.so")) for pattern in MODULE_DIRECTORIES for place in Path("/").glob(pattern))


def _perf_lacks() -> tuple[str, str] | None:
    try:
        perf.require(tracepoints=True)
    except CorralError as error:
        return error.detail or str(error), error.hint or ""
    return None
