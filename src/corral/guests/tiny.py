"""A Linux guest of a few megabytes: Debian's kernel, busybox and the QEMU guest agent, built on the user's machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from corral.model.domain import Domain


@dataclass(frozen=True, slots=True)
class Tiny:
    """The guest's files, and the kernel command line that they need."""

    kernel: Path
    initrd: Path
    cmdline: str


async def build(cache: Path | None = None, progress: Callable[[str], None] | None = None) -> Tiny:
    """The guest from the cache, or built now (half a minute, mostly the download); `progress` gets one line a step.

    `cache` defaults to $XDG_CACHE_HOME/corral, /var/cache/corral for root. Raises OperationFailed with a hint.
    """
    raise NotImplementedError


def document(
    name: str,
    *,
    tiny: Tiny,
    cpus: int = 1,
    memory_kib: int = 256 * 1024,
    max_cpus: int | None = None,
    kvm: bool = False,
    uuid: UUID | None = None,
) -> Domain:
    """A domain that boots the guest: serial console, agent channel, virtio user network, rng."""
    raise NotImplementedError
