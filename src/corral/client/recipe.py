"""Documents for `run`: a sensible machine around an image, from a few choices."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from corral.errors import InvalidArgument

if TYPE_CHECKING:
    from corral.client.host import Host

UNITS = {"": 1024, "k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}  # KiB; without a unit it is MiB
QCOW2_MAGIC = b"QFI\xfb"
MEMORY_MAX = 1 << 40  # KiB: a petabyte


def memory_kib(text: int | str) -> int:
    """KiB from a number of MiB or a text such as `512M`, `1.5G` or `2GiB`; InvalidArgument otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(text), re.IGNORECASE)
    if not match:
        raise InvalidArgument(f"memory '{text}' is not a size", hint="write for example 512M or 2G")
    kib = int(float(match[1]) * UNITS[match[2].lower()])
    if not 1024 <= kib <= MEMORY_MAX:
        raise InvalidArgument(
            f"memory '{text}' is {'too little' if kib < 1024 else 'absurd'}", hint="write for example 512M or 2G"
        )
    return kib


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What `run` was asked for; `document` makes the machine's XML of it.

    `image` is "tiny", or the path of a disk image (raw or qcow2) or of an installation CD (`.iso`), "" with a kernel
    alone. Up to `max_cpus` may be plugged while it runs. `memory` as in `memory_kib`. `firmware` is "bios" or "efi".
    `graphics` adds a screen, served by VNC.
    `accel` is "kvm" or "tcg"; by default it is KVM where the daemon offers it.
    """

    image: str = "tiny"
    name: str | None = None
    cpus: int = 1
    max_cpus: int | None = None
    memory: int | str = "256M"
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    firmware: str | None = None
    graphics: bool = False
    accel: str | None = None

    async def document(self, host: Host, progress: Callable[[str], None] | None = None) -> str:
        """The XML to define, for `host`; a free name is chosen when none was given."""
        if self.cpus < 1:
            raise InvalidArgument(f"{self.cpus} vCPUs", hint="at least one is needed")
        if self.max_cpus is not None and self.max_cpus < self.cpus:
            raise InvalidArgument(f"at most {self.max_cpus} vCPUs are fewer than {self.cpus}")
        memory = memory_kib(self.memory)
        if self.accel not in (None, "kvm", "tcg"):
            raise InvalidArgument(f"accelerator '{self.accel}'", hint="kvm or tcg")
        if self.firmware not in (None, "bios", "efi"):
            raise InvalidArgument(f"firmware '{self.firmware}'", hint="bios or efi")
        efi = self.firmware == "efi"
        kvm = self.accel == "kvm" or (self.accel is None and "kvm" in await host.domain_types())
        name = self.name or await self._free_name(host)
        if self.image == "tiny" and not self.kernel:
            from corral.guests import tiny

            built = await tiny.build(progress=progress)
            model = tiny.document(
                name, tiny=built, cpus=self.cpus, max_cpus=self.max_cpus, memory_kib=memory, kvm=kvm, efi=efi
            )
            return model.to_xml(secure=True)
        disk = await asyncio.to_thread(self._disk) if self.image else ""
        return self._xml(name, memory, kvm, disk)

    async def _free_name(self, host: Host) -> str:
        stem = Path(self.image or self.kernel or "machine").name.split(".")[0]
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "machine"
        taken = {domain.name for domain in await host.domains()}
        return next(name for name in _numbered(base) if name not in taken)

    @property
    def _is_cd(self) -> bool:
        return self.image.lower().endswith(".iso")

    def _disk(self) -> str:
        path = Path(self.image).expanduser().absolute()
        try:
            with path.open("rb") as file:
                start = file.read(4)
        except OSError as error:
            hint = (
                "IMAGE is tiny, or the path of a disk image or .iso" if isinstance(error, FileNotFoundError) else None
            )
            raise InvalidArgument(f"image {self.image}: {error.strerror}", hint=hint) from error
        if self._is_cd:
            device, kind, target, more = "cdrom", "raw", "<target dev='sda' bus='sata'/>", "<readonly/>"
        else:
            kind = "qcow2" if start == QCOW2_MAGIC else "raw"
            device, target, more = "disk", "<target dev='vda' bus='virtio'/>", ""
        return (
            f"<disk type='file' device='{device}'><driver name='qemu' type='{kind}'/>"
            f"<source file={quoteattr(str(path))}/>{target}{more}</disk>"
        )

    def _boot(self) -> str:
        if self.kernel:
            lines = [f"<kernel>{escape(_file(self.kernel))}</kernel>"]
            if self.initrd:
                lines.append(f"<initrd>{escape(_file(self.initrd))}</initrd>")
            if self.cmdline:
                lines.append(f"<cmdline>{escape(self.cmdline)}</cmdline>")
            return "".join(lines)
        return f"<boot dev='{'cdrom' if self._is_cd else 'hd'}'/>"

    def _xml(self, name: str, memory: int, kvm: bool, disk: str) -> str:
        screen = "<graphics type='vnc' autoport='yes' listen='127.0.0.1'/><video><model type='vga'/></video>"
        tablet = "<input type='tablet' bus='usb'/>"
        more = self.max_cpus is not None and self.max_cpus > self.cpus
        vcpu = f"<vcpu current='{self.cpus}'>{self.max_cpus}</vcpu>" if more else f"<vcpu>{self.cpus}</vcpu>"
        return f"""\
<domain type='{"kvm" if kvm else "qemu"}'>
  <name>{escape(name)}</name>
  <memory unit='KiB'>{memory}</memory>
  {vcpu}
  <os{" firmware='efi'" if self.firmware == "efi" else ""}><type machine='q35'>hvm</type>{self._boot()}</os>
  <features><acpi/><apic/></features>
  <cpu mode='{"host-passthrough" if kvm else "maximum"}'/>
  <devices>
    {disk}
    <interface type='user'><model type='virtio'/></interface>
    <console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    {screen + tablet if self.graphics or self._is_cd else ""}
  </devices>
</domain>
"""


def _numbered(base: str) -> list[str]:
    return [base, *(f"{base}-{number}" for number in range(2, 20_000))]


def _file(path: str) -> str:
    full = Path(path).expanduser().absolute()
    if not full.is_file():
        raise InvalidArgument(f"{path} is not a file")
    return str(full)
