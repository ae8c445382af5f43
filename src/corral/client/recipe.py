"""Documents for `run`: a sensible machine around an image, from a few choices."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from corral.client import image, seed, volumes
from corral.errors import CorralError, InvalidArgument, StorageVolumeExists
from corral.model import growth

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.host import Host

UNITS = {"": 1024, "k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}  # KiB; without a unit it is MiB
PORT = re.compile(r"(?:(?P<address>[0-9.]+|\[[0-9a-fA-F:]+\]):)?(?P<host>\d+):(?P<guest>\d+)(?:/(?P<proto>tcp|udp))?")
TINY_KIB = 160 << 10  # what the tiny guest needs to boot
BOUNCE_KIB = 64 << 10
"""What Linux keeps for itself where memory can be plugged beyond 4 GiB: buffers for devices that cannot reach there."""
SCREEN = (
    "<graphics type='vnc' autoport='yes' listen='127.0.0.1'/><video><model type='vga'/></video>"
    "<input type='tablet' bus='usb'/>"
)
RACES = 50  # names that others may take before us
MEMORY_MAX = 1 << 40  # KiB: a petabyte


def memory_kib(text: int | str) -> int:
    """KiB from a number of MiB or a text such as `512M`, `1.5G` or `2GiB`; InvalidArgument otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b?)\s*", str(text), re.IGNORECASE)
    if not match:
        raise InvalidArgument(f"memory '{text}' is not a size", hint="write for example 512M or 2G")
    kib = int(float(match[1]) * UNITS[match[2].lower()])
    if not 1024 <= kib <= MEMORY_MAX:
        raise InvalidArgument(
            f"memory '{text}' is {'too little' if kib < 1024 else 'absurd'}", hint="write for example 512M or 2G"
        )
    return kib


