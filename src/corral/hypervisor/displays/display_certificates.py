"""Certificates of displays: the daemon's own, of which each machine that needs them has a copy that QEMU may read.

SPICE and VNC take files by name, in a directory, as ca-cert.pem, server-cert.pem and server-key.pem. QEMU's account can
seldom read the administrator's key, so a copy lies in the machine's own directory, which only that account may enter.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, HostError

if TYPE_CHECKING:
    from pathlib import Path

    from corral.host.account import Account
    from corral.hypervisor.run import Run
    from corral.hypervisor.settings import Settings
    from corral.model.domain import Domain as DomainDocument
    from corral.qemu.runtime import DisplayTLS

FILES = ("ca-cert.pem", "server-cert.pem", "server-key.pem")
#: The directory of the copies in a run's own.
DIRECTORY = "tls"
#: Bytes that a certificate file may have.
LIMIT = 1 << 20


def present(settings: Settings) -> bool:
    """Whether the daemon has certificates for displays."""
    return all((settings.certificates / name).is_file() for name in FILES)


def lend(settings: Settings, document: DomainDocument, run: Run, account: Account | None) -> DisplayTLS | None:
    """Copy the certificates for a machine that can use them; None where there are none, or nothing to secure.

    Blocks on the file system. Raises ConfigUnsupported where VNC must have TLS and there are no certificates.
    """
    from corral.qemu.runtime import DisplayTLS

    kinds = {display.type for display in document.devices.graphics}
    vnc = settings.displays.vnc_tls != "off" and "vnc" in kinds
    if not vnc and "spice" not in kinds:
        return None
    if not present(settings):
        if not vnc:
            return None
        missing = f"there are no certificates in {settings.certificates}"
        raise ConfigUnsupported(f"VNC is to use TLS, but {missing}", hint="docs/displays.md says how to make some")
    directory = run.directory / DIRECTORY
    write(directory, read(settings), account)
    return DisplayTLS(directory=directory, vnc=vnc, verify=settings.displays.vnc_tls == "verify")


def read(settings: Settings) -> dict[str, bytes]:
    """The daemon's certificates as they are now, by file name; HostError for one that cannot be read."""
    found = {}
    for name in FILES:
        path = settings.certificates / name
        try:
            with path.open("rb") as file:
                found[name] = file.read(LIMIT)
        except OSError as error:
            raise HostError(f"cannot read the certificate {path}: {error.strerror}") from error
    return found


def write(directory: Path, files: dict[str, bytes], account: Account | None) -> None:
    """Put certificates into a machine's directory, each in one piece."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if account is not None:
            os.chown(directory, account.uid, account.gid)
        for name, data in files.items():
            part = directory / f".{name}"
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if account is not None:
                    os.fchown(descriptor, account.uid, account.gid)
            part.replace(directory / name)
    except OSError as error:
        raise HostError(f"cannot put certificates into {directory}: {error.strerror}") from error


def kept(directory: Path) -> dict[str, bytes]:
    """The certificates that a machine has, to be put back when new ones are refused."""
    return {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
