"""A host: the daemon at the other end of a connection, and its domains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from corral import constants
from corral.client.connection import CALL_TIMEOUT, Connection
from corral.client.domain import Domain
from corral.client.transport import dial, last_words
from corral.client.uri import Address, default_uri, parse
from corral.errors import AuthFailed, CorralError, InvalidConnection, NoConnect, NoDomain, NoSupport, RPCError

if TYPE_CHECKING:
    from pathlib import Path

    from corral.client.events import Event
    from corral.client.facts import NodeInfo, Version
    from corral.client.listening import Events
    from corral.model.domain import Domain as DomainDocument

AUTH_NONE, AUTH_SASL, AUTH_POLKIT = 0, 1, 2  # remote_auth_type
KEEPALIVE_FEATURE = 10  # VIR_DRV_FEATURE_PROGRAM_KEEPALIVE: asking for it tells the daemon that we answer pings
READONLY = constants.ConnectFlags.RO
ATTEMPTS = 3  # a daemon that leaves because it was idle may close its socket as we connect
RETREAT = 0.05  # seconds: the socket of a process that ends outlives its connections by a moment


@asynccontextmanager
async def connect(uri: str | None = None, *, readonly: bool = False) -> AsyncIterator[Host]:
    """Connect to the daemon at `uri`; without one to $CORRAL_URI, or one's own daemon, which starts by itself.

    Raises NoConnect, AuthFailed or InvalidArgument, each saying what to do.
    """
    host = await Host.open(uri, readonly=readonly)
    try:
        yield host
    finally:
        await host.close()


class Host:
    """An open connection to a daemon: its domains, what it is and can do, and what happens on it."""

    def __init__(self, connection: Connection, uri: str) -> None:
        self.connection = connection
        self.uri = uri

    @classmethod
    async def open(cls, uri: str | None = None, *, readonly: bool = False) -> Host:
        """Connect, as `connect` does; the caller closes."""
        address = parse(uri or default_uri(), readonly=readonly)
        for attempt in range(1, ATTEMPTS + 1):
            connection = await dial(address)
            try:
                await _greet(connection, address, readonly)
            except InvalidConnection as error:
                await connection.close()
                if not address.launch or attempt == ATTEMPTS:
                    raise await last_words(connection, error) from error
                await asyncio.sleep(RETREAT * attempt)
            except BaseException:
                await connection.close()
                raise
            else:
                return cls(connection, address.uri)
        raise NoConnect(f"{address.uri} closed every connection")

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self.connection.close()

    async def call(self, name: str, /, **fields: Any) -> Any:
        """Call any procedure by its short name, such as `domain_lookup_by_name`; the fields as the wire has them."""
        for key, value in fields.items():
            if isinstance(value, Domain):
                fields[key] = value.reference
        return await self.connection.call(name, fields, timeout=CALL_TIMEOUT)

    async def call_own(self, name: str, *, timeout: float | None = CALL_TIMEOUT, **fields: Any) -> Any:
        """Call a procedure of Corral's own program; NoSupport from a libvirtd, which does not have it."""
        try:
            return await self.connection.call(name, fields, timeout=timeout)
        except RPCError as error:
            if "Cannot find program" in str(error):
                raise NoSupport("only Corral's own daemon has it") from error
            raise

    def wrap(self, reference: Any) -> Domain:
        """The handle for a domain that an answer or event names."""
        return Domain(self, reference)

    # Domains.

    async def domains(self, *, active: bool | None = None, persistent: bool | None = None) -> list[Domain]:
        """All domains, or only those (not) running or (not) persistent; sorted by name."""
        filters = constants.ConnectListAllDomainsFlags
        flags = 0
        if active is not None:
            flags |= filters.ACTIVE if active else filters.INACTIVE
        if persistent is not None:
            flags |= filters.PERSISTENT if persistent else filters.TRANSIENT
        answer = await self.connection.call("connect_list_all_domains", {"need_results": 1, "flags": flags})
        return sorted((self.wrap(reference) for reference in answer.domains), key=lambda domain: domain.name)

    async def domain(self, key: str | int | UUID | Domain) -> Domain:
        """The domain with that name, UUID or id (an int, or a text of digits that is no name); NoDomain if none has."""
        if isinstance(key, Domain):
            return key
        if isinstance(key, int):
            return self.wrap((await self.connection.call("domain_lookup_by_id", {"id": key})).dom)
        if isinstance(key, UUID):
            return self.wrap((await self.connection.call("domain_lookup_by_uuid", {"uuid": key.bytes})).dom)
        try:
            return self.wrap((await self.connection.call("domain_lookup_by_name", {"name": key})).dom)
        except NoDomain:
            for other in (_as_uuid(key), int(key) if key.isascii() and key.isdigit() and int(key) < 1 << 31 else None):
                if other is not None:
                    try:
                        return await self.domain(other)
                    except NoDomain:
                        continue
            raise

    async def define(self, document: str | DomainDocument, *, validate: bool = False) -> Domain:
        """Keep a definition (XML or model), new or in place of the one with its name and UUID.

        `validate` checks it against libvirt's schema first.
        """
        flags = constants.DomainDefineFlags.VALIDATE * validate
        answer = await self.connection.call("domain_define_xml_flags", {"xml": _xml(document), "flags": flags})
        return self.wrap(answer.dom)

    async def create(
        self, document: str | DomainDocument, *, paused: bool = False, autodestroy: bool = False, validate: bool = False
    ) -> Domain:
        """Start a transient domain, forgotten when it stops; with `autodestroy` it ends with this connection."""
        flags = constants.DomainCreateFlags
        chosen = flags.START_PAUSED * paused | flags.START_AUTODESTROY * autodestroy | flags.START_VALIDATE * validate
        answer = await self.connection.call("domain_create_xml", {"xml_desc": _xml(document), "flags": chosen})
        return self.wrap(answer.dom)

    async def run(
        self,
        image: str | Path = "tiny",
        *,
        name: str | None = None,
        cpus: int = 1,
        memory: int | str = "256M",
        transient: bool = False,
        paused: bool = False,
        progress: Callable[[str], None] | None = None,
        **choices: Any,
    ) -> Domain:
        """Define and start a new domain from `image`: "tiny", or the path of a disk image or installation CD.

        `memory` is in MiB, or text such as "2G". `transient` forgets the domain when it stops. `progress` gets a line
        a step. `choices` are those of `corral.client.recipe.Recipe`.
        """
        from corral.client.recipe import Recipe

        recipe = Recipe(image=str(image), name=name, cpus=cpus, memory=memory, **choices)
        return await recipe.run(self, transient=transient, paused=paused, progress=progress)

    async def launch(self, document: str | DomainDocument, *, transient: bool = False, paused: bool = False) -> Domain:
        """Define and start a new domain, or with `transient` start it without keeping it; all of it or nothing."""
        if transient:
            return await self.create(document, paused=paused)
        domain = await self.define(document)
        try:
            await domain.start(paused=paused)
        except BaseException:
            await asyncio.shield(_forget(domain))  # nothing is left of what did not start
            raise
        return domain

    def events(self, *kinds: type[Event] | str, domain: Domain | None = None) -> Events:
        """What happens on the host, of these kinds (classes or names) or all, to one domain or all of them."""
        from corral.client.listening import Events

        return Events(self, kinds, domain)

    # What it is.

    async def capabilities(self) -> str:
        """What the host can do, as libvirt's capabilities XML."""
        return str((await self.connection.call("connect_get_capabilities")).capabilities)

    async def domain_types(self) -> list[str]:
        """The kinds of virtual machine that it runs, `kvm` before `qemu`."""
        from corral.client.facts import domain_types

        return domain_types(await self.capabilities())

    async def node_info(self) -> NodeInfo:
        """The host's CPUs and memory."""
        from corral.client.facts import node_info

        return node_info(await self.connection.call("node_get_info"))

    async def version(self) -> Version:
        """The versions of the daemon's API and of QEMU."""
        from corral.client.facts import version

        library, hypervisor = await asyncio.gather(
            self.connection.call("connect_get_lib_version"), self.connection.call("connect_get_version")
        )
        return version(library.lib_ver, hypervisor.hv_ver)

    async def hostname(self) -> str:
        """The host's name."""
        return str((await self.connection.call("connect_get_hostname")).hostname)

    async def report(self) -> list[dict[str, Any]]:
        """What works here and why not: rows of `name`, `ok`, `text`, `hint`, `number`; Corral's own daemon only."""
        import json

        rows: list[dict[str, Any]] = json.loads((await self.call_own("corral.host_report")).json)["rows"]
        return rows


