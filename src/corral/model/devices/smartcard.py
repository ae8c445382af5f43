"""Smart card readers. https://libvirt.org/formatdomain.html#smartcard-devices"""

from __future__ import annotations

from typing import Literal

from pydantic_xml import attr, element

from corral.model.devices.chardev import ChardevLog, ChardevSource, Protocol
from corral.model.devices.device import Device


class Smartcard(Device, tag="smartcard"):
    """The host's card (`host`), one made of three certificates in a database of NSS's on the host
    (`host-certificates`), or one that a viewer or a peer lends over a character device (`passthrough`)."""

    mode: Literal["host", "host-certificates", "passthrough"] = attr()
    type: Literal["spicevmc", "tcp", "unix"] | None = attr(default=None)
    certificates: list[str] = element(tag="certificate", default_factory=list)
    database: str | None = element(tag="database", default=None)
    source: ChardevSource | None = element(default=None)
    protocol: Protocol | None = element(default=None)
    log: ChardevLog | None = element(default=None)
