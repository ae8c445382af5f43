"""All domains of one daemon: opened from the store, looked up, defined, created, and let go of."""

from __future__ import annotations

from uuid import UUID

from corral.host.node import NodeInfo
from corral.hypervisor.domain import Domain
from corral.hypervisor.events import Event, EventBus
from corral.hypervisor.settings import Settings


class Hypervisor:
    """The daemon's whole knowledge; one event loop, queries without waiting."""

    settings: Settings
    events: EventBus
    #: Changes whenever any domain's `generation` changes, a domain appears, or one goes.
    generation: int

    @classmethod
    async def open(cls, settings: Settings) -> Hypervisor:
        """Open the store, probe host and binaries, find every running machine again; finish or undo what was half done.

        Raises StoreDamaged for a store that cannot be read or is newer; ResourceBusy when another daemon has it.
        """
        raise NotImplementedError

    async def autostart(self) -> None:
        """Start the domains marked so that have not run since the host booted; failures are logged."""

    async def close(self) -> None:
        """Let go of everything: machines run on."""

    @property
    def missed_events(self) -> tuple[Event, ...]:
        """What happened while no daemon ran, to be told to clients that register within the first minute."""
        raise NotImplementedError

    @property
    def uri(self) -> str:
        raise NotImplementedError

    @property
    def hostname(self) -> str:
        raise NotImplementedError

    @property
    def version(self) -> int:
        """QEMU's version as libvirt counts it: 10.0.2 is 10000002."""
        raise NotImplementedError

    def domains(self, flags: int = 0) -> list[Domain]:
        """All domains that pass virConnectListAllDomainsFlags, by name."""
        raise NotImplementedError

    def lookup_by_name(self, name: str) -> Domain:
        raise NotImplementedError

    def lookup_by_uuid(self, uuid: UUID) -> Domain:
        raise NotImplementedError

    def lookup_by_id(self, domain_id: int) -> Domain:
        raise NotImplementedError

    async def define(self, xml: str, flags: int = 0) -> Domain:
        """Define, or redefine (virDomainDefineFlags VALIDATE)."""
        raise NotImplementedError

    async def create_xml(self, xml: str, flags: int = 0, *, owner: object | None = None) -> Domain:
        """Create and start a transient domain (virDomainCreateFlags)."""
        raise NotImplementedError

    async def owner_closed(self, owner: object) -> None:
        """A client is gone: destroy what it created with AUTODESTROY."""

    def capabilities(self) -> str:
        raise NotImplementedError

    def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virttype: str | None, flags: int = 0
    ) -> str:
        raise NotImplementedError

    def node_info(self) -> NodeInfo:
        raise NotImplementedError

    def free_memory(self) -> int:
        """Bytes."""
        raise NotImplementedError

    def max_vcpus(self, type: str | None) -> int:
        raise NotImplementedError

    async def report(self) -> str:
        """The rows of `corral doctor` as JSON."""
        raise NotImplementedError
