"""Connection URIs: which daemon to talk to, and over what.

`corral:///session` and `corral:///system` are Corral's own daemons, `qemu:///session` and `qemu:///system` libvirt's.
The transport is a UNIX socket, or ssh when the URI names a host or says `+ssh`. The grammar and the socket names are
libvirt's (docs: uri.html, remote.html; remote_sockets.c for the names).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from corral.errors import InvalidArgument
from corral.runtime import runtime_dir

PARAMETERS = {"socket", "command", "keyfile", "mode"}
EXAMPLES = "corral:///session, corral:///system, qemu:///system, qemu+ssh://user@host/system, /path/of/a/socket"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URI leads: `sockets` are tried in order; `command`, when set, is run and spoken to instead.

    `name` is what CONNECT_OPEN is told. `launch`, when set, starts a daemon that listens on the first socket.
    """

    uri: str
    name: str
    session: bool
    sockets: tuple[Path, ...]
    command: tuple[str, ...] | None = None
    launch: tuple[str, ...] | None = None


def default_uri() -> str:
    """$CORRAL_URI, else the socket in $CORRAL_SOCKET, else libvirt's own $LIBVIRT_DEFAULT_URI.

    Without any of them it is the system's daemon for root and one's own for others. InvalidArgument names the variable.
    """
    if socket := not os.environ.get("CORRAL_URI") and os.environ.get("CORRAL_SOCKET"):
        return _at(socket)
    for variable in ("CORRAL_URI", "LIBVIRT_DEFAULT_URI"):
        if uri := os.environ.get(variable):
            try:
                parse(uri)
            except InvalidArgument as error:
                raise InvalidArgument(f"in ${variable}, {error.detail}", hint=error.hint) from error
            return uri
    return f"corral:///{_scope()}"


def _scope() -> str:
    return "system" if os.geteuid() == 0 else "session"


def _at(socket: str) -> str:
    """The URI of a daemon of Corral's that listens at this path."""
    return f"corral+unix:///{_scope()}?socket={quote(str(Path(socket).absolute()))}"


