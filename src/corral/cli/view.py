"""`corral view`: a machine's screen in a viewer on this computer; where that cannot be, what to do instead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from corral.cli.display import Kind
from corral.cli.options import Connect, Name
from corral.cli.target import command, find, run
from corral.errors import InvalidArgument, OperationDenied, OperationFailed, OperationUnsupported

if TYPE_CHECKING:
    from corral.client.displays import Display
    from corral.client.domain import Domain

VIEWER = "remote-viewer"
ATTACHING = "virt-viewer"
"""The viewer that comes through the daemon, where a display listens nowhere."""


def view(
    name: Name,
    kind: Kind = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="The authority of the display's certificate.", show_default=False),
    ] = None,
    tell: Annotated[bool, typer.Option("--print", help="Only say how to see it.")] = False,
    connect: Connect = None,
) -> None:
    """Open a machine's screen in a viewer; where there is none, say how to see it. Through ssh where the daemon is.

    corral view web

    corral -c corral+ssh://me@vm.example.org/system view web
    """
    missing = "" if tell else _missing()
    if missing is None:
        raise typer.Exit(run(_open(connect, name, kind, ca)))
    for line in run(_tell(connect, name, kind, missing)):
        typer.echo(line)


def _missing() -> str | None:
    """Why there is no window."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no desktop here (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    if shutil.which(VIEWER) is None:
        return f"there is no viewer here (apt install {ATTACHING})"
    return None


async def _open(uri: str | None, name: str, kind: Literal["spice", "vnc"] | None, ca: Path | None) -> int:
    """Run a viewer until its window is closed."""
    from corral.client.host import connect

    async with connect(uri) as host, contextlib.AsyncExitStack() as stack:
        domain = await find(host, name)
        display, _ = await _choose(domain, kind)
        if display.address is None:
            return await _run(attaching(host.uri, domain, display), b"")
        display = await stack.enter_async_context(_near(host.uri, display))
        return await _run([VIEWER, "-"], settings(display, domain.name, _read(ca)).encode())


async def _run(words: list[str], text: bytes) -> int:
    try:
        viewer = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.PIPE)
    except OSError as error:
        raise OperationFailed(f"{words[0]}: {error.strerror}") from error
    try:
        await viewer.communicate(text)
    finally:
        if viewer.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                viewer.terminate()
            await viewer.wait()
    return viewer.returncode or 0


def _read(ca: Path | None) -> str | None:
    if ca is None:
        return None
    try:
        return ca.read_text()
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{ca}: {error}") from error


@contextlib.asynccontextmanager
async def _near(uri: str, display: Display) -> AsyncIterator[Display]:
    """The display as it is reached from this computer: where it is, or at ports that ssh carries."""
    from corral.client.tunnel import tunnel
    from corral.client.uri import forward

    async with contextlib.AsyncExitStack() as stack:

        async def near(port: int | None) -> int | None:
            carrier = forward(uri, display.address or "", port) if port is not None else None
            return port if carrier is None else await stack.enter_async_context(tunnel(carrier))

        address = "127.0.0.1" if urlsplit(uri).hostname else display.address
        yield replace(display, address=address, port=await near(display.port), tls_port=await near(display.tls_port))


def settings(display: Display, title: str, ca: str | None = None) -> str:
    """What remote-viewer reads: its manual's CONNECTION FILE. The password stands on no command line."""
    lines = ["[virt-viewer]", f"type={display.type}", f"host={display.address}", f"title={title}"]
    if display.port is not None:
        lines.append(f"port={display.port}")
    if display.tls_port is not None and (ca is not None or display.port is None):
        lines.append(f"tls-port={display.tls_port}")
    if display.password is not None:
        lines.append(f"password={_escaped(display.password)}")
    if ca is not None:
        lines.append(f"ca={_escaped(ca)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """A value of a GKeyFile."""
    for plain, written in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(plain, written)
    return text.replace(" ", "\\s", 1) if text.startswith(" ") else text


def attaching(uri: str, domain: Domain, display: Display) -> list[str]:
    """virt-viewer, which has the daemon hand it connections: a display that listens nowhere, or at a UNIX socket."""
    from corral.client.uri import parse

    address = parse(uri)
    if not address.sockets:
        raise OperationUnsupported(
            f"{domain.name}'s {display.type.upper()} display listens at no address that ssh could reach",
            hint="run corral view on its host, or give it <listen type='address'/>",
        )
    scope = "session" if address.session else "system"
    there = next((each for each in address.sockets if each.exists()), address.sockets[0])
    return [ATTACHING, "--attach", "--connect", f"qemu+unix:///{scope}?socket={there}", str(domain.uuid)]


async def _tell(uri: str | None, name: str, kind: Literal["spice", "vnc"] | None, missing: str) -> list[str]:
    from corral.client.host import connect

    async with connect(uri) as host:
        domain = await find(host, name)
        display, protected = await _choose(domain, kind)
        return instructions(display, domain.name, host.uri, command(uri), missing, protected)


async def _choose(domain: Domain, kind: Literal["spice", "vnc"] | None) -> tuple[Display, bool | None]:
    """The display with its password, and whether it has one; None for a connection that may not ask for it."""
    from corral.client.displays import choose

    try:
        display = await choose(domain, kind, secure=True)
    except OperationDenied:
        return await choose(domain, kind), None
    return display, display.password is not None


def instructions(
    display: Display, name: str, uri: str, corral: str, missing: str, protected: bool | None = None
) -> list[str]:
    """How a person gets to see the screen, line by line; `corral` is the word for a command to this daemon."""
    far = urlsplit(uri).hostname
    place = f"on {far}" if far else "on this host"
    lines = [f"{name} shows its screen by {display.type.upper()} {place}{f'; {missing}' if missing else ''}."]
    if display.address is None:
        where = f"at the UNIX socket {display.socket}" if display.socket else "through the daemon alone"
        lines.append(f"It is reached {where}, so the viewer runs there:")
        lines.append(f"    corral view {name}")
    elif far:
        lines += ["From here, with ssh kept open beside the viewer:", *_by_ssh(display, _login(uri))]
    else:
        lines += ["With a viewer on this host:", f"    {VIEWER} {shlex.quote(display.uri() or '')}"]
        if display.address in ("127.0.0.1", "::1"):
            lines.append("From another computer, with ssh kept open beside the viewer:")
            lines += _by_ssh(display, f"USER@{socket.gethostname()}")
        else:
            lines += ["From another computer:", f"    {VIEWER} {shlex.quote(display.uri() or '')}"]
    if protected:
        lines += ["It asks for a password:", f"    {corral} display ls {name} --password"]
    elif protected is None:
        lines.append("It may ask for a password, which whoever may change the machine can show or set: corral display.")
    else:
        lines.append("It asks for no password.")
    return lines


def _login(uri: str) -> str:
    parts = urlsplit(uri)
    login = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    return f"-p {parts.port} {login}" if parts.port else login


def _by_ssh(display: Display, login: str) -> list[str]:
    ports = [port for port in (display.port, display.tls_port) if port is not None]
    host = f"[{display.address}]" if ":" in str(display.address) else display.address
    forwards = " ".join(f"-L {port}:{host}:{port}" for port in ports)
    return [f"    ssh -N {forwards} {login}", f"    {VIEWER} {shlex.quote(display.uri('localhost') or '')}"]
