"""passt: a process that carries a guest's packets over sockets of the host's, without rights. passt(1).

It listens on a socket to which QEMU connects, and ends by itself when QEMU's end is closed. It goes into the background
when all is ready, so that the end of the program that we start is the answer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path

from corral.errors import ConfigUnsupported, HostError
from corral.host import one_client
from corral.host.account import Account
from corral.model.devices.interface import Interface, PortForward, PortRange

#: Seconds from the start of passt until it is ready.
START_TIMEOUT = 20.0


def find() -> str | None:
    """The program, if it is installed."""
    return shutil.which("passt")


def arguments(interface: Interface, *, listen: Path) -> list[str]:
    """passt's own, for one interface, in the directory of the socket."""
    words = ["--one-off", "--quiet", "--socket", listen.name, "--pid", pid_file(listen).name]
    if interface.source is not None and interface.source.dev is not None:
        words += ["--interface", interface.source.dev]
    if interface.backend is not None and interface.backend.log_file is not None:
        words += ["--log-file", interface.backend.log_file]
    if interface.mtu is not None:
        words += ["--mtu", str(interface.mtu.size)]
    for address in interface.ips:
        words += ["--address", address.address]
        if address.prefix is not None and ":" not in address.address:
            words += ["--netmask", str(address.prefix)]
    for forward in interface.port_forwards:
        words += [f"--{forward.proto}-ports", ports(forward)]
    return words


def ports(forward: PortForward) -> str:
    """A `<portForward>` in passt's words: `[ADDRESS[%LINK]/]PORT[-PORT][:PORT[-PORT]],…,~PORT`."""
    where = forward.address or ""
    where += f"%{forward.dev}" if forward.dev is not None else ""
    ranges = ",".join(_ranges(forward.ranges)) or "all"
    return f"{where}/{ranges}" if where else ranges


def _ranges(ranges: list[PortRange]) -> Iterator[str]:
    for each in ranges:
        text = f"{'~' if each.exclude == 'yes' else ''}{each.start}"
        text += f"-{each.end}" if each.end is not None else ""
        if each.to is not None:
            text += f":{each.to}"
            text += f"-{each.to + each.end - each.start}" if each.end is not None else ""
        yield text


def pid_file(listen: Path) -> Path:
    """Where the passt that listens there writes its process id."""
    return listen.with_suffix(".pid")


def pid(listen: Path) -> int:
    """The process id that the passt which listens there wrote; OSError or ValueError when there is none.

    QEMU's account owns the directory, so what is there now may be anything: nothing is waited for or followed.
    """
    file = os.open(pid_file(listen), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return int(os.read(file, 20))
    finally:
        os.close(file)


def start(interface: Interface, *, listen: Path, account: Account | None) -> None:
    """Start passt and wait until it is ready. HostError with its own words when it refuses.

    `account` is whom it runs as, None: us. It is that account from the first: passt's own --runas comes, since 2024,
    after its socket, when root has already lost the right to make one in a directory of somebody else's.
    """
    program = find()
    if program is None:
        raise ConfigUnsupported("passt is not installed", hint="apt-get install passt, or leave <backend> out")
    dismiss(listen)  # one that a daemon started and died
    assuming: list[str] = []
    if account is not None:  # ports below 1024 can be forwarded, as root could
        assuming = replace(account, groups=(), capabilities=("net_bind_service",)).assuming()
    try:
        done = subprocess.run(
            [*assuming, program, *arguments(interface, listen=listen)],
            cwd=listen.parent,  # the way there may be closed to passt's account
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_TIMEOUT,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(f"passt was not ready after {START_TIMEOUT:g} s") from error
    except OSError as error:
        raise HostError(f"cannot execute {program}: {error.strerror}") from error
    if done.returncode != 0:
        raise HostError(f"passt refused to start: {_words(done.stderr) or f'status {done.returncode}'}")


def dismiss(listen: Path) -> None:
    """End a passt to which no QEMU is connected any more: its one client comes, and goes. Its files go, too."""
    one_client.dismiss(listen)
    with contextlib.suppress(OSError):
        pid_file(listen).unlink(missing_ok=True)


def dismiss_all(directory: Path, besides: Container[Path] = ()) -> None:
    """End all that listen in a machine's directory, `besides` some, to which no QEMU comes any more."""
    for listen in directory.glob("passt-*.sock"):
        if listen not in besides:
            dismiss(listen)


def _words(text: str) -> str:
    """What it says of itself, without its complaints about a missing syslog."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "to syslog" not in line]
    return " ".join(lines[-3:])
