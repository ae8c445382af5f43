"""Defaults: everything that libvirt fills in when a domain is defined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.model.domain import Domain
from corral.qemu.binary import Binary


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the host adds to a definition.

    `kvm`: KVM may be used (`<domain type='kvm'>` is refused otherwise, with `kvm_reason`).
    `firmwares`: the host's UEFI firmware in order of preference (descriptors, docs/interop/firmware.json of QEMU).
    `nvram_dir`: where a domain's variable store goes: `nvram_dir/NAME_VARS.fd`.
    """

    kvm: bool
    kvm_reason: str = ""
    firmwares: Sequence[object] = ()
    nvram_dir: Path


def complete(domain: Domain, binary: Binary, host: Host) -> Domain:
    """A copy with everything filled in: ids, machine, implied devices, addresses. Idempotent.

    Raises ConfigUnsupported for what the binary or the host lacks, XMLError for what contradicts itself.
    """
    raise NotImplementedError
