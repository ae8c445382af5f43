"""All domains of one daemon: opened from the store, looked up, defined, created, and let go of."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from corral.constants import (
    ConnectListAllDomainsFlags,
    DomainCreateFlags,
    DomainDefineFlags,
    DomainEventDefinedDetailType,
    DomainEventType,
    DomainEventUndefinedDetailType,
    DomainJobOperation,
    DomainUndefineFlags,
    ErrorDomain,
)
from corral.errors import (
    CorralError,
    DomainExists,
    HostError,
    NoDomain,
    OperationInvalid,
    XMLError,
)
from corral.host.account import NAMES, choose
from corral.hypervisor import events, listing, reattach, starting
from corral.hypervisor.devices import tpm_state
from corral.hypervisor.disks.images import Images
from corral.hypervisor.displays.ports import Ports
from corral.hypervisor.documents import computed
from corral.hypervisor.domain import Domain
from corral.hypervisor.events import Event, EventBus, Lifecycle
from corral.hypervisor.figures.perf_events import PerfCounters
from corral.hypervisor.host.offer import Offer
from corral.hypervisor.pools.pools import Pools
from corral.hypervisor.scaling.autoscaling import Autoscaling
from corral.hypervisor.secrets import Secrets
from corral.hypervisor.store import Store

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.host.node import NodeInfo
    from corral.hypervisor.run import Run
    from corral.hypervisor.settings import Settings
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.monitor import MonitorEvent

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that changes under way get to end when the daemon stops.
CLOSE_PATIENCE = 10.0
#: Seconds after the start during which clients that register are told what they missed.
MISSED_EVENTS_AGE = 60.0
#: The kernel's limit of a UNIX socket's path, and the longest name that a domain's directory puts below `run`.
_SOCKET_PATH_LIMIT = 107
_LONGEST_BELOW_RUN = len("/d123456/channel-org.qemu.guest_agent.0")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Hypervisor:
    """The daemon's whole knowledge; one event loop, queries without waiting."""

    def __init__(self, settings: Settings, store: Store, boot: str, offer: Offer, account: Account | None) -> None:
        self.settings = settings
        self.store = store
        self.boot = boot
        self.offer = offer
        #: Whom QEMU runs as; None: us.
        self.account = account
        self.events = EventBus[Event]()
        #: Changes whenever any domain's `generation` changes, a domain appears, or one goes.
        self.generation = 0
        #: Held while definitions (names, UUIDs, documents) change, so that they never contradict each other.
        self.definitions = asyncio.Lock()
        #: Held while a name is chosen for a link of the host's that is yet to be made.
        self.naming = asyncio.Lock()
        self.images = Images()
        self.ports = Ports()
        self.pools = Pools(self)
        self.secrets = Secrets(settings.state / "secrets")
        self.closing = False
        self._by_uuid: dict[UUID, Domain] = {}
        self._by_name: dict[str, Domain] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watches: set[asyncio.Task[Any]] = set()
        self._missed: list[Event] = []
        self._opened = time.monotonic()
        self.autoscaling = Autoscaling(self)
        self.perf = PerfCounters(self)

    # Life of the daemon.

    @classmethod
    async def open(cls, settings: Settings) -> Hypervisor:
        """Open the store, probe host and binaries, find every running machine again; finish or undo what was half done.

        Raises StoreDamaged for a store that cannot be read or is newer; ResourceBusy when another daemon has it.
        """
        if len(os.fsencode(settings.run)) + _LONGEST_BELOW_RUN > _SOCKET_PATH_LIMIT:
            raise HostError(
                f"the path {settings.run} is too long for the sockets below it (they are limited to"
                f" {_SOCKET_PATH_LIMIT} bytes)",
                hint="choose a state directory with a shorter path",
            )
        account = await asyncio.to_thread(choose, settings.qemu_user)
        if account is None and not settings.session and settings.qemu_user is None:
            log.warning(
                "QEMU runs as root: there is no account for it (useradd --system --no-create-home %s)", NAMES[0]
            )
        _make_directories(settings)
        store = await Store.open(settings.store, temporary=settings.temporary)
        try:
            boot = (await asyncio.to_thread(_BOOT_ID.read_text)).strip()
            hypervisor = cls(settings, store, boot, await Offer.look(settings), account)
            unsubscribe = hypervisor.events.subscribe(hypervisor._missed.append)
            await hypervisor.secrets.load()
            await reattach.restore(hypervisor)
            await hypervisor.pools.open()
            await hypervisor.autoscaling.open()
            hypervisor.perf.review()
            unsubscribe()  # last, without a wait after it: what happens from now on its hearers are there for
            hypervisor._opened = time.monotonic()
            return hypervisor
        except BaseException:
            await store.close()
            raise

    async def autostart(self) -> None:
        """Start the domains marked so that have not run since the host booted; failures are logged.

        Once a boot, and again after a daemon that was stopped in good order: what its user stopped stays off, and a
        daemon that was killed changes nothing by coming back.
        """
        if await self.store.meta("autostarted") == self.boot:
            return
        await self.pools.autostart()
        for domain in self.domains(ConnectListAllDomainsFlags.INACTIVE | ConnectListAllDomainsFlags.AUTOSTART):
            if domain.last_boot != self.boot:
                try:
                    await domain.create()
                except CorralError as error:
                    log.error("cannot autostart domain %s: %s", domain.name, error)
        await self.store.set_meta("autostarted", self.boot)

    async def close(self) -> None:
        """Let go of everything: machines run on."""
        self.closing = True
        self.autoscaling.close()
        self.perf.close()
        for watch in self._watches:
            watch.cancel()
        if self._tasks:
            _, unfinished = await asyncio.wait(self._tasks, timeout=CLOSE_PATIENCE)
            for task in unfinished:
                task.cancel()
            if unfinished:
                await asyncio.wait(unfinished, timeout=CLOSE_PATIENCE)
        for domain in list(self._by_uuid.values()):
            if domain.run is not None:
                await _detach(domain.run)
        try:
            await self.store.set_meta("autostarted", "")
        except CorralError:
            log.exception("cannot write to the store")
        self.pools.close()
        await self.store.close()

    async def reload(self) -> None:
        """Look at the host and its emulators again."""
        self.offer = await Offer.look(self.settings)
        self.account = await asyncio.to_thread(choose, self.settings.qemu_user)
        self.generation += 1

    def watch(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as long as the daemon runs; it is ended with it at once."""
        task = self.spawn(work)
        self._tasks.discard(task)
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task of ours that nobody waits for; what it raises is logged."""
        task = self._begin(work)
        task.add_done_callback(_log_failure)
        return task

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end, also when our caller is cancelled."""
        task = self._begin(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)  # whoever would have heard of it has gone
            raise

    # What there is.

    @property
    def missed_events(self) -> tuple[Event, ...]:
        """What happened while no daemon ran, to be told to clients that register within the first minute."""
        if self._missed and time.monotonic() - self._opened > MISSED_EVENTS_AGE:
            self._missed.clear()
        return tuple(self._missed)

    @property
    def uri(self) -> str:
        """The URI that reaches this daemon."""
        return self.settings.uri

    @property
    def hostname(self) -> str:
        """The host's name."""
        return self.offer.host.hostname

    @property
    def version(self) -> int:
        """QEMU's version as libvirt counts it: 10.0.2 is 10000002."""
        return self.offer.default.version_number

    def domains(self, flags: int = 0) -> list[Domain]:
        """All domains that pass virConnectListAllDomainsFlags, by name."""
        found = [
            domain
            for domain in self._by_uuid.values()
            if domain.exists and (not flags or listing.passes(domain, flags))
        ]
        return sorted(found, key=lambda domain: domain.name)

    def lookup_by_name(self, name: str) -> Domain:
        """The domain of that name; NoDomain."""
        domain = self._by_name.get(name)
        if domain is None or not domain.exists:
            raise NoDomain(f"no domain with matching name '{name}'")
        return domain

    def lookup_by_uuid(self, uuid: UUID) -> Domain:
        """The domain of that UUID; NoDomain."""
        domain = self._by_uuid.get(uuid)
        if domain is None or not domain.exists:
            raise NoDomain(f"no domain with matching uuid '{uuid}'")
        return domain

    def lookup_by_id(self, domain_id: int) -> Domain:
        """The running domain of that id; NoDomain."""
        for domain in self._by_uuid.values():
            if domain.run is not None and domain.run.id == domain_id:
                return domain
        raise NoDomain(f"no domain with matching id {domain_id}")

    # Definitions.

    async def define(self, xml: str, flags: int = 0) -> Domain:
        """Define, or redefine (virDomainDefineFlags VALIDATE)."""
        return await self.complete(self._define(xml, bool(flags & DomainDefineFlags.VALIDATE)))

    async def _define(self, xml: str, validate: bool) -> Domain:
        definition = await self.offer.completed(xml, validate=validate)
        document = definition.document
        uuid = _uuid(document)
        async with self.definitions:
            existing = self._conflict(uuid, document.name)
            known = existing is not None
            await self.store.define(uuid, document.name, definition.secure_xml)
            # Asked again: a transient domain of that name may have ended in the meantime.
            domain = self._by_uuid.get(uuid) or self._add(uuid, document.name)
            domain.configure(definition)
            self._tell(
                domain,
                DomainEventType.DEFINED,
                DomainEventDefinedDetailType.UPDATED if known else DomainEventDefinedDetailType.ADDED,
            )
        return domain

    async def create_xml(self, xml: str, flags: int = 0, *, owner: object | None = None) -> Domain:
        """Create and start a transient domain (virDomainCreateFlags)."""
        return await self.complete(self._create_xml(xml, flags, owner))

    async def _create_xml(self, xml: str, flags: int, owner: object | None) -> Domain:
        definition = await self.offer.completed(xml, validate=bool(flags & DomainCreateFlags.START_VALIDATE))
        document = definition.document
        uuid = _uuid(document)
        wanted = owner if flags & DomainCreateFlags.START_AUTODESTROY else None
        while True:
            async with self.definitions:
                domain = self._conflict(uuid, document.name, active=False) or self._add(uuid, document.name)
            async with domain.jobs.hold("start", operation=DomainJobOperation.START):
                if self._by_uuid.get(uuid) is not domain:
                    continue  # another start had the slot, failed, and took the domain with it
                try:
                    if domain.run is not None:
                        raise OperationInvalid(f"domain '{domain.name}' is already active", domain=ErrorDomain.DOMAIN)
                    await starting.start(domain, definition, flags, owner=wanted)
                finally:
                    self.forget_if_gone(domain)
                return domain

    async def undefine(self, domain: Domain, flags: int) -> None:
        """Forget a definition; a running domain becomes transient."""
        async with self.definitions:
            if domain.config is None:
                raise OperationInvalid("cannot undefine transient domain")
            nvram = domain.config.document.os.nvram
            variables = Path(nvram.path) if nvram and nvram.path else None
            if variables is not None and variables.exists():
                if not flags & (DomainUndefineFlags.NVRAM | DomainUndefineFlags.KEEP_NVRAM):
                    raise OperationInvalid("cannot undefine domain with nvram")
                if flags & DomainUndefineFlags.NVRAM:
                    try:
                        variables.unlink(missing_ok=True)
                    except OSError as error:
                        raise HostError(f"failed to remove nvram: {variables}: {error.strerror}") from error
            await self.store.undefine(domain.uuid)
            if domain.run is None or flags & DomainUndefineFlags.KEEP_TPM:
                keep = bool(flags & DomainUndefineFlags.KEEP_TPM)
                document = domain.config.document
                await asyncio.to_thread(tpm_state.forget, self.settings, domain.uuid, document, keep=keep)
            domain.configure(None, autostart=False)
            self._tell(domain, DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.REMOVED)
            self.forget_if_gone(domain)

    async def rename(self, domain: Domain, new_name: str) -> None:
        """Give a definition another name; the job slot is held."""
        async with self.definitions:
            if domain.run is not None:
                raise OperationInvalid("cannot rename active domain")
            if domain.config is None:
                raise OperationInvalid("cannot rename a transient domain")
            if "/" in new_name or "\n" in new_name:
                character = "/" if "/" in new_name else "\\n"
                raise XMLError(f"name {new_name} cannot contain '{character}'", domain=ErrorDomain.QEMU)
            if new_name == domain.name:
                raise OperationInvalid("Can't rename domain to itself", domain=ErrorDomain.DOMAIN)
            if new_name in self._by_name:
                raise OperationInvalid(f"domain with name '{new_name}' already exists", domain=ErrorDomain.DOMAIN)

            def edit(document: DomainDocument) -> None:
                document.name = new_name

            config = domain.config
            renamed = await computed(config.secure_xml, lambda: config.edited(edit))
            await self.store.define(domain.uuid, new_name, renamed.secure_xml)
            self._tell(domain, DomainEventType.UNDEFINED, DomainEventUndefinedDetailType.RENAMED)
            del self._by_name[domain.name]
            domain.configure(renamed, name=new_name)
            self._by_name[new_name] = domain
            self._tell(domain, DomainEventType.DEFINED, DomainEventDefinedDetailType.RENAMED)

    async def owner_closed(self, owner: object) -> None:
        """A client is gone: destroy what it created with AUTODESTROY."""

        async def destroy(domain: Domain) -> None:
            try:
                await domain.destroy()
            except CorralError as error:
                log.warning("cannot destroy domain %s, whose client is gone: %s", domain.name, error)

        owned = [domain for domain in self._by_uuid.values() if domain.run and domain.run.owner is owner]
        await asyncio.gather(*(destroy(domain) for domain in owned))

    # The host.

    def capabilities(self) -> str:
        """The host's capabilities document."""
        return self.offer.capabilities()

    def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virttype: str | None, flags: int = 0
    ) -> str:
        """What a domain on an emulator may have."""
        return self.offer.domain_capabilities(emulator, arch, machine, virttype)

    def node_info(self) -> NodeInfo:
        """The host in libvirt's few numbers."""
        return self.offer.host.node_info()

    def free_memory(self) -> int:
        """Bytes."""
        from corral.host.memory import memory_stats

        return memory_stats().free * 1024

    def max_vcpus(self, type: str | None) -> int:
        """The most vCPUs a domain of a type may have."""
        return self.offer.max_vcpus(type)

    async def report(self) -> str:
        """The rows of `corral doctor`, and where disks of one's own belong, as JSON."""
        await asyncio.to_thread(import_module, "corral.hypervisor.host.report")  # it takes a while
        from corral.hypervisor.host import report

        return report.as_json(await report.report(self.settings), self.settings)

    # For the other modules of this room.

    def add(self, uuid: UUID, name: str) -> Domain:
        """A domain that the store knows."""
        return self._add(uuid, name)

    def forget_if_gone(self, domain: Domain) -> None:
        """A transient domain that does not run is no more."""
        if domain.config is None and domain.run is None and self._by_uuid.get(domain.uuid) is domain:
            del self._by_uuid[domain.uuid]
            del self._by_name[domain.name]
            domain.touch()

    def monitor_event(self, domain: Domain, event: MonitorEvent) -> None:
        """Hand on an event of QEMU's as it is."""
        details = json.dumps(event.data) if event.data else None
        self.events.emit(events.MonitorEvent(domain.identity(), event.name, event.seconds, event.microseconds, details))

    async def recover_monitor(self, domain: Domain, run: Run) -> None:
        """The monitor's connection ended and the machine may live: connect again, once."""
        await reattach.recover(domain, run)

    def _add(self, uuid: UUID, name: str) -> Domain:
        domain = Domain(self, uuid, name)
        self._by_uuid[uuid] = self._by_name[name] = domain
        self.generation += 1
        return domain

    def _tell(self, domain: Domain, event: int, detail: int) -> None:
        self.events.emit(Lifecycle(domain.identity(), event, detail))

    def _conflict(self, uuid: UUID, name: str, *, active: bool = True) -> Domain | None:
        """The domain that has both UUID and name, or None; raises when another has one of them.

        `active` False refuses one that runs.
        """
        domain = self._by_uuid.get(uuid)
        if domain is not None and domain.name != name:
            raise DomainExists(f"domain '{domain.name}' is already defined with uuid {uuid}", domain=ErrorDomain.DOMAIN)
        if domain is not None and not active and domain.active:
            raise OperationInvalid(f"domain '{name}' is already active", domain=ErrorDomain.DOMAIN)
        other = self._by_name.get(name)
        if domain is None and other is not None:
            raise DomainExists(f"domain '{name}' already exists with uuid {other.uuid}", domain=ErrorDomain.DOMAIN)
        return domain


def _log_failure(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, CorralError):
        log.warning("%s failed: %s", getattr(task.get_coro(), "__qualname__", "a task"), error)
    else:
        log.error("a task failed", exc_info=error)


async def _detach(run: Run) -> None:
    for session in list(run.sessions.values()):
        session.close()
    if run.agent is not None:
        await run.agent.close()
    for passt in run.passts.values():
        passt.close()
    if run.machine is not None:
        await run.machine.close()
    elif run.process is not None:
        run.process.close()


def _uuid(document: DomainDocument) -> UUID:
    if document.uuid is None:
        raise XMLError("the document has no UUID")
    return document.uuid


def _make_directories(settings: Settings) -> None:
    for directory in (settings.state, settings.run, settings.cache, settings.log):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if directory in (settings.state, settings.run):
                # The system daemon's sockets lie in its run directory, and others pass through to those.
                directory.chmod(0o711 if directory == settings.run and not settings.session else 0o700)
        except OSError as error:
            raise HostError(f"cannot make '{directory}': {error.strerror}") from error