def _runtime_dir(driver: str) -> Path:
    """Where a user's sockets live: in the runtime directory, else under ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if runtime := runtime_dir():
        return runtime / ("corral" if driver == "corral" else "libvirt")
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "corral/corral-run/corral" if driver == "corral" else base / "libvirt"


def parse(uri: str, *, readonly: bool = False) -> Address:
    """The address that `uri` names, or the path of a socket; InvalidArgument says what is wrong with it."""
    if uri.startswith(("/", "./", "../")):
        uri = _at(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"'{uri}' is not a connection URI: {error}", hint=f"for example {EXAMPLES}") from error
    driver, _, transport = parts.scheme.partition("+")
    if driver not in ("corral", "qemu"):
        raise InvalidArgument(f"'{uri}' names no driver that is known here", hint=f"for example {EXAMPLES}")
    if not transport:
        transport = "ssh" if parts.hostname else "unix"
    if transport not in ("unix", "ssh"):
        raise InvalidArgument(f"transport '{transport}' in '{uri}' is not supported", hint="use unix or ssh")
    if parts.path not in ("/system", "/session"):
        raise InvalidArgument(
            f"path '{parts.path}' in '{uri}' should be /system or /session", hint=f"for example {EXAMPLES}"
        )
    if transport == "unix" and parts.hostname:
        raise InvalidArgument(f"'{uri}' names a host, which a UNIX socket cannot reach", hint=f"use {driver}+ssh://")
    if transport == "ssh" and not parts.hostname:
        raise InvalidArgument(f"'{uri}' names no host", hint=f"for example {driver}+ssh://user@host{parts.path}")

    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - PARAMETERS):
        raise InvalidArgument(
            f"parameter '{unknown[0]}' in '{uri}' is not known", hint=f"known: {', '.join(sorted(PARAMETERS))}"
        )
    session = parts.path == "/session"
    name = f"qemu://{parts.path}"
    if transport == "ssh":
        command = _ssh(driver, session, parts.hostname or "", port, parts.username, options, readonly)
        return Address(uri, name, session, (), command=command)
    if chosen := options.get("socket"):
        return Address(uri, name, session, (Path(chosen + ("-ro" if readonly else "")),))
    sockets = tuple(_local_sockets(driver, session, options.get("mode", "auto"), readonly))
    return Address(uri, name, session, sockets, launch=_launch(driver, session, sockets[0]))


def _local_sockets(driver: str, session: bool, mode: str, readonly: bool) -> list[Path]:
    base = _runtime_dir(driver) if session else Path("/run") / ("corral" if driver == "corral" else "libvirt")
    if driver == "corral":
        return [base / ("corral-sock" + ("-ro" if readonly else ""))]
    daemons = {"auto": ("virtqemud", "libvirt"), "direct": ("virtqemud",), "legacy": ("libvirt",)}
    if mode not in daemons:
        raise InvalidArgument(f"mode '{mode}' is not known", hint="use auto, direct or legacy")
    suffix = "-ro" if readonly and not session else ""  # a session has one socket; CONNECT_OPEN's flag says read-only
    return [base / f"{daemon}-sock{suffix}" for daemon in daemons[mode]]


def _launch(driver: str, session: bool, socket: Path) -> tuple[str, ...] | None:
    """The command that starts the daemon when nobody listens; only for one's own daemon."""
    root = os.geteuid() == 0
    if driver == "qemu":
        # Started by root, libvirtd is the system's daemon and listens elsewhere.
        return ("libvirtd", "--timeout=120") if session and not root else None
    if not session and not root:
        return None
    command: tuple[str, ...] = ("corral", "daemon", "--timeout", "120")
    if session and root:  # by itself it would be the system's daemon, too
        data = os.environ.get("XDG_DATA_HOME", "")
        state = (Path(data) if data.startswith("/") else Path.home() / ".local/share") / "corral"
        command += ("--state", str(state), "--socket", str(socket))
    return command


def _ssh(
    driver: str, session: bool, host: str, port: int | None, user: str | None, options: dict[str, str], readonly: bool
) -> tuple[str, ...]:
    """ssh to `host`, and there the program that joins our bytes to the daemon's socket (docs: remote.html, proxy)."""
    scope = "session" if session else "system"
    suffix = "-ro" if readonly else ""
    directory = "corral" if driver == "corral" else "libvirt"
    fallback = "/run/user/$(id -u)" if driver == "corral" else "$HOME/.cache"
    where = f'"${{XDG_RUNTIME_DIR:-{fallback}}}"' if session else "/run"
    socket = _quote(options["socket"]) if "socket" in options else f"{where}/{directory}/{directory}-sock{suffix}"
    remote = f"exec nc -U {socket}"
    if driver == "qemu" and "socket" not in options:
        proxy = f"exec virt-ssh-helper {'-r ' if readonly else ''}qemu:///{scope}"
        remote = f"if command -v virt-ssh-helper >/dev/null 2>&1; then {proxy}; else {remote}; fi"
    return (*_ssh_words(port, user, options), "--", host, f"sh -c {_quote(remote)}")


def _ssh_words(port: int | None, user: str | None, options: dict[str, str]) -> list[str]:
    words = [options.get("command", "ssh"), "-T", "-e", "none"]
    if port:
        words += ["-p", str(port)]
    if user:
        words += ["-l", unquote(user)]
    if keyfile := options.get("keyfile"):
        words += ["-i", keyfile]
    return words


def forward(uri: str, host: str, port: int) -> tuple[str, ...] | None:
    """A command that joins its standard input and output to a port as the daemon's host reaches it; None: we are there.

    `uri` is one that `parse` takes.
    """
    parts = urlsplit(uri)
    if parts.hostname is None:
        return None
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    words = _ssh_words(parts.port, parts.username, dict(parse_qsl(parts.query)))
    return (*words, "-W", where, "--", parts.hostname)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
