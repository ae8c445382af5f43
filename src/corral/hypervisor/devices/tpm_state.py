"""Where emulated TPMs keep their state: a directory a domain, from its first start until it is undefined."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from corral.hypervisor.settings import Settings
    from corral.model.domain import Domain as DomainDocument

#: The mark that the state outlives its domain, which was undefined so.
_KEEP = "keep"


def directory(settings: Settings, uuid: UUID) -> Path:
    """The directory of one domain's TPM."""
    return settings.state / "tpm" / str(uuid)


def forget(settings: Settings, uuid: UUID, document: DomainDocument, *, keep: bool | None = None) -> None:
    """Remove the state of a domain that is no more, unless its document or whoever undefined it says otherwise.

    `keep` True: it stays, also when a run that goes on ends later; False: it shall go; None: as was said before.
    """
    from corral.model.devices.tpm import EmulatorBackend

    backends = [tpm.backend for tpm in document.devices.tpms if isinstance(tpm.backend, EmulatorBackend)]
    place = directory(settings, uuid)
    if not backends or not place.is_dir():
        return
    if keep:
        (place / _KEEP).touch(mode=0o600)
    elif keep is None and (place / _KEEP).exists():
        return
    elif not any(backend.persistent_state == "yes" for backend in backends):
        shutil.rmtree(place, ignore_errors=True)
