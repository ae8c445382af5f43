"""What a guest's agent says of its guest, made into typed facts: a pure function for each command's answer.

A guest may say anything: whatever is not as the QEMU Guest Agent Protocol Reference has it is AgentCommandFailed, and
numbers and texts are bounded by what libvirt's protocol carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from corral.errors import AgentCommandFailed

if TYPE_CHECKING:
    from corral.model.devices.disk import Disk
    from corral.model.domain import Devices

T = TypeVar("T")

#: Bytes of one text, and members of one list, that are passed on.
TEXT_LIMIT = 4096
LIST_LIMIT = 2048

_UINT64 = 1 << 64
_INT32 = 1 << 31


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address of an interface; `family` is `ipv4` or `ipv6`."""

    family: str
    address: str
    prefix: int


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface, by the name that who told of it gives it."""

    name: str
    mac: str | None
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class FilesystemDisk:
    """A disk that a filesystem is on: `target` is ours (vda), `device` the guest's (/dev/vda1)."""

    target: str | None
    serial: str | None
    device: str | None


@dataclass(frozen=True, slots=True)
class Filesystem:
    """A mounted filesystem; sizes in bytes where the agent knows them."""

    name: str
    mountpoint: str
    type: str
    total: int | None = None
    used: int | None = None
    disks: tuple[FilesystemDisk, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A disk or partition in the guest; `target` is ours where it can be told."""

    name: str
    partition: bool
    dependencies: tuple[str, ...] = ()
    target: str | None = None
    alias: str | None = None
    bus: str | None = None
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Somebody logged in, since `login` (milliseconds of Unix time)."""

    name: str
    domain: str | None
    login: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was asked for; None or empty where it was not, or where the agent does not know."""

    users: tuple[User, ...] | None = None
    os: dict[str, str] | None = None
    timezone: tuple[str | None, int] | None = None
    hostname: str | None = None
    filesystems: tuple[Filesystem, ...] | None = None
    disks: tuple[GuestDisk, ...] | None = None
    interfaces: tuple[Interface, ...] | None = None
    load: tuple[float, float, float] | None = None
    unknown: tuple[str, ...] = field(default=())
    """The agent's commands that it does not have."""


@contextmanager
def _believing(what: str) -> Iterator[None]:
    """Turn whatever an answer of the wrong shape leads to into one error."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise AgentCommandFailed(f"the agent's answer about {what} makes no sense: {error!r}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {str(value)[:40]}")
    # Zero bytes end a text on the wire, lone surrogates cannot be sent.
    return value.replace("\0", "").encode("utf-8", "replace").decode()[:TEXT_LIMIT]


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object, limit: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -limit <= value < limit:
        raise ValueError(f"not a number: {str(value)[:40]}")
    return value


def _size(value: object) -> int | None:
    if value is None:
        return None
    number = _number(value, _UINT64)
    if number < 0:
        raise ValueError("a negative size")
    return number


def _list(value: object, make: Callable[[Any], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(make(each) for each in value[:LIST_LIMIT])


def text(answer: Any, member: str, what: str) -> str:
    """One text member of an answer."""
    with _believing(what):
        return _text(answer[member])


def number(answer: Any, what: str) -> int:
    """An answer that is one number of 64 bits."""
    with _believing(what):
        return _number(answer, 1 << 63)


def texts(answer: Any, member: str, what: str) -> tuple[str, ...]:
    """A list of texts in a member of an answer."""
    with _believing(what):
        return _list(answer[member], _text)


def trim_failures(answer: Any) -> list[str]:
    """What guest-fstrim says did not work, a line for each path."""
    with _believing("trimming"):
        paths = _list(answer.get("paths", []), lambda each: (_text(each["path"]), _optional(each.get("error"))))
        return [f"{path}: {error}" for path, error in paths if error]


def interfaces(answer: Any) -> tuple[Interface, ...]:
    """guest-network-get-interfaces."""

    def address(each: Any) -> Address:
        family = _text(each["ip-address-type"])
        if family not in ("ipv4", "ipv6"):
            raise ValueError(f"unknown ip address type '{family[:20]}'")
        return Address(family, _text(each["ip-address"]), _number(each["prefix"], 129))

    def interface(each: Any) -> Interface:
        # An alias such as eth0:1 is the same interface; libvirt's clients see its addresses there.
        name = _text(each["name"]).partition(":")[0]
        return Interface(name, _optional(each.get("hardware-address")), _list(each.get("ip-addresses") or [], address))

    with _believing("interfaces"):
        merged: dict[str, Interface] = {}
        for each in _list(answer, interface):
            before = merged.get(each.name)
            if before is not None:
                each = Interface(each.name, before.mac or each.mac, (*before.addresses, *each.addresses))
            merged[each.name] = each
        return tuple(merged.values())


def filesystems(answer: Any, devices: Devices) -> tuple[Filesystem, ...]:
    """guest-get-fsinfo; `devices` tells which disk of ours each one is on."""

    def disk(each: Any) -> FilesystemDisk:
        ours = _disk_at(each, devices)
        serial, device = _optional(each.get("serial")), _optional(each.get("dev"))
        return FilesystemDisk(ours.target.dev if ours else None, serial, device)

    def filesystem(each: Any) -> Filesystem:
        return Filesystem(
            name=_text(each["name"]),
            mountpoint=_text(each["mountpoint"]),
            type=_text(each["type"]),
            total=_size(each.get("total-bytes")),
            used=_size(each.get("used-bytes")),
            disks=_list(each["disk"], disk)[:256],
        )

    with _believing("filesystems"):
        return _list(answer, filesystem)


def disks(answer: Any, devices: Devices) -> tuple[GuestDisk, ...]:
    """guest-get-disks."""

    def disk(each: Any) -> GuestDisk:
        place = each.get("address") or {}
        ours = _disk_at(place, devices) if place else None
        bus = _optional(place.get("bus-type"))
        return GuestDisk(
            name=_text(each["name"]),
            partition=bool(each["partition"]),
            dependencies=_list(each.get("dependencies") or [], _text)[:256],
            target=ours.target.dev if ours else None,
            alias=_optional(each.get("alias")),
            bus=bus,
            serial=_optional(place.get("serial")),
        )

    with _believing("disks"):
        return _list(answer, disk)


def _disk_at(place: Any, devices: Devices) -> Disk | None:
    """Our disk at a place that the guest names: its bus type, its unit, and its controller's PCI address."""
    bus, target, unit = (_number(place[member], _INT32) for member in ("bus", "target", "unit"))
    pci = place["pci-controller"]
    where = tuple(_number(pci[member], _INT32) for member in ("domain", "bus", "slot", "function"))
    kind = _text(place["bus-type"])
    for disk in devices.disks:
        at = disk.address
        if at is None:
            continue
        if at.type == "pci" and kind == "virtio" and _pci(at) == where:
            return disk
        if at.type == "drive" and disk.target.bus == kind and (at.bus, at.target, at.unit) == (bus, target, unit):
            controller = next(
                (
                    each
                    for each in devices.controllers
                    if each.type == kind and each.index == at.controller and each.address is not None
                ),
                None,
            )
            if controller is None or controller.address is None or _pci(controller.address) == where:
                return disk
    return None


def _pci(address: Any) -> tuple[int, ...] | None:
    if address.type != "pci":
        return None
    return (address.domain, address.bus, address.slot, address.function)


def users(answer: Any) -> tuple[User, ...]:
    """guest-get-users; login times come as seconds with a fraction."""

    def user(each: Any) -> User:
        login = each["login-time"]
        if isinstance(login, bool) or not isinstance(login, int | float) or not 0 <= login < 1 << 53:
            raise ValueError("no time of login")
        return User(_text(each["user"]), _optional(each.get("domain")), int(login * 1000))

    with _believing("users"):
        return _list(answer, user)


#: The members of guest-get-osinfo by libvirt's names for them.
_OS = {
    "id": "id",
    "name": "name",
    "pretty-name": "pretty-name",
    "version": "version",
    "version-id": "version-id",
    "machine": "machine",
    "variant": "variant",
    "variant-id": "variant-id",
    "kernel-release": "kernel-release",
    "kernel-version": "kernel-version",
}


def os(answer: Any) -> dict[str, str]:
    """guest-get-osinfo."""
    with _believing("its operating system"):
        return {ours: _text(answer[theirs]) for theirs, ours in _OS.items() if answer.get(theirs) is not None}


def timezone(answer: Any) -> tuple[str | None, int]:
    """guest-get-timezone: its name where it has one, seconds east of Greenwich."""
    with _believing("its time zone"):
        return _optional(answer.get("zone")), _number(answer["offset"], _INT32)


def load(answer: Any) -> tuple[float, float, float]:
    """guest-get-load."""
    with _believing("its load"):
        one, five, fifteen = (float(answer[member]) for member in ("load1m", "load5m", "load15m"))
        return one, five, fifteen
