"""What the host and its emulators offer, as libvirt's two capability documents.

Both are functions of what `corral.host` and `corral.qemu.binary` found; they read nothing themselves. Schemas:
capability.rng and domaincaps.rng; meaning: libvirt's formatcaps and formatdomaincaps pages.
"""

from __future__ import annotations

from collections.abc import Iterable

from corral.host.kvm import KVM
from corral.host.node import Host
from corral.qemu.binary import Binary


def capabilities_xml(host: Host, binaries: Iterable[Binary], kvm: KVM, *, allow_slow_kvm: bool = False) -> str:
    """The host's capabilities and a guest entry for each architecture."""
    raise NotImplementedError


def domain_capabilities_xml(
    binary: Binary,
    arch: str | None = None,
    machine: str | None = None,
    virttype: str | None = None,
    kvm: KVM | None = None,
    *,
    host: Host | None = None,
    allow_slow_kvm: bool = False,
) -> str:
    """What a domain on this binary, machine and accelerator may have.

    Raises InvalidArgument for an architecture, machine or accelerator that the binary does not serve here.
    """
    raise NotImplementedError
