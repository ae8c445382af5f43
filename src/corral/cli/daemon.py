"""`corral daemon`: the one command that is not a client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from corral.cli.quick import ports
from corral.errors import InvalidArgument


def daemon(
    state: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep everything under this directory.")] = None,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="Listen here, and read-only at PATH-ro.")] = None,
    as_libvirt: Annotated[bool, typer.Option("--as-libvirt", help="Listen where libvirt's clients look, too.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Leave when idle for so long: no client, no machine.")
    ] = None,
    emulator: Annotated[Path | None, typer.Option(metavar="PATH", help="Use this QEMU.")] = None,
    group: Annotated[str | None, typer.Option(metavar="NAME", help="Let this group use the socket.")] = None,
    qemu_user: Annotated[
        str | None, typer.Option("--qemu-user", metavar="NAME", help="Run QEMU as this user (root's daemon only).")
    ] = None,
    allow_slow_kvm: Annotated[
        bool, typer.Option("--allow-slow-kvm", help="Offer KVM even where it is emulated and slow.")
    ] = False,
    display_ports: Annotated[
        str, typer.Option("--display-ports", metavar="FIRST-LAST", help="The ports that displays are given by us.")
    ] = "5900-65535",
    display_listen: Annotated[
        str, typer.Option("--display-listen", metavar="ADDRESS", help="Where displays listen that name no address.")
    ] = "127.0.0.1",
    display_certificates: Annotated[
        Path | None,
        typer.Option("--display-certificates", metavar="DIR", help="Their certificates; else STATE/certificates."),
    ] = None,
    vnc_tls: Annotated[
        Literal["off", "on", "verify"],
        typer.Option("--vnc-tls", help="Have VNC clients use TLS, or also show a certificate of our CA."),
    ] = "off",
    ready_fd: Annotated[int | None, typer.Option(metavar="FD", help="Say that we are ready here.", hidden=True)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> int:
    """Be the daemon, in the foreground.

    Without options it serves its user, or the whole system when root starts it. SIGHUP reloads, SIGTERM ends it;
    machines run on either way. It takes over from a daemon that a command has started by itself, with its machines.
    """
    from corral.daemon import Options, run

    return run(
        Options(
            state=state,
            socket=socket,
            as_libvirt=as_libvirt,
            timeout=timeout,
            allow_slow_kvm=allow_slow_kvm,
            emulator=emulator,
            group=group,
            qemu_user=qemu_user,
            display_ports=_ports(display_ports),
            display_listen=display_listen,
            display_certificates=display_certificates.absolute() if display_certificates is not None else None,
            vnc_tls=vnc_tls,
            ready_fd=ready_fd,
            verbose=verbose,
        )
    )


def _ports(text: str) -> tuple[int, int]:
    try:
        return ports(text)
    except ValueError as error:
        raise InvalidArgument(str(error), hint="for example 5900-5999; none below 5900") from error
