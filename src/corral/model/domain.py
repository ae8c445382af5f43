"""The domain document. https://libvirt.org/formatdomain.html"""

from __future__ import annotations

import uuid as _uuid
from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.clock import Clock
from corral.model.cpu import CPU
from corral.model.devices.chardev import Channel, Console, Parallel, Serial
from corral.model.devices.controller import Controller
from corral.model.devices.crypto import Crypto
from corral.model.devices.disk import Disk
from corral.model.devices.filesystem import Filesystem
from corral.model.devices.graphics import Graphics
from corral.model.devices.hostdev import Hostdev
from corral.model.devices.hostdev_scsi import SCSIHostdev
from corral.model.devices.hub import Hub, Redirdev, RedirFilter
from corral.model.devices.input import Input
from corral.model.devices.interface import Interface
from corral.model.devices.iommu import IOMMU
from corral.model.devices.iotune import ThrottleGroups
from corral.model.devices.memballoon import Memballoon
from corral.model.devices.memory import MemoryDevice
from corral.model.devices.panic import Panic
from corral.model.devices.rng import Rng
from corral.model.devices.shmem import Shmem
from corral.model.devices.smartcard import Smartcard
from corral.model.devices.sound import Audio, Sound
from corral.model.devices.tpm import TPM
from corral.model.devices.video import Video
from corral.model.devices.vsock import Vsock
from corral.model.devices.watchdog import Watchdog
from corral.model.element import Element, Unsigned, YesNo
from corral.model.features import Features
from corral.model.memory import MemoryBacking
from corral.model.metadata import Metadata
from corral.model.os import OS
from corral.model.perf import Perf
from corral.model.tune import CPUTune, NUMATune
from corral.model.units import CrashAction, Lifecycle, MaxMemory, Memory


class VCPU(Element, tag="vcpu"):
    """How many vCPUs: `count` at most, `current` of them at start (None: all)."""

    placement: Literal["static", "auto"] | None = attr(default=None)
    cpuset: str | None = attr(default=None)
    current: Annotated[int, Field(ge=1, le=65535)] | None = attr(default=None)
    count: Annotated[int, Field(ge=1, le=65535)]


class VCPUState(Element, tag="vcpu"):
    """One vCPU: whether it is there at start, may be unplugged, and in which order it came."""

    id: Unsigned = attr()
    enabled: YesNo = attr()
    hotpluggable: YesNo | None = attr(default=None)
    order: Annotated[int, Field(ge=1)] | None = attr(default=None)


class VCPUs(Element, tag="vcpus"):
    vcpus: list[VCPUState] = element(tag="vcpu", default_factory=list)


class IOThreadPoll(Element, tag="poll"):
    """How long an I/O thread polls before it sleeps (ns), and how that grows and shrinks."""

    max: Unsigned | None = attr(default=None)
    grow: Unsigned | None = attr(default=None)
    shrink: Unsigned | None = attr(default=None)


class IOThread(Element, tag="iothread"):
    id: Annotated[int, Field(ge=1)] = attr()
    thread_pool_min: Unsigned | None = attr(default=None)
    thread_pool_max: Unsigned | None = attr(default=None)
    poll: IOThreadPoll | None = element(default=None)


class IOThreadIDs(Element, tag="iothreadids"):
    iothreads: list[IOThread] = element(tag="iothread", default_factory=list)


class Resource(Element, tag="resource"):
    """The host's control group for the domain."""

    partition: str | None = element(default=None)


class PMState(Element):
    enabled: YesNo = attr()


class PM(Element, tag="pm"):
    """Whether the firmware offers the guest sleep states."""

    suspend_to_mem: PMState | None = element(tag="suspend-to-mem", default=None)
    suspend_to_disk: PMState | None = element(tag="suspend-to-disk", default=None)


class Seclabel(Element, tag="seclabel"):
    """How a security driver labels the domain; kept, not acted on."""

    type: Literal["dynamic", "static", "none"] | None = attr(default=None)
    model: str | None = attr(default=None)
    relabel: YesNo | None = attr(default=None)
    label: str | None = element(default=None)
    imagelabel: str | None = element(default=None)
    baselabel: str | None = element(default=None)


