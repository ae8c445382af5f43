"""An image that lies on another machine, or behind a SCSI target: what a disk's and a host device's source have alike.

https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms, "network"
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element, YesNo

Protocol = Literal["iscsi", "nbd", "http", "https", "ftp", "ftps"]
DEFAULT_PORTS: dict[str, int] = {"iscsi": 3260, "nbd": 10809, "http": 80, "https": 443, "ftp": 21, "ftps": 990}

Positive = Annotated[int, Field(ge=1, le=2**63 - 1)]


class SourceHost(Element, tag="host"):
    """A server: a name or address and a port, or a UNIX socket."""

    transport: Literal["tcp", "unix"] | None = attr(default=None)
    name: str | None = attr(default=None)
    port: Annotated[int, Field(ge=1, le=65535)] | None = attr(default=None)
    socket: str | None = attr(default=None)

    @property
    def place(self) -> str:
        """`host:port`, an IPv6 address in brackets; or the socket's path."""
        if self.socket is not None:
            return self.socket
        name = f"[{self.name}]" if self.name is not None and ":" in self.name else self.name or ""
        return f"{name}:{self.port}" if self.port is not None else name


class AuthSecret(Element, tag="secret"):
    """The password: the secret with that UUID, or for that use."""

    type: Literal["iscsi"] = attr()
    uuid: UUID | None = attr(default=None)
    usage: str | None = attr(default=None)


class Auth(Element, tag="auth"):
    """As which account the host is known to a target (CHAP)."""

    username: str = attr()
    secret: AuthSecret = element()


class EncryptionSecret(Element, tag="secret"):
    """The passphrase: the secret with that UUID, or for that volume."""

    type: Literal["passphrase"] = attr()
    uuid: UUID | None = attr(default=None)
    usage: str | None = attr(default=None)


class Encryption(Element, tag="encryption"):
    """An image that is encrypted: raw ones as a whole, qcow2 ones by themselves."""

    format: Literal["luks"] = attr()
    engine: Literal["qemu"] | None = attr(default=None)
    secret: EncryptionSecret = element()


class Iqn(Element, tag="iqn"):
    name: str = attr()


class Initiator(Element, tag="initiator"):
    """As whom the host asks an iSCSI target."""

    iqn: Iqn = element()


class SSL(Element, tag="ssl"):
    verify: YesNo = attr()


class Readahead(Element, tag="readahead"):
    """Bytes read ahead of the guest."""

    size: Positive = attr()


class Timeout(Element, tag="timeout"):
    seconds: Positive = attr()


class Reconnect(Element, tag="reconnect"):
    """For how many seconds requests wait for a server that is gone."""

    delay: Annotated[int, Field(ge=0, le=2**32 - 1)] = attr()


class HelperSocket(Element, tag="source"):
    """Where a helper for persistent reservations listens that the user runs."""

    type: Literal["unix"] = attr()
    path: str = attr()
    mode: Literal["client"] = attr()


class Reservations(Element, tag="reservations"):
    """Persistent reservations of a SCSI device of the host, made by a helper of ours (managed) or of the user's."""

    managed: YesNo | None = attr(default=None)
    source: HelperSocket | None = element(default=None)


def place(protocol: str, hosts: list[SourceHost], name: str | None) -> str:
    """The image as a URL, by which two documents that mean the same one are told."""
    where = hosts[0].place if hosts else ""
    return f"{protocol}://{where}/{name or ''}"
