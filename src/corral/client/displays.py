"""A machine's displays as viewers reach them: where they are, the connection to one, its password."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from corral import constants
from corral.errors import DeviceMissing, InvalidArgument, OperationInvalid

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.devices.graphics import Graphics

Kind = Literal["spice", "vnc"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Display:
    """One display of a running machine.

    Viewers come to `port` at `address`, with TLS to `tls_port`, or to the UNIX socket `socket` of the daemon's host;
    where it has none of these, through the daemon alone (`Domain.open_display`). `password` is None where there is
    none, or where nobody asked for it; it is good until `valid_to` (UTC).
    """

    type: Kind
    index: int
    """Its place among the machine's displays."""
    address: str | None
    """As the daemon's own host reaches it."""
    port: int | None
    tls_port: int | None
    websocket: int | None
    socket: str | None
    password: str | None
    valid_to: datetime | None

    def uri(self, host: str | None = None) -> str | None:
        """What `remote-viewer` takes, for a viewer that reaches the address under the name `host`."""
        if self.socket is not None:
            return f"{self.type}+unix://{quote(self.socket)}"
        if self.address is None:
            return None
        name = host or self.address
        name = f"[{name}]" if ":" in name else name
        port = f":{self.port}" if self.port is not None else ""
        secure = f"?tls-port={self.tls_port}" if self.tls_port is not None else ""
        return f"{self.type}://{name}{port}{secure}"


async def displays(domain: Domain, *, secure: bool = False) -> list[Display]:
    """The displays of a running machine, with their passwords if `secure`; OperationInvalid when it does not run."""
    document = await domain.document(secure=secure)
    if document.id is None:
        raise OperationInvalid(f"{domain.name} is not running", hint=f"corral start {domain.name}")
    return [
        display
        for index, graphics in enumerate(document.devices.graphics)
        if (display := _display(index, graphics)) is not None
    ]


def _display(index: int, graphics: Graphics) -> Display | None:
    from corral.model.displays import valid_to

    if graphics.type not in ("spice", "vnc"):
        return None
    listen = graphics.listens[0] if graphics.listens else None
    where = listen.type if listen is not None else "address"
    address = (listen.address if listen is not None else None) or graphics.listen or "127.0.0.1"
    ends = valid_to(graphics)
    listens = where in ("address", "network")
    return Display(
        type=graphics.type,
        index=index,
        address=_reachable(address) if listens else None,
        port=_port(graphics.port) if listens else None,
        tls_port=_port(graphics.tls_port) if listens else None,
        websocket=_port(graphics.websocket),
        socket=listen.socket if listen is not None and where == "socket" else None,
        password=graphics.passwd,
        valid_to=datetime.fromtimestamp(ends, UTC) if ends is not None else None,
    )


def _port(number: int | None) -> int | None:
    return number if number is not None and number > 0 else None


def _reachable(address: str) -> str:
    """An address that means a host's every address is its loopback to the host itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not parsed.is_unspecified:
        return address
    return "127.0.0.1" if parsed.version == 4 else "::1"


async def choose(domain: Domain, kind: Kind | None = None, *, secure: bool = False) -> Display:
    """The display of that type; without one SPICE, which can more, before VNC. DeviceMissing where there is none."""
    found = await displays(domain, secure=secure)
    for display in sorted(found, key=lambda each: each.type != "spice"):
        if kind is None or display.type == kind:
            return display
    what = f"{kind.upper()} display" if kind is not None else "display that a viewer can reach"
    raise _without(domain, what, kind)


def _without(domain: Domain, what: str, kind: Kind | None) -> DeviceMissing:
    hint = f"give it one with corral edit {domain.name}: <graphics type='{kind or 'spice'}' autoport='yes'/>"
    return DeviceMissing(f"{domain.name} has no {what}", hint=hint)


async def connect(domain: Domain, display: Display, *, skip_password: bool = True) -> socket.socket:
    """A new connection to a display, through the daemon and without a port; the caller closes it.

    SPICE wants one for each of its channels. Whoever may do this needs no password. NoSupport for a daemon that is
    reached through ssh.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            flags = constants.DomainOpenGraphicsFlags.SKIPAUTH * skip_password
            fields = {"dom": domain.reference, "idx": display.index, "flags": flags}
            await domain.host.connection.lend("domain_open_graphics", fields, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
    return ours


async def set_password(
    domain: Domain,
    password: str,
    *,
    kind: Kind | None = None,
    valid_to: datetime | None = None,
    connected: Literal["keep", "disconnect", "fail"] | None = None,
    config: bool | None = None,
) -> list[Kind]:
    """Give displays another password; of which types they are.

    All displays of the machine, or that of type `kind`; while it runs, only those that have a password can get another.
    It is good until `valid_to` (None: for ever). `connected` is what becomes of SPICE viewers who are there. `config`
    as for `Domain.attach`.
    """
    running = await domain.active()
    document = await domain.document(secure=True)
    chosen = [each for each in document.devices.graphics if each.type in ("spice", "vnc") and kind in (None, each.type)]
    if running and kind is None:
        chosen = [each for each in chosen if each.passwd is not None] or chosen
    if not chosen:
        raise _without(domain, f"{kind.upper() if kind is not None else 'SPICE or VNC'} display", kind)
    until = valid_to.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S") if valid_to is not None else None
    for each in chosen:
        changed = each.copy()
        changed.passwd, changed.passwd_valid_to, changed.connected = password, until, connected
        await domain.update(changed, config=config)
    return [each.type for each in chosen if each.type in ("spice", "vnc")]


def moment(text: str, now: datetime) -> datetime | None:
    """A time from now (`90s`, `30m`, `12h`, `7d`), a date and time (UTC unless it names a zone), or `never`."""
    if text == "never":
        return None
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    try:
        if match is not None:
            return now + timedelta(seconds=int(match[1]) * UNITS[match[2]])
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        hint = "write 30m, 12h, 7d, 2030-01-31T12:00 or never"
        raise InvalidArgument(f"'{text}' is no time for a password to end", hint=hint) from error
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
