"""A pool's directory as its document wants it: made, owned, removed. All of it blocks on the file system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from corral.constants import ErrorDomain
from corral.errors import HostError
from corral.hypervisor.pools.pool import target_of

if TYPE_CHECKING:
    from corral.model.storage import Permissions
    from corral.model.storage import Pool as PoolDocument
    from corral.storage.writing import Owner


def build(document: PoolDocument) -> None:
    """Make the directory and those above it, and give it the owner and mode that the document names; blocks."""
    from corral.storage.writing import Owner, own_directory

    directory = target_of(document)
    permissions = document.target.permissions if document.target else None
    try:
        existed = directory.is_dir()
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot create path '{directory}': {error.strerror}", domain=ErrorDomain.STORAGE) from error
    if permissions is None and existed:
        return
    owner = owner_of(permissions, 0o711)
    if existed and permissions is not None and permissions.mode is None:
        owner = Owner(directory.stat().st_mode & 0o7777, owner.uid, owner.gid)
    own_directory(directory, owner)


def remove(directory: Path) -> None:
    """Remove a directory, which must be empty; blocks."""
    try:
        directory.rmdir()
    except OSError as error:
        text = f"failed to remove pool '{directory}': {error.strerror}"
        raise HostError(text, domain=ErrorDomain.STORAGE) from error


def owner_of(permissions: Permissions | None, mode: int) -> Owner:
    """Mode and owner that a document asks for; `mode` when it does not say."""
    from corral.storage.writing import Owner

    if permissions is None:
        return Owner(mode)
    asked = int(permissions.mode, 8) if permissions.mode is not None else mode
    return Owner(
        asked,
        None if permissions.owner in (None, -1) else permissions.owner,
        None if permissions.group in (None, -1) else permissions.group,
    )
