"""Secrets: passwords that documents name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from corral.constants import ConnectListAllSecretsFlags, SecretDefineFlags
from corral.daemon.dispatch import handler

if TYPE_CHECKING:
    from corral.daemon.session import Session
    from corral.hypervisor.secrets import Kept

names = ConnectListAllSecretsFlags
LIST = names.EPHEMERAL | names.NO_EPHEMERAL | names.PRIVATE | names.NO_PRIVATE


def _wire(secret: Kept) -> dict[str, Any]:
    kind, name = secret.usage
    return {"uuid": secret.uuid.bytes, "usageType": kind, "usageID": name}


def _named(session: Session, args: Any) -> Kept:
    return session.hypervisor.secrets.by_uuid(UUID(bytes=args.secret.uuid))


@handler("connect_num_of_secrets")
def num_of_secrets(session: Session, args: Any) -> dict[str, Any]:
    """How many there are."""
    return {"num": len(session.hypervisor.secrets.list())}


@handler("connect_list_secrets")
def list_secrets(session: Session, args: Any) -> dict[str, Any]:
    """Their UUIDs."""
    return {"uuids": [str(each.uuid) for each in session.hypervisor.secrets.list()[: args.maxuuids]]}


@handler("connect_list_all_secrets", LIST)
def list_all_secrets(session: Session, args: Any) -> dict[str, Any]:
    """Those that pass the flags."""
    found = session.hypervisor.secrets.list(args.flags)
    return {"secrets": [_wire(each) for each in found] if args.need_results else [], "ret": len(found)}


@handler("secret_lookup_by_uuid")
def lookup_by_uuid(session: Session, args: Any) -> dict[str, Any]:
    """The secret of that UUID."""
    return {"secret": _wire(session.hypervisor.secrets.by_uuid(UUID(bytes=args.uuid)))}


@handler("secret_lookup_by_usage")
def lookup_by_usage(session: Session, args: Any) -> dict[str, Any]:
    """The secret for that use."""
    return {"secret": _wire(session.hypervisor.secrets.by_usage(args.usageType, args.usageID))}


@handler("secret_define_xml", SecretDefineFlags.VALIDATE)
async def define_xml(session: Session, args: Any) -> dict[str, Any]:
    """Make a secret, or give one another document."""
    return {"secret": _wire(await session.hypervisor.secrets.define(args.xml))}


@handler("secret_get_xml_desc")
def get_xml_desc(session: Session, args: Any) -> dict[str, Any]:
    """The document, which has no value."""
    return {"xml": _named(session, args).document.to_xml()}


@handler("secret_set_value")
async def set_value(session: Session, args: Any) -> None:
    """Set the value."""
    await session.hypervisor.secrets.set_value(_named(session, args), bytes(args.value))


@handler("secret_get_value")
def get_value(session: Session, args: Any) -> dict[str, Any]:
    """The value, unless the secret is private."""
    return {"value": session.hypervisor.secrets.told(_named(session, args))}


@handler("secret_undefine")
async def undefine(session: Session, args: Any) -> None:
    """Forget the secret and its value."""
    await session.hypervisor.secrets.undefine(_named(session, args))
