"""Where a user's sockets are kept, for the daemon that makes them and the clients that look for them."""

from __future__ import annotations

import os
from pathlib import Path

LOGIND = Path("/run/user")  # where systemd-logind makes it (pam_systemd(8))


def runtime_dir() -> Path | None:
    """$XDG_RUNTIME_DIR, else the one that logind made for us; None where there is neither.

    cron and some ssh servers do not set the variable, su may leave another user's: their commands still mean the one
    daemon of this user.
    """
    if (chosen := os.environ.get("XDG_RUNTIME_DIR", "")).startswith("/") and _ours(Path(chosen)) is not False:
        return Path(chosen)
    made = LOGIND / str(os.geteuid())
    return made if _ours(made) else None


def _ours(directory: Path) -> bool | None:
    """Whether it belongs to us; None where it is not."""
    try:
        return directory.stat().st_uid == os.geteuid()
    except OSError:
        return None