def byte_size(text: str) -> int | None:
    """Bytes of a disk's size such as `20G`; None when the text is no size but, say, a path."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt])(?:i?b?)", text, re.IGNORECASE)
    return int(float(match[1]) * UNITS[match[2].lower()]) * 1024 // 512 * 512 if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What `run` was asked for; `run` makes and starts the machine, `document` is its XML.

    `image` is "tiny", or the path of a disk image (raw or qcow2) or of an installation CD, "" with a kernel alone. Up
    to `max_cpus` and `max_memory` may be plugged while it runs. `memory` as in `memory_kib`. `firmware` is "bios" or
    "efi". `graphics` adds a screen, served by VNC. `accel` is "kvm" or "tcg"; by default it is KVM where the daemon
    offers it.
    `disk` is one more disk: a size such as "20G" makes an empty one in the host's storage pool, anything else is an
    image's path. `ports` are `HOST:GUEST`, with `ADDRESS:` before and `/udp` after it if need be. `user_data` is for
    cloud-init. `discard` leaves the images as they are: what the guest writes is forgotten with it.
    """

    image: str = "tiny"
    name: str | None = None
    cpus: int = 1
    max_cpus: int | None = None
    memory: int | str = "256M"
    max_memory: int | str | None = None
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    firmware: str | None = None
    graphics: bool = False
    accel: str | None = None
    disk: str | None = None
    ports: Sequence[str] = ()
    user_data: str | None = None
    discard: bool = False

    async def run(
        self,
        host: Host,
        *,
        transient: bool = False,
        paused: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> Domain:
        """Make and start the machine; nothing is left of one that does not start.

        A name that was chosen here, and that somebody takes meanwhile, is chosen again.
        """
        taken: set[str] = set()
        while True:
            name = self.name or await self._free_name(host, taken)
            made: list[str] = []
            try:
                document = await self.document(host, progress, name=name, made=made)
                if progress:
                    progress("starting the machine")
                return await host.launch(document, transient=transient, paused=paused)
            except BaseException as error:
                for path in made:
                    with suppress(CorralError):
                        await volumes.remove(host, path)
                if self.name or not _name_taken(error) or len(taken) > RACES:
                    raise
                taken.add(name)

    async def document(
        self,
        host: Host,
        progress: Callable[[str], None] | None = None,
        *,
        name: str | None = None,
        made: list[str] | None = None,
    ) -> str:
        """The XML to define, for `host`; a free name is chosen when none was given.

        The volumes that it needs are made; `made` gets their paths.
        """
        self.check()
        memory = memory_kib(self.memory)
        most = None if self.max_memory is None else memory_kib(self.max_memory)
        if most is not None and most < memory:
            raise InvalidArgument(f"at most {self.max_memory} of memory is less than {self.memory}")
        least = TINY_KIB + (BOUNCE_KIB if most is not None and most > memory else 0)
        if self.image == "tiny" and memory < least:
            beside = f" beside a maximum of {self.max_memory}" if least > TINY_KIB else ""
            hint = f"it needs {least >> 10}M{beside}"
            raise InvalidArgument(f"memory '{self.memory}' is too little for tiny", hint=hint)
        kvm = self.accel == "kvm" or (self.accel is None and "kvm" in await host.domain_types())
        name = name or self.name or await self._free_name(host, set())
        made = [] if made is None else made
        if self.image == "tiny":
            from corral.guests import tiny

            built = await tiny.build(progress=progress)
            cpus, most_cpus = self.cpus, self.max_cpus
            model = tiny.document(
                name, tiny=built, cpus=cpus, max_cpus=most_cpus, memory_kib=memory, max_memory_kib=most, kvm=kvm
            )
            return self._with_more(model.to_xml(secure=True), await self._more_disks(host, name, "vda", made))
        first, second, is_cd = "", "vda", False
        if self.image:
            path, kind, block = await asyncio.to_thread(image.look, self.image)
            is_cd = kind == "cd"
            first = _cd(str(path), "sda") if is_cd else _disk(str(path), kind, "vda", block=block, discard=self.discard)
            second = "vda" if is_cd else "vdb"
        more = await self._more_disks(host, name, second, made)
        boot = self._boot(is_cd=is_cd, fresh=byte_size(self.disk or "") is not None)
        return self._xml(name, (memory, most), kvm, boot, first + more, screen=self.graphics or is_cd)

    def check(self) -> None:
        """InvalidArgument for what can be told to be wrong before a host is asked."""
        if self.name is not None and (not self.name.strip() or "/" in self.name or self.name.startswith("-")):
            hint = "such as web: without a slash, and not like an option"
            raise InvalidArgument(f"'{self.name}' is no name for a machine", hint=hint)
        if self.disk is not None and byte_size(self.disk) is None and not image.there(self.disk):
            raise InvalidArgument(f"disk '{self.disk}' is neither a size nor a file", hint=image.SIZE_OR_FILE)
        if self.cpus < 1:
            raise InvalidArgument(f"{self.cpus} vCPUs", hint="at least one is needed")
        if self.max_cpus is not None and self.max_cpus < self.cpus:
            raise InvalidArgument(f"at most {self.max_cpus} vCPUs are fewer than {self.cpus}")
        if self.accel not in (None, "kvm", "tcg"):
            raise InvalidArgument(f"accelerator '{self.accel}'", hint="kvm or tcg")
        if self.firmware not in (None, "bios", "efi", "uefi"):
            raise InvalidArgument(f"firmware '{self.firmware}'", hint="bios or uefi")
        if self.image == "tiny" and (self.kernel or self.initrd or self.cmdline or self.firmware):
            raise InvalidArgument(
                "tiny brings its own kernel and starts without firmware",
                hint="leave out tiny to boot a kernel of your own: corral run --kernel FILE --initrd FILE",
            )
        if (self.initrd or self.cmdline) and not self.kernel:
            raise InvalidArgument("an initial RAM disk and a command line are for a kernel", hint="add --kernel FILE")

    async def _free_name(self, host: Host, taken: set[str]) -> str:
        stem = Path(self.image or self.kernel or "machine").name.split(".")[0]
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "machine"
        known = {domain.name for domain in await host.domains()} | taken
        return next(name for name in _numbered(base) if name not in known)

    async def _more_disks(self, host: Host, name: str, target: str, made: list[str]) -> str:
        """The disk that `disk` asks for, and the seed with the user data."""
        xml = ""
        if self.disk is not None:
            if (size := byte_size(self.disk)) is not None:
                path = await volumes.create(host, f"{name}.qcow2", size)
                made.append(path)
                xml += _disk(path, "qcow2", target)
            else:
                found, kind, block = await asyncio.to_thread(image.look, self.disk)
                xml += _disk(str(found), "raw" if kind == "cd" else kind, target, block=block, discard=self.discard)
        if self.user_data is not None:
            cd = await asyncio.to_thread(seed.build, name, self.user_data)
            path = await volumes.store(host, f"{name}-seed.iso", cd)
            made.append(path)
            xml += _cd(path, "sdb")
        return xml

    def _with_more(self, xml: str, disks: str) -> str:
        """The tiny guest's document with what else was asked for."""
        card = "<interface type='user'>"
        devices = disks + (SCREEN if self.graphics else "")
        return xml.replace(card, card + _forwarded(self.ports), 1).replace("<devices>", f"<devices>{devices}", 1)

    def _boot(self, *, is_cd: bool, fresh: bool) -> str:
        if self.kernel:
            lines = [f"<kernel>{escape(_file(self.kernel))}</kernel>"]
            if self.initrd:
                lines.append(f"<initrd>{escape(_file(self.initrd))}</initrd>")
            if self.cmdline:
                lines.append(f"<cmdline>{escape(self.cmdline)}</cmdline>")
            return "".join(lines)
        if is_cd:  # an empty disk boots nothing before the installation, and itself after it
            return "<boot dev='hd'/><boot dev='cdrom'/>" if fresh else "<boot dev='cdrom'/><boot dev='hd'/>"
        return "<boot dev='hd'/>"

    def _xml(self, name: str, memory: tuple[int, int | None], kvm: bool, boot: str, disks: str, *, screen: bool) -> str:
        more = self.max_cpus is not None and self.max_cpus > self.cpus
        vcpu = f"<vcpu current='{self.cpus}'>{self.max_cpus}</vcpu>" if more else f"<vcpu>{self.cpus}</vcpu>"
        return f"""\
<domain type='{"kvm" if kvm else "qemu"}'>
  <name>{escape(name)}</name>
  {growth.sizes(*memory)}
  {vcpu}
  <os{" firmware='efi'" if self.firmware in ("efi", "uefi") else ""}><type machine='q35'>hvm</type>{boot}</os>
  <features><acpi/><apic/></features>
  <cpu mode='{"host-passthrough" if kvm else "maximum"}'/>
  <devices>
    {growth.ports()}
    {disks}
    <interface type='user'>{_forwarded(self.ports)}<model type='virtio'/></interface>
    <console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    {growth.device(*memory)}
    {SCREEN if screen else ""}
  </devices>
</domain>
"""


def _cd(path: str, target: str) -> str:
    return (
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
        f"<source file={quoteattr(path)}/><target dev='{target}' bus='sata'/><readonly/></disk>"
    )


def _disk(path: str, kind: str, target: str, *, block: bool = False, discard: bool = False) -> str:
    source = f"<source {'dev' if block else 'file'}={quoteattr(path)}/>"
    return (
        f"<disk type='{'block' if block else 'file'}' device='disk'><driver name='qemu' type='{kind}'/>"
        f"{source}<target dev='{target}' bus='virtio'/>{'<transient/>' if discard else ''}</disk>"
    )


def _forwarded(ports: Sequence[str]) -> str:
    """The elements that have the host's ports lead to the guest's; passt does it, as libvirt has it, too."""
    if not ports:
        return ""
    return "<backend type='passt'/>" + "".join(_forward(text) for text in ports)


def _forward(text: str) -> str:
    match = PORT.fullmatch(text)
    if not match or not all(0 < int(match[end]) < 1 << 16 for end in ("host", "guest")):
        raise InvalidArgument(f"port '{text}'", hint="write HOST:GUEST, such as 8080:80 or 127.0.0.1:5353:53/udp")
    address = f" address='{match['address'].strip('[]')}'" if match["address"] else ""
    return (
        f"<portForward proto='{match['proto'] or 'tcp'}'{address}>"
        f"<range start='{match['host']}' to='{match['guest']}'/></portForward>"
    )


def _name_taken(error: BaseException) -> bool:
    """Whether somebody was faster (libvirt has one code for this and much else)."""
    if isinstance(error, StorageVolumeExists):
        return True
    return isinstance(error, CorralError) and bool(re.search(r"already (exists|defined|active)", str(error)))


def _numbered(base: str) -> list[str]:
    return [base, *(f"{base}-{number}" for number in range(2, 20_000))]


def _file(path: str) -> str:
    full = Path(path).expanduser().absolute()
    if not full.is_file():
        raise InvalidArgument(f"{path} is not a file")
    return str(full)
