"""What this host offers to domains: its QEMU binaries, KVM if it is to be used, and documents filled in accordingly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from corral.errors import ConfigUnsupported, CorralError, InvalidArgument
from corral.host import firmware
from corral.host import kvm as kvm_probe
from corral.host.kvm import KVM
from corral.host.node import Host
from corral.hypervisor.displays import display_certificates
from corral.hypervisor.documents import Definition, computed
from corral.hypervisor.host import capabilities
from corral.qemu import binary as emulators
from corral.qemu.binary import Binary

if TYPE_CHECKING:
    from corral.host.firmware import Firmware
    from corral.hypervisor.settings import Settings
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu import defaults

log = logging.getLogger(__name__)

_SAMPLE = """<domain type='qemu'><name>sample</name><memory unit='MiB'>1</memory><os><type>hvm</type></os><devices>
<disk type='file'><source file='/sample'/><target dev='vda'/></disk><interface type='user'/><serial type='pty'/>
<graphics type='vnc'/><rng model='virtio'><backend model='random'/></rng></devices></domain>"""


class Offer:
    """The host and its emulators, as they were when last looked at; a binary that changes is asked again."""

    def __init__(self, settings: Settings, host: Host, kvm: KVM) -> None:
        self.settings = settings
        self.host = host
        self.kvm = kvm
        self._binaries: dict[Path, tuple[tuple[int, int], Binary]] = {}
        self._default: Binary | None = None
        self._firmwares: tuple[Firmware, ...] = ()
        self._warming: asyncio.Task[None] | None = None
        self._capabilities: str | None = None

    @classmethod
    async def look(cls, settings: Settings) -> Offer:
        """Look at the host and ask its emulators; quick when that was done before."""
        host, kvm = await asyncio.gather(asyncio.to_thread(Host.read), kvm_probe.probe(settings.cache))
        offer = cls(settings, host, kvm)
        chosen = settings.emulator
        for path in (chosen,) if chosen else await asyncio.to_thread(emulators.find_emulators):
            try:
                found = await offer.binary(str(path))
            except CorralError as error:
                log.warning("cannot use %s: %s", path, error)
                continue
            offer._default = offer._default or found
        return offer

    @property
    def default(self) -> Binary:
        """The emulator for documents that name none; ConfigUnsupported when there is none."""
        if self._default is None:
            raise ConfigUnsupported(
                "no QEMU system emulator was found", hint="install one (apt-get install qemu-system-x86)"
            )
        return self._default

    async def binary(self, emulator: str | None) -> Binary:
        """What an emulator can do, asked again when the file has changed; None: the host's own."""
        path = Path(emulator) if emulator else self.default.path
        try:
            status = await asyncio.to_thread(path.stat)
        except OSError as error:
            raise ConfigUnsupported(f"Cannot check QEMU binary {path}: {error.strerror}") from error
        mark = (status.st_size, status.st_mtime_ns)
        known = self._binaries.get(path)
        if known is None or known[0] != mark:
            known = (mark, await emulators.probe(path, self.settings.cache, kvm=self._kvm_offered))
            self._binaries[path] = known
            self._capabilities = None
        return known[1]

    def known(self, emulator: str | None) -> Binary:
        """An emulator that was asked before; None: the host's own. InvalidArgument for another."""
        if emulator is None:
            return self.default
        if Path(emulator) not in self._binaries:
            raise InvalidArgument(f"unknown emulator binary '{emulator}'")
        return self._binaries[Path(emulator)][1]

    def domain_types(self, binary: Binary) -> tuple[str, ...]:
        """The domain types that an emulator offers here, the slowest first."""
        from corral.hypervisor.host.domain_capabilities import domain_types

        return domain_types(binary, binary.arch, self.kvm, allow_slow_kvm=self.settings.allow_slow_kvm)

    def accelerator(self, document: DomainDocument) -> Literal["kvm", "tcg"]:
        """The accelerator of a domain type; ConfigUnsupported with the reason when KVM is not to be used here."""
        if document.type == "qemu":
            return "tcg"
        if not self._kvm_offered:
            raise ConfigUnsupported(f"domain type 'kvm' is not offered on this host: {self.kvm.reason}")
        return "kvm"

    async def completed(self, xml: str, *, validate: bool) -> Definition:
        """The document that `xml` says, checked and with everything filled in; nothing is changed by it."""
        await self.warm()  # which also spares the event loop these imports
        from corral.model.domain import Domain as DomainDocument
        from corral.qemu import defaults, live

        if validate:
            from corral.model.schema import validate_schema

            await asyncio.to_thread(validate_schema, xml)

        def read() -> DomainDocument:
            document = DomainDocument.from_xml(xml)
            document.check(xml)
            live.forget(document, self.settings.run)
            return document

        document = await computed(xml, read)
        binary = await self.binary(document.devices.emulator)
        host = self._host(self._firmwares)

        def complete() -> Definition:
            completed = defaults.complete(document, binary, host)
            if "preserve" in (completed.on_poweroff, completed.on_reboot):
                raise ConfigUnsupported(
                    "qemu driver doesn't support the 'preserve' action for 'on_reboot'/'on_poweroff'"
                )
            return Definition.of(completed)

        return await computed(xml, complete)

    def _host(self, firmwares: tuple[Firmware, ...]) -> defaults.Host:
        from corral.qemu import defaults

        return defaults.Host(
            kvm=self._kvm_offered,
            kvm_reason=self.kvm.reason,
            firmwares=firmwares,
            nvram_dir=self.settings.nvram,
            display_tls=display_certificates.present(self.settings),
        )

    async def warm(self) -> None:
        """Build, once, what documents are read with; a daemon that has none yet is spared 4 MiB by not doing it."""
        if self._warming is None:
            self._warming = asyncio.create_task(asyncio.to_thread(self._warm_up))
        await asyncio.shield(self._warming)

    def _warm_up(self) -> None:
        """Read a document: the validators of all its classes take a tenth of a second, which a thread can wait for."""
        from corral.model.domain import Domain as DomainDocument
        from corral.qemu import defaults, live  # noqa: F401 - `completed` needs it next

        self._firmwares = firmware.descriptors()
        document = DomainDocument.from_xml(_SAMPLE)
        document.check(_SAMPLE)
        if self._default is not None:
            with contextlib.suppress(CorralError):
                document = defaults.complete(document, self._default, self._host(self._firmwares))
        Definition.of(document)

    def capabilities(self) -> str:
        """The host's capabilities document."""
        if self._capabilities is None:
            found = [binary for _, binary in self._binaries.values()]
            self._capabilities = capabilities.capabilities_xml(
                self.host, found, self.kvm, allow_slow_kvm=self.settings.allow_slow_kvm
            )
        return self._capabilities

    def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virttype: str | None
    ) -> str:
        """What a domain on an emulator may have."""
        found = self.default
        if emulator is not None:
            if Path(emulator) not in self._binaries:
                raise InvalidArgument(f"unknown emulator binary '{emulator}'")
            found = self._binaries[Path(emulator)][1]
        elif arch is not None:
            found = next((binary for _, binary in self._binaries.values() if binary.arch == arch), found)
        return capabilities.domain_capabilities_xml(
            found, arch, machine, virttype, self.kvm, host=self.host, allow_slow_kvm=self.settings.allow_slow_kvm
        )

    def max_vcpus(self, type: str | None) -> int:
        """The most vCPUs a domain of a type may have, on the machine that takes most."""
        if type not in (None, "", "kvm", "qemu"):
            raise InvalidArgument(f"unknown type '{type}'")
        most = max(machine.max_cpus for machine in self.default.machines)
        return self.kvm.vcpus(most) if type == "kvm" else most

    @property
    def _kvm_offered(self) -> bool:
        return self.kvm.offered(allow_slow=self.settings.allow_slow_kvm)