async def _greet(connection: Connection, address: Address, readonly: bool) -> None:
    """Prove who we are, offer keepalive and open the driver, in libvirt's order (remote_driver.c, doRemoteOpen)."""
    types = (await connection.call("auth_list", timeout=20)).types
    if types and AUTH_NONE not in types:
        if AUTH_POLKIT not in types:
            raise AuthFailed(
                f"the daemon at {address.uri} wants SASL, which is not supported", hint="use its local socket or ssh"
            )
        try:
            await connection.call("auth_polkit", timeout=120)  # a person may be typing a password
        except CorralError as error:
            raise AuthFailed(
                f"polkit refused access to {address.uri}", hint="join the group libvirt, or use sudo"
            ) from error
    feature = connection.call("connect_supports_feature", {"feature": KEEPALIVE_FEATURE}, timeout=20)
    opened = connection.call("connect_open", {"name": address.name, "flags": READONLY * readonly}, timeout=20)
    supported, _ = await asyncio.gather(feature, opened)
    if supported.supported:
        connection.keep_alive()


async def _forget(domain: Domain) -> None:
    with suppress(CorralError):
        await domain.undefine()


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) >= 32 else None
    except ValueError:
        return None


def _xml(document: str | DomainDocument) -> str:
    return document if isinstance(document, str) else document.to_xml(secure=True)


async def names(uri: str | None = None) -> list[str]:
    """The names of the host's domains, for completion: a daemon that does not run is not started for it."""
    from dataclasses import replace

    address = replace(parse(uri or default_uri()), launch=None)
    connection = await dial(address)
    try:
        await _greet(connection, address, False)
        return [domain.name for domain in await Host(connection, address.uri).domains()]
    finally:
        await connection.close()
