"""The document of a secret. https://libvirt.org/formatsecret.html"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic_xml import attr, element

from corral.model.element import Element, YesNo


class SecretUsage(Element, tag="usage"):
    """What the secret is for, by a name that only one secret of the kind has."""

    type: Literal["volume", "ceph", "iscsi", "tls", "vtpm"] = attr()
    volume: str | None = element(default=None)
    name: str | None = element(default=None)
    target: str | None = element(default=None)

    @property
    def id(self) -> str | None:
        """The name; None where the element that the kind has is missing."""
        return {"volume": self.volume, "iscsi": self.target}.get(self.type, self.name)


class Secret(Element, tag="secret"):
    """A secret without its value: `ephemeral` is never written to disk, `private` is told to no client."""

    ephemeral: YesNo | None = attr(default=None)
    private: YesNo | None = attr(default=None)
    uuid: UUID | None = element(default=None)
    description: str | None = element(default=None)
    usage: SecretUsage | None = element(default=None)
