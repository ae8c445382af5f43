"""The account that QEMU runs as when the daemon is root: one that owns nothing and is in no group but what it needs."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from corral.errors import HostError

#: Whom QEMU runs as, the first that exists: Corral's own account, else the one that libvirt's package makes.
NAMES = ("corral-qemu", "libvirt-qemu")
KVM = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class Account:
    """A user, its group, and the supplementary groups that its processes get (none of its own)."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    """What its processes may do beyond other users' (capabilities(7)), under setpriv's names."""

    def assuming(self) -> list[str]:
        """The command that becomes the account, with its capabilities, and runs what follows."""
        groups = ["--groups", ",".join(map(str, self.groups))] if self.groups else ["--clear-groups"]
        kept = ",".join(f"+{name}" for name in self.capabilities)
        user = ["--reuid", str(self.uid), "--regid", str(self.gid), *groups]
        return ["setpriv", *user, "--inh-caps", kept, "--ambient-caps", kept, "--"]

    def may(self, path: Path, access: int) -> bool:
        """Whether the account has `access` (os.R_OK | os.W_OK) to the file, by owner, group and mode all the way down.

        Access control lists are not looked at: what only they grant counts as refused.
        """
        try:
            places = {path.absolute(), path.resolve(strict=True)}
            folders = {folder for place in places for folder in place.parents}
            return all(self._allowed(folder, os.X_OK) for folder in folders) and self._allowed(path, access)
        except OSError:
            return False

    def _allowed(self, path: Path, access: int) -> bool:
        status = path.stat()
        mode = status.st_mode
        if status.st_uid == self.uid:
            mode >>= 6
        elif status.st_gid in (self.gid, *self.groups):
            mode >>= 3
        return mode & access == access


def choose(wanted: str | None = None) -> Account | None:
    """The account for QEMU: `wanted`, else the first of NAMES; None to run it as we are ourselves.

    Raises HostError for a wanted account that is not there, or that we may not become.
    """
    if os.geteuid() != 0:
        if wanted is not None and wanted != pwd.getpwuid(os.geteuid()).pw_name:
            raise HostError(f"cannot run QEMU as user '{wanted}'", hint="only a daemon of root's can")
        return None
    for name in (wanted,) if wanted is not None else NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, _device_groups()) if entry.pw_uid else None
    if wanted is not None:
        raise HostError(f"cannot run QEMU as user '{wanted}': there is no such user")
    return None


def _device_groups() -> tuple[int, ...]:
    """The group to which the host gives KVM, if it gives it to one."""
    try:
        status = KVM.stat()
        group = grp.getgrnam("kvm").gr_gid
    except (OSError, KeyError):
        return ()
    return (group,) if status.st_gid == group and status.st_mode & stat.S_IRGRP else ()
