"""What only the guest knows or can do, asked of its agent, and its own sleep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corral.constants import (
    DomainAuthorizedSSHKeysSetFlags,
    DomainSetTimeFlags,
    DomainSetUserPasswordFlags,
    IPAddrType,
    TypedParameterType,
)
from corral.daemon.dispatch import on_domain
from corral.errors import InvalidArgument
from corral.hypervisor.guest import guest_agent, sleeping
from corral.protocol.typed_params import TypedParam, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from corral.daemon.session import Session
    from corral.hypervisor.domain import Domain
    from corral.hypervisor.guest.guest_facts import Facts, Filesystem, GuestDisk, Interface

#: What a reply may hold: remote_domain_interface_addresses_ret, remote_domain_get_fsinfo_ret and its disks,
#: remote_domain_get_guest_info_ret.
INTERFACES_MAX = 2048
FILESYSTEMS_MAX = 256
GUEST_INFO_MAX = 2048

FAMILIES = {"ipv4": IPAddrType.IPV4, "ipv6": IPAddrType.IPV6}


@on_domain("domain_get_time")
async def get_time(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The guest's clock."""
    seconds, nanoseconds = await guest_agent.get_time(domain)
    return {"seconds": seconds, "nseconds": nanoseconds}


@on_domain("domain_set_time", flags=DomainSetTimeFlags.TIME_SYNC)
async def set_time(session: Session, domain: Domain, args: Any) -> None:
    """Set the guest's clock."""
    await guest_agent.set_time(domain, args.seconds, args.nseconds, args.flags)


