"""The short way for `corral ps`, the command that is typed most and watched in loops, and for `corral daemon`.

The command-line library takes longer to load than the answer of `ps` takes to come, and two mebibytes that the daemon
would keep as long as it lives. So the plain forms of both are read here, and everything else, a mistake too, is left to
`ps.py` and `daemon.py`, which know the same options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

VNC_TLS = ("off", "on", "verify")


class Choices(TypedDict):
    """The arguments of `listing.show`."""

    everything: bool
    addresses: bool
    quiet: bool
    uri: str | None
    as_json: bool


def ps(arguments: Sequence[str]) -> Choices | None:
    """The arguments of `listing.show` that `arguments` (those after `corral`) mean, or None when they are not plain."""
    chosen = Choices(everything=False, addresses=False, quiet=False, uri=None, as_json=False)
    words = iter(arguments)
    named = False
    for word in words:
        option, _, value = word.partition("=")
        if word == "ps" and not named:
            named = True
        elif word in ("-a", "--all") and named:
            chosen["everything"] = True
        elif word in ("-A", "--addresses") and named:
            chosen["addresses"] = True
        elif word in ("-q", "--quiet") and named:
            chosen["quiet"] = True
        elif option in ("-c", "--connect") and (value := value or next(words, "")):
            chosen["uri"] = value
        elif option == "--format" and named and (value := value or next(words, "")) in ("json", "table"):
            chosen["as_json"] = value == "json"
        else:
            return None
    return chosen if named else None


def ports(text: str) -> tuple[int, int]:
    """The first and the last port of a range for displays, `5900-5999`; ValueError for what is none."""
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 5900 <= int(first) <= int(last) <= 65535):
        raise ValueError(f"'{text}' is no range of ports for displays")  # VNC has none below 5900
    return int(first), int(last)


def _vnc_tls(text: str) -> str:
    if text not in VNC_TLS:
        raise ValueError(text)
    return text


#: The daemon's options that take a value, and what makes the value of its text.
_VALUES: dict[str, Callable[[str], Any]] = {
    "state": Path,
    "socket": Path,
    "timeout": float,
    "emulator": Path,
    "group": str,
    "qemu_user": str,
    "display_ports": ports,
    "display_listen": str,
    "display_certificates": lambda text: Path(text).absolute(),
    "vnc_tls": _vnc_tls,
    "ready_fd": int,
}
_SWITCHES = {
    "--as-libvirt": "as_libvirt",
    "--allow-slow-kvm": "allow_slow_kvm",
    "--verbose": "verbose",
    "-v": "verbose",
}


def daemon(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The fields of the daemon's `Options` that `arguments` mean, or None when they are not plain."""
    if not arguments or arguments[0] != "daemon":
        return None
    chosen: dict[str, Any] = {}
    words = iter(arguments[1:])
    for word in words:
        option, _, text = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if word in _SWITCHES:
            chosen[_SWITCHES[word]] = True
        elif option.startswith("--") and name in _VALUES and "_" not in option and (text := text or next(words, "")):
            try:
                chosen[name] = _VALUES[name](text)
            except ValueError:
                return None
        else:
            return None
    return chosen if chosen.get("timeout", 0.0) >= 0 else None
