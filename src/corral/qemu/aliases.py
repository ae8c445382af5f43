"""Aliases: the names by which a running domain's devices are known to QEMU and to clients, as libvirt gives them."""

from __future__ import annotations

from corral.model.domain import Domain


def assign(domain: Domain) -> Domain:
    """A copy in which every device has an alias; those that have one keep it (user aliases `ua-…`, live documents)."""
    raise NotImplementedError
