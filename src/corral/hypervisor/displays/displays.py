"""Displays of machines: their ports and drawing devices at a start, and connections that come through the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from corral.constants import DomainGraphicsReloadType, DomainOpenGraphicsFlags
from corral.errors import (
    ConfigUnsupported,
    CorralError,
    HostError,
    InternalError,
    InvalidArgument,
    OperationInvalid,
    OperationUnsupported,
)
from corral.hypervisor.displays import display_certificates, ports

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.hypervisor.domain import Domain
    from corral.model.devices.graphics import Graphics
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.runtime import GraphicsPorts

#: Where the kernel has the devices that draw without a screen.
RENDER_NODES = Path("/dev/dri")
#: Seconds that the address of a host's name is looked for.
RESOLVE_TIMEOUT = 10.0
#: QEMU's word for each type of display that takes connections.
PROTOCOLS = {"vnc": "vnc", "spice": "spice", "dbus": "@dbus-display"}


async def take_ports(domain: Domain, document: DomainDocument) -> dict[int, GraphicsPorts]:
    """Choose the ports that are left to us, and claim those that the document demands."""
    from corral.qemu.runtime import GraphicsPorts

    taken: dict[int, GraphicsPorts] = {}
    for index, graphics in enumerate(document.devices.graphics):
        if not graphics.listens or graphics.listens[0].type in ("socket", "none"):
            continue
        if graphics.type == "spice":
            taken[index] = await _spice_ports(domain, graphics)
        else:
            automatic = graphics.autoport == "yes" or graphics.port in (None, -1)
            taken[index] = GraphicsPorts(
                port=await _port(domain, graphics, -1 if automatic else graphics.port),
                websocket=await _port(domain, graphics, graphics.websocket, ports.WEBSOCKETS),
            )
    return taken


async def _spice_ports(domain: Domain, graphics: Graphics) -> GraphicsPorts:
    """The plain port, the one with TLS, or both, as the channels need them and the daemon has certificates."""
    from corral.qemu.runtime import GraphicsPorts

    tls = display_certificates.present(domain.hypervisor.settings)
    plain, secure = graphics.port, graphics.tls_port
    if graphics.autoport == "yes":
        modes = {graphics.default_mode or "any", *(channel.mode for channel in graphics.channels)}
        plain = -1 if modes & {"any", "insecure"} else None
        secure = -1 if "secure" in modes or (tls and "any" in modes) else None
    if secure == -1 and not tls:
        raise ConfigUnsupported(
            "Auto allocation of spice TLS port requested but the daemon has no certificates for displays",
            hint="docs/displays.md says how to make some",
        )
    return GraphicsPorts(port=await _port(domain, graphics, plain), tls_port=await _port(domain, graphics, secure))


async def _port(domain: Domain, graphics: Graphics, wanted: int | None, candidates: range | None = None) -> int | None:
    """One port: that which is wanted, -1 for a free one, None or 0 for none."""
    hypervisor = domain.hypervisor
    if wanted is None or wanted == 0:
        return None
    settings = hypervisor.settings.displays
    name = next((listen.address for listen in graphics.listens if listen.address), graphics.listen)
    address = await _resolved(name or settings.listen)
    if wanted > 0:
        hypervisor.ports.demand(domain, wanted, address)
        return wanted
    return hypervisor.ports.take(domain, candidates or settings.ports, address)


async def _resolved(name: str) -> str:
    """The numeric address of a host's name; HostError when it has none."""
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        raise HostError(f"cannot find the address of '{name}' for a display to listen on") from error
    return str(found[0][4][0])


def choose_render_nodes(document: DomainDocument, account: Account | None) -> DomainDocument:
    """The document with a device for each display that draws with OpenGL and names none; HostError without any."""
    from corral.model.devices.graphics import GL
    from corral.qemu.devices import graphics

    if not any(graphics.draws(display) for display in document.devices.graphics):
        return document
    document = document.copy()
    for display in document.devices.graphics:
        if graphics.draws(display):
            display.gl = display.gl or GL()
            display.gl.rendernode = display.gl.rendernode or str(_first_render_node())
            _check_render_node(Path(display.gl.rendernode), account)
    return document


