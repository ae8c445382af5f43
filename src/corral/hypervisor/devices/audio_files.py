"""The WAV files that guests play to: made before QEMU starts, which opens them by name under an account of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import HostError

if TYPE_CHECKING:
    from corral.host.account import Account
    from corral.model.domain import Domain as DomainDocument


def prepare(document: DomainDocument, account: Account | None) -> None:
    """Make the files that are not there, QEMU's own; HostError for one that it cannot write."""
    for audio in document.devices.audios:
        if audio.type == "file" and audio.path is not None:
            _prepare(Path(audio.path), account)


def _prepare(path: Path, account: Account | None) -> None:
    try:
        with path.open("xb") as file:
            os.fchmod(file.fileno(), 0o640)
            if account is not None:
                os.fchown(file.fileno(), account.uid, -1)
    except FileExistsError:
        pass
    except OSError as error:
        raise HostError(f"cannot make '{path}' for audio: {error.strerror}") from error
    if account is not None and not account.may(path, os.W_OK):
        raise HostError(
            f"QEMU's account {account.name} may not write '{path}'",
            hint="it needs to own the file, and the way to it has to be open",
        )