@on_domain("domain_fsfreeze")
async def freeze(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Freeze the guest's filesystems."""
    return {"filesystems": await guest_agent.freeze(domain, args.mountpoints)}


@on_domain("domain_fsthaw")
async def thaw(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """Thaw them."""
    return {"filesystems": await guest_agent.thaw(domain, args.mountpoints)}


@on_domain("domain_fstrim")
async def trim(session: Session, domain: Domain, args: Any) -> None:
    """Give the guest's unused blocks back."""
    await guest_agent.trim(domain, args.mountPoint, args.minimum)


@on_domain("domain_get_fsinfo")
async def get_fsinfo(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The guest's filesystems and the disks that they are on."""
    found = (await guest_agent.filesystems(domain))[:FILESYSTEMS_MAX]
    return {"info": [_filesystem(each) for each in found], "ret": len(found)}


def _filesystem(filesystem: Filesystem) -> dict[str, Any]:
    return {
        "mountpoint": filesystem.mountpoint,
        "name": filesystem.name,
        "fstype": filesystem.type,
        "dev_aliases": [disk.target for disk in filesystem.disks if disk.target],
    }


@on_domain("domain_set_user_password", flags=DomainSetUserPasswordFlags.PASSWORD_ENCRYPTED)
async def set_user_password(session: Session, domain: Domain, args: Any) -> None:
    """Change a password in the guest."""
    await guest_agent.set_password(domain, args.user, args.password, args.flags)


@on_domain("domain_authorized_ssh_keys_get")
async def ssh_keys(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """A guest user's authorized keys."""
    return {"keys": list(await guest_agent.ssh_keys(domain, args.user))}


@on_domain(
    "domain_authorized_ssh_keys_set",
    flags=DomainAuthorizedSSHKeysSetFlags.APPEND | DomainAuthorizedSSHKeysSetFlags.REMOVE,
)
async def set_ssh_keys(session: Session, domain: Domain, args: Any) -> None:
    """Set, add or remove a guest user's authorized keys."""
    flags = DomainAuthorizedSSHKeysSetFlags
    if args.flags & flags.APPEND and args.flags & flags.REMOVE:
        raise InvalidArgument("keys are appended or removed, not both at once")
    await guest_agent.set_ssh_keys(domain, args.user, args.keys, args.flags)


@on_domain("domain_agent_set_response_timeout")
async def set_response_timeout(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """How long the guest's agent may take from now on."""
    await guest_agent.set_response_timeout(domain, args.timeout)
    return {"result": 0}


@on_domain("domain_interface_addresses")
async def interface_addresses(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """The guest's network addresses, by who knows them."""
    found = await guest_agent.interface_addresses(domain, args.source)
    return {"ifaces": [_interface(each) for each in found[:INTERFACES_MAX]]}


def _interface(interface: Interface) -> dict[str, Any]:
    return {
        "name": interface.name,
        "hwaddr": interface.mac,
        "addrs": [
            {"type": FAMILIES[address.family], "addr": address.address, "prefix": max(0, address.prefix)}
            for address in interface.addresses[:INTERFACES_MAX]
        ],
    }


@on_domain("domain_get_guest_info")
async def get_guest_info(session: Session, domain: Domain, args: Any) -> dict[str, Any]:
    """What the guest's agent knows, as typed parameters."""
    found = list(_parameters(await guest_agent.facts(domain, args.types)))
    return {"params": pack(found[:GUEST_INFO_MAX])}


def _parameters(facts: Facts) -> Iterator[TypedParam]:
    """The facts by libvirt's names (VIR_DOMAIN_GUEST_INFO_*)."""
    for number, user in _counted(facts.users):
        if number is None or user is None:
            yield _count("user", facts.users)
            continue
        yield from _texts(f"user.{number}", {"name": user.name, "domain": user.domain})
        yield TypedParam(f"user.{number}.login-time", TypedParameterType.ULLONG, user.login)
    yield from _texts("os", facts.os or {})
    if facts.timezone is not None:
        name, offset = facts.timezone
        yield from _texts("timezone", {"name": name})
        yield TypedParam("timezone.offset", TypedParameterType.INT, offset)
    if facts.hostname is not None:
        yield TypedParam("hostname", TypedParameterType.STRING, facts.hostname)
    yield from _filesystems(facts)
    yield from _disks(facts)
    yield from _interfaces(facts)
    for minutes, load in zip(("1m", "5m", "15m"), facts.load or (), strict=False):
        yield TypedParam(f"load.{minutes}", TypedParameterType.DOUBLE, load)


def _counted(items: tuple[Any, ...] | None) -> Iterator[tuple[int | None, Any]]:
    """The place of the count, and then each item with its number; nothing when there is no answer."""
    if items is not None:
        yield None, None
        yield from enumerate(items)


def _count(name: str, items: tuple[Any, ...] | None) -> TypedParam:
    return TypedParam(f"{name}.count", TypedParameterType.UINT, len(items or ()))


def _texts(prefix: str, members: Mapping[str, str | None]) -> Iterator[TypedParam]:
    for name, value in members.items():
        if value is not None:
            yield TypedParam(f"{prefix}.{name}", TypedParameterType.STRING, value)


def _filesystems(facts: Facts) -> Iterator[TypedParam]:
    if not facts.filesystems:
        return  # libvirt gives no count either
    for number, each in _counted(facts.filesystems):
        if number is None:
            yield _count("fs", facts.filesystems)
            continue
        prefix = f"fs.{number}"
        yield from _texts(prefix, {"name": each.name, "mountpoint": each.mountpoint, "fstype": each.type})
        for name, size in (("total-bytes", each.total), ("used-bytes", each.used)):
            if size is not None:
                yield TypedParam(f"{prefix}.{name}", TypedParameterType.ULLONG, size)
        yield _count(f"{prefix}.disk", each.disks)
        for place, disk in enumerate(each.disks):
            members = {"alias": disk.target, "serial": disk.serial, "device": disk.device}
            yield from _texts(f"{prefix}.disk.{place}", members)


def _disks(facts: Facts) -> Iterator[TypedParam]:
    for number, each in _counted(facts.disks):
        if number is None:
            yield _count("disk", facts.disks)
            continue
        yield from _disk(f"disk.{number}", each)


def _disk(prefix: str, disk: GuestDisk) -> Iterator[TypedParam]:
    yield from _texts(prefix, {"name": disk.name})
    yield TypedParam(f"{prefix}.partition", TypedParameterType.BOOLEAN, int(disk.partition))
    if disk.dependencies:
        yield _count(f"{prefix}.dependency", disk.dependencies)
    for place, name in enumerate(disk.dependencies):
        yield from _texts(f"{prefix}.dependency.{place}", {"name": name})
    members = {"serial": disk.serial, "alias": disk.target, "guest_alias": disk.alias, "guest_bus": disk.bus}
    yield from _texts(prefix, members)


def _interfaces(facts: Facts) -> Iterator[TypedParam]:
    for number, each in _counted(facts.interfaces):
        if number is None:
            yield _count("if", facts.interfaces)
            continue
        prefix = f"if.{number}"
        yield from _texts(prefix, {"name": each.name, "hwaddr": each.mac})
        yield _count(f"{prefix}.addr", each.addresses)
        for place, address in enumerate(each.addresses):
            yield from _texts(f"{prefix}.addr.{place}", {"type": address.family, "addr": address.address})
            yield TypedParam(f"{prefix}.addr.{place}.prefix", TypedParameterType.UINT, max(0, address.prefix))


@on_domain("domain_pm_suspend_for_duration")
async def pm_suspend(session: Session, domain: Domain, args: Any) -> None:
    """Have the guest fall asleep, for some seconds or until it is woken."""
    await sleeping.fall_asleep(domain, args.target, args.duration)


@on_domain("domain_pm_wakeup")
async def pm_wakeup(session: Session, domain: Domain, args: Any) -> None:
    """Wake the guest."""
    await sleeping.wake_up(domain)