def render_nodes() -> list[Path]:
    """The devices of this host that draw for OpenGL."""
    return sorted(RENDER_NODES.glob("renderD*"))


def _first_render_node() -> Path:
    found = render_nodes()
    if not found:
        raise HostError(
            f"No DRM render nodes available in {RENDER_NODES}",
            hint="this host has no graphics card that draws; leave OpenGL and 3d acceleration out",
        )
    return found[0]


def _check_render_node(path: Path, account: Account | None) -> None:
    may = account.may(path, os.R_OK | os.W_OK) if account is not None else os.access(path, os.R_OK | os.W_OK)
    if not path.exists():
        raise HostError(f"there is no render node '{path}'")
    if not may:
        who = account.name if account is not None else "this user"
        raise HostError(f"{who}, as whom QEMU runs, may not open {path}", hint=f"setfacl -m u:{who}:rw {path}")


async def open_with(domain: Domain, index: int, descriptor: int, flags: int = 0) -> None:
    """Have a display serve the client at the other end of a socket (virDomainOpenGraphicsFlags SKIPAUTH)."""
    run = domain.require_run()
    displays = run.live.document.devices.graphics
    if index >= len(displays):
        raise InternalError(f"No graphics backend with index {index}")
    kind = displays[index].type
    if kind not in PROTOCOLS or (kind == "dbus" and displays[index].p2p != "yes"):
        raise OperationUnsupported(f"Can only open VNC, SPICE or D-Bus p2p graphics backends, not {kind}")
    monitor = run.require_machine().monitor
    name = f"graphics-{domain.id}-{index}"
    skip = bool(flags & DomainOpenGraphicsFlags.SKIPAUTH)
    await monitor.execute("getfd", {"fdname": name}, descriptor=descriptor)
    try:
        await monitor.execute("add_client", {"protocol": PROTOCOLS[kind], "fdname": name, "skipauth": skip})
    except BaseException:
        with contextlib.suppress(CorralError):
            await monitor.execute("closefd", {"fdname": name})
        raise


async def open_client(domain: Domain, index: int, flags: int = 0) -> int:
    """A new connection to a display, as a descriptor that is the caller's from now on."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await open_with(domain, index, theirs.fileno(), flags)
        return ours.detach()


def check_socket(descriptor: int) -> None:
    """InvalidArgument unless the descriptor is a stream socket."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as probe:
            kind = probe.type
    except OSError:
        kind = None
    if kind != socket.SOCK_STREAM:
        raise InvalidArgument("a display is opened with a stream socket")


async def reload(domain: Domain, kind: int) -> None:
    """Have VNC servers use the daemon's certificates as they are now (virDomainGraphicsReloadType)."""
    run = domain.require_run()
    if kind not in (DomainGraphicsReloadType.ANY, DomainGraphicsReloadType.VNC):
        raise InvalidArgument(f"unknown type {kind} of displays to reload")
    if not any(display.type == "vnc" for display in run.live.document.devices.graphics):
        raise OperationInvalid(
            "no graphics of type vnc to reload", hint="SPICE reads its certificates at the start only"
        )
    directory = run.directory / display_certificates.DIRECTORY
    if not directory.is_dir():
        raise OperationInvalid("this machine's VNC server does not use TLS", hint="corral daemon --vnc-tls on")
    settings, account = domain.hypervisor.settings, domain.hypervisor.account
    before = await asyncio.to_thread(display_certificates.kept, directory)
    new = await asyncio.to_thread(display_certificates.read, settings)
    await asyncio.to_thread(display_certificates.write, directory, new, account)
    try:
        arguments = {"type": "vnc", "tls-certs": True}
        await run.require_machine().monitor.execute("display-reload", arguments)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(display_certificates.write, directory, before, account))
        raise
