"""Registering for events: libvirt's old calls (one registration a connection) and the new (one id a callback)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from corral.constants import ConnectDomainQemuMonitorEventRegisterFlags, DomainEventID
from corral.daemon.dispatch import handler

if TYPE_CHECKING:
    from corral.daemon.session import Session

MONITOR_FLAGS = ConnectDomainQemuMonitorEventRegisterFlags.REGEX | ConnectDomainQemuMonitorEventRegisterFlags.NOCASE


def _uuid(reference: Any) -> UUID | None:
    return None if reference is None else UUID(bytes=reference.uuid)


@handler("connect_domain_event_register")
def domain_event_register(session: Session, args: None) -> dict[str, Any]:
    """Life-cycle events of all domains, in the oldest form."""
    session.subscriptions.add_plain(DomainEventID.LIFECYCLE)
    return {"cb_registered": 1}


@handler("connect_domain_event_deregister")
def domain_event_deregister(session: Session, args: None) -> dict[str, Any]:
    """No more of them."""
    session.subscriptions.remove_plain(DomainEventID.LIFECYCLE)
    return {"cb_registered": 0}


@handler("connect_domain_event_register_any")
def domain_event_register_any(session: Session, args: Any) -> None:
    """Events of one kind, of all domains, without a callback id."""
    session.subscriptions.add_plain(args.eventID)


@handler("connect_domain_event_deregister_any")
def domain_event_deregister_any(session: Session, args: Any) -> None:
    """No more of them."""
    session.subscriptions.remove_plain(args.eventID)


@handler("connect_domain_event_callback_register_any")
def domain_event_callback_register_any(session: Session, args: Any) -> dict[str, Any]:
    """Events of one kind, of one domain or all, with a callback id."""
    if args.dom is not None:
        session.hypervisor.lookup_by_uuid(UUID(bytes=args.dom.uuid))
    return {"callbackID": session.subscriptions.add(args.eventID, _uuid(args.dom))}


@handler("connect_domain_event_callback_deregister_any")
def domain_event_callback_deregister_any(session: Session, args: Any) -> None:
    """No more to that callback."""
    session.subscriptions.remove(args.callbackID)


@handler("qemu.connect_domain_monitor_event_register", flags=MONITOR_FLAGS)
def monitor_event_register(session: Session, args: Any) -> dict[str, Any]:
    """QEMU's own events: all, of one name, or of names that match a regular expression."""
    return {
        "callbackID": session.subscriptions.add_monitor(
            args.event,
            _uuid(args.dom),
            regex=bool(args.flags & ConnectDomainQemuMonitorEventRegisterFlags.REGEX),
            nocase=bool(args.flags & ConnectDomainQemuMonitorEventRegisterFlags.NOCASE),
        )
    }


@handler("qemu.connect_domain_monitor_event_deregister")
def monitor_event_deregister(session: Session, args: Any) -> None:
    """No more to that callback."""
    session.subscriptions.remove(args.callbackID)


@handler("connect_register_close_callback")
def register_close_callback(session: Session, args: None) -> None:
    """The client wants to hear when our hypervisor is lost; ours is the daemon itself, so the socket's end tells."""
    session.subscriptions.watch_close()


@handler("connect_unregister_close_callback")
def unregister_close_callback(session: Session, args: None) -> None:
    """It no longer does."""
    session.subscriptions.unwatch_close()


@handler("connect_network_event_register_any")
def network_event_register_any(session: Session, args: Any) -> dict[str, Any]:
    """There are no networks, so nothing will come; clients register before they look."""
    return {"callbackID": session.subscriptions.add_silent()}


@handler("connect_network_event_deregister_any")
def network_event_deregister_any(session: Session, args: Any) -> None:
    """No more to that callback."""
    session.subscriptions.remove(args.callbackID)


@handler("connect_storage_pool_event_register_any")
def storage_pool_event_register_any(session: Session, args: Any) -> dict[str, Any]:
    """Events of one kind, of one pool or all."""
    if args.pool is not None:
        session.hypervisor.pools.lookup_by_uuid(UUID(bytes=args.pool.uuid), args.pool.name)
    return {"callbackID": session.subscriptions.add_pool(args.eventID, _uuid(args.pool))}


@handler("connect_storage_pool_event_deregister_any")
def storage_pool_event_deregister_any(session: Session, args: Any) -> None:
    """No more to that callback."""
    session.subscriptions.remove(args.callbackID)


@handler("connect_node_device_event_register_any")
def node_device_event_register_any(session: Session, args: Any) -> dict[str, Any]:
    """Node devices are not served, so nothing will come."""
    return {"callbackID": session.subscriptions.add_silent()}


@handler("connect_node_device_event_deregister_any")
def node_device_event_deregister_any(session: Session, args: Any) -> None:
    """No more to that callback."""
    session.subscriptions.remove(args.callbackID)


@handler("connect_secret_event_register_any")
def secret_event_register_any(session: Session, args: Any) -> dict[str, Any]:
    """Events of one kind, of one secret or all."""
    if args.secret is not None:
        session.hypervisor.secrets.by_uuid(UUID(bytes=args.secret.uuid))
    return {"callbackID": session.subscriptions.add_secret(args.eventID, _uuid(args.secret))}


@handler("connect_secret_event_deregister_any")
def secret_event_deregister_any(session: Session, args: Any) -> None:
    """No more to that callback."""
    session.subscriptions.remove(args.callbackID)
