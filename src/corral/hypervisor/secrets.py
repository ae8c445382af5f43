"""Secrets: passwords that documents name and do not contain.

Each has a file of its own, its document beside its value, in a directory that only we may read; the value of an
ephemeral one is in memory alone. QEMU gets a value as a file in the machine's directory that is there only while QEMU
reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from corral.constants import ConnectListAllSecretsFlags, ErrorDomain, SecretEventLifecycleType, SecretUsageType
from corral.errors import CorralError, HostError, InternalError, NoSecret, OperationDenied, XMLError
from corral.hypervisor.events import EventBus
from corral.model.secret import Secret
from corral.qemu.devices.storage import passphrase_file, secret_file

if TYPE_CHECKING:
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.run import Run
    from corral.model.devices.device import Device
    from corral.model.devices.remote import AuthSecret, EncryptionSecret

log = logging.getLogger(__name__)

USAGES = {
    "volume": SecretUsageType.VOLUME,
    "ceph": SecretUsageType.CEPH,
    "iscsi": SecretUsageType.ISCSI,
    "tls": SecretUsageType.TLS,
    "vtpm": SecretUsageType.VTPM,
}
#: Bytes that a value may have (REMOTE_SECRET_VALUE_MAX).
LONGEST = 65536


@dataclass(slots=True)
class Kept:
    """A secret, and its value once it has one."""

    uuid: UUID
    document: Secret
    value: bytes | None = None

    @property
    def usage(self) -> tuple[int, str]:
        """virSecretUsageType and the name of what it is for."""
        usage = self.document.usage
        return (USAGES[usage.type], usage.id or "") if usage is not None else (SecretUsageType.NONE, "")

    @property
    def ephemeral(self) -> bool:
        return self.document.ephemeral == "yes"

    @property
    def private(self) -> bool:
        return self.document.private == "yes"


@dataclass(frozen=True, slots=True)
class SecretEvent:
    """A secret came or went: a virSecretEventLifecycleType; None: its value was set. `usage` as of `Kept`."""

    uuid: UUID
    usage: tuple[int, str]
    lifecycle: int | None


class Secrets:
    """All secrets of the daemon, in `directory` where they outlive it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: dict[UUID, Kept] = {}
        #: Held while one changes: what is in the files is what is in memory.
        self._changing = asyncio.Lock()
        self.events = EventBus[SecretEvent]()

    async def load(self) -> None:
        """Read what earlier daemons kept; a file that cannot be read is told of and left alone."""
        for kept in await asyncio.to_thread(self._read):
            self._kept[kept.uuid] = kept

    def _read(self) -> list[Kept]:
        found = []
        for path in sorted(self._directory.glob("*.xml")):
            try:
                value = path.with_suffix(".value")
                found.append(
                    Kept(
                        UUID(path.stem),
                        Secret.from_xml(path.read_bytes()),
                        value.read_bytes() if value.exists() else None,
                    )
                )
            except (OSError, ValueError, CorralError):
                log.exception("the secret in %s cannot be read", path)
        return found

    def list(self, flags: int = 0) -> list[Kept]:
        """Those that pass virConnectListAllSecretsFlags."""
        names = ConnectListAllSecretsFlags
        ephemeral, private = names.EPHEMERAL | names.NO_EPHEMERAL, names.PRIVATE | names.NO_PRIVATE
        found = list(self._kept.values())
        if flags & ephemeral:
            found = [s for s in found if flags & (names.EPHEMERAL if s.ephemeral else names.NO_EPHEMERAL)]
        if flags & private:
            found = [s for s in found if flags & (names.PRIVATE if s.private else names.NO_PRIVATE)]
        return found

    def by_uuid(self, uuid: UUID) -> Kept:
        if uuid not in self._kept:
            raise NoSecret(f"no secret with matching uuid '{uuid}'")
        return self._kept[uuid]

    def by_usage(self, kind: int, name: str) -> Kept:
        for each in self._kept.values():
            if each.usage == (kind, name):
                return each
        raise NoSecret(f"no secret with matching usage '{name}'")

    async def define(self, xml: str) -> Kept:
        """A new secret, or another document for one that is there; its value stays."""
        document = await asyncio.to_thread(Secret.from_xml, xml)
        if document.usage is not None and document.usage.id is None:
            raise XMLError(f"{document.usage.type} usage specified, but its name is missing")
        document.uuid = document.uuid or uuid4()
        document.ephemeral, document.private = document.ephemeral or "no", document.private or "no"
        new = Kept(document.uuid, document)
        async with self._changing:
            old = self._kept.get(new.uuid)
            self._refuse(new, old)
            new.value = old.value if old is not None else None
            await self._write(new)
            self._kept[new.uuid] = new
            self._tell(new, SecretEventLifecycleType.DEFINED)
        return new

    def _tell(self, secret: Kept, lifecycle: int | None) -> None:
        self.events.emit(SecretEvent(secret.uuid, secret.usage, lifecycle))

    def _refuse(self, new: Kept, old: Kept | None) -> None:
        """Raise where another secret is for the same; texts are libvirt's."""
        if old is not None and old.usage != new.usage:
            raise InternalError(f"a secret with UUID {old.uuid} is already defined for use with {old.usage[1]}")
        if old is not None and old.private and not new.private:
            raise InternalError("cannot change private flag on existing secret", domain=ErrorDomain.SECRET)
        for other in self._kept.values():
            if other is not old and new.usage[1] and other.usage == new.usage:
                raise InternalError(f"a secret with UUID {other.uuid} already defined for use with {new.usage[1]}")

    async def set_value(self, secret: Kept, value: bytes) -> None:
        async with self._changing:
            secret = self.by_uuid(secret.uuid)  # while we waited it may have got another document, or gone
            await self._write(Kept(secret.uuid, secret.document, value))
            secret.value = value
            self._tell(secret, None)

    def value(self, secret: Kept) -> bytes:
        """The value, for the daemon's own use."""
        if secret.value is None:
            raise NoSecret(f"secret '{secret.uuid}' does not have a value", hint="virsh secret-set-value sets it")
        return secret.value

    def told(self, secret: Kept) -> bytes:
        """The value, for a client."""
        if secret.private:
            raise OperationDenied("secret is private", domain=ErrorDomain.SECRET)
        return self.value(secret)

    async def undefine(self, secret: Kept) -> None:
        async with self._changing:
            self.by_uuid(secret.uuid)
            await asyncio.to_thread(self._remove, secret.uuid)
            del self._kept[secret.uuid]
            self._tell(secret, SecretEventLifecycleType.UNDEFINED)

    def _remove(self, uuid: UUID) -> None:
        for suffix in (".value", ".xml"):
            (self._directory / f"{uuid}{suffix}").unlink(missing_ok=True)

    async def _write(self, secret: Kept) -> None:
        """Write what outlives us; HostError when the disk refuses, with the old secret as it was."""
        try:
            await asyncio.to_thread(self._write_files, secret)
        except OSError as error:
            raise HostError(f"cannot keep the secret in {self._directory}: {error.strerror}") from error

    def _write_files(self, secret: Kept) -> None:
        if secret.ephemeral:
            self._remove(secret.uuid)
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if secret.value is not None:
            replace_file(self._directory / f"{secret.uuid}.value", secret.value)
        replace_file(self._directory / f"{secret.uuid}.xml", secret.document.to_xml().encode())

    def of(self, named: AuthSecret | EncryptionSecret) -> bytes:
        """The value of the secret that a document names; a passphrase is for a volume."""
        if named.uuid is not None:
            return self.value(self.by_uuid(named.uuid))
        kind = USAGES["volume" if named.type == "passphrase" else named.type]
        return self.value(self.by_usage(kind, named.usage or ""))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(path.name + ".new")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def needed(devices: Iterable[Device]) -> dict[str, AuthSecret | EncryptionSecret]:
    """The secrets that devices of a live document name, by the file in which QEMU looks for the value."""
    found: dict[str, AuthSecret | EncryptionSecret] = {}
    for device in devices:
        source = getattr(device, "source", None)
        auth, encryption = getattr(source, "auth", None), getattr(source, "encryption", None)
        if device.alias is not None and auth is not None:
            found[secret_file(device.alias.name)] = auth.secret
        if device.alias is not None and encryption is not None:
            found[passphrase_file(device.alias.name)] = encryption.secret
    return found


@contextlib.asynccontextmanager
async def lent(domain: Domain, run: Run, devices: Iterable[Device]) -> AsyncIterator[None]:
    """Have the passwords of these devices where QEMU reads them, until the block ends.

    Raises NoSecret for one that is not there or has no value.
    """
    wanted = {file: domain.hypervisor.secrets.of(secret) for file, secret in needed(devices).items()}
    account = domain.hypervisor.account
    paths = [run.directory / name for name in wanted]
    try:
        for path, value in zip(paths, wanted.values(), strict=True):
            await asyncio.to_thread(replace_file, path, value)
            if account is not None:
                os.chown(path, account.uid, account.gid)
        yield
    except OSError as error:
        raise HostError(f"cannot lend QEMU a password: {error.strerror}") from error
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