class Devices(Element, tag="devices"):
    """All devices, in the order in which they are written."""

    emulator: str | None = element(default=None)
    disks: list[Disk] = element(tag="disk", default_factory=list)
    controllers: list[Controller] = element(tag="controller", default_factory=list)
    filesystems: list[Filesystem] = element(tag="filesystem", default_factory=list)
    interfaces: list[Interface] = element(tag="interface", default_factory=list)
    smartcards: list[Smartcard] = element(tag="smartcard", default_factory=list)
    serials: list[Serial] = element(tag="serial", default_factory=list)
    parallels: list[Parallel] = element(tag="parallel", default_factory=list)
    consoles: list[Console] = element(tag="console", default_factory=list)
    channels: list[Channel] = element(tag="channel", default_factory=list)
    inputs: list[Input] = element(tag="input", default_factory=list)
    tpms: list[TPM] = element(tag="tpm", default_factory=list)
    graphics: list[Graphics] = element(tag="graphics", default_factory=list)
    sounds: list[Sound] = element(tag="sound", default_factory=list)
    audios: list[Audio] = element(tag="audio", default_factory=list)
    videos: list[Video] = element(tag="video", default_factory=list)
    hostdevs: list[Hostdev] = element(tag="hostdev", default_factory=list)
    redirdevs: list[Redirdev] = element(tag="redirdev", default_factory=list)
    redirfilter: RedirFilter | None = element(default=None)
    hubs: list[Hub] = element(tag="hub", default_factory=list)
    watchdogs: list[Watchdog] = element(tag="watchdog", default_factory=list)
    memballoon: Memballoon | None = element(default=None)
    rngs: list[Rng] = element(tag="rng", default_factory=list)
    panics: list[Panic] = element(tag="panic", default_factory=list)
    memories: list[MemoryDevice] = element(tag="memory", default_factory=list)
    iommus: list[IOMMU] = element(tag="iommu", default_factory=list)
    shmems: list[Shmem] = element(tag="shmem", default_factory=list)
    vsocks: list[Vsock] = element(tag="vsock", default_factory=list)
    cryptos: list[Crypto] = element(tag="crypto", default_factory=list)

    @property
    def scsi_hostdevs(self) -> list[SCSIHostdev]:
        """The lent devices that are SCSI ones."""
        return [device for device in self.hostdevs if isinstance(device, SCSIHostdev)]


class Domain(Element, tag="domain"):
    """A virtual machine as its owner describes it, or as it runs.

    `id` is there only while it runs. Notations: `from_xml`/`to_xml`, `from_json`/`to_json`, and this class.
    """

    type: Literal["kvm", "qemu"] = attr()
    id: Annotated[int, Field(ge=1)] | None = attr(default=None)
    name: str = element()
    uuid: _uuid.UUID | None = element(default=None)
    title: str | None = element(default=None)
    description: str | None = element(default=None)
    metadata: Metadata | None = element(default=None)
    max_memory: MaxMemory | None = element(tag="maxMemory", default=None)
    memory: Memory | None = element(default=None)
    current_memory: Memory | None = element(tag="currentMemory", default=None)
    memory_backing: MemoryBacking | None = element(tag="memoryBacking", default=None)
    vcpu: VCPU | None = element(default=None)
    vcpus: VCPUs | None = element(default=None)
    iothreads: Unsigned | None = element(default=None)
    iothreadids: IOThreadIDs | None = element(default=None)
    cputune: CPUTune | None = element(default=None)
    throttlegroups: ThrottleGroups | None = element(default=None)
    numatune: NUMATune | None = element(default=None)
    resource: Resource | None = element(default=None)
    os: OS = element()
    features: Features | None = element(default=None)
    cpu: CPU | None = element(default=None)
    clock: Clock | None = element(default=None)
    on_poweroff: Lifecycle | None = element(default=None)
    on_reboot: Lifecycle | None = element(default=None)
    on_crash: CrashAction | None = element(default=None)
    on_lockfailure: Literal["poweroff", "restart", "pause", "ignore"] | None = element(default=None)
    pm: PM | None = element(default=None)
    perf: Perf | None = element(default=None)
    devices: Devices = element(default_factory=Devices)
    seclabels: list[Seclabel] = element(tag="seclabel", default_factory=list)

    def check(self, source: str | bytes | None = None) -> None:
        """Refuse what contradicts itself (XMLError) or is not honoured yet (ConfigUnsupported), naming the path.

        With the XML that the document came from as `source`, the line is named too.
        """
        from corral.model.check import check

        check(self, source)
