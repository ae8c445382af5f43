"""USB hubs and redirected USB devices. https://libvirt.org/formatdomain.html#redirected-devices"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_xml import attr, element

from corral.model.devices.chardev import ChardevLog, ChardevSource, Protocol
from corral.model.devices.device import BootableDevice, Device
from corral.model.element import Element, Hex, YesNo


class Hub(Device, tag="hub"):
    """A USB hub of eight ports."""

    type: Literal["usb"] = attr(default="usb")


class Redirdev(BootableDevice, tag="redirdev"):
    """A USB port that a SPICE client, or a usbredir peer, fills."""

    bus: Literal["usb"] = attr(default="usb")
    type: Literal["spicevmc", "tcp", "unix", "null"] = attr(default="spicevmc")
    source: ChardevSource | None = element(default=None)
    protocol: Protocol | None = element(default=None)
    log: ChardevLog | None = element(default=None)


USBClass = Annotated[int, Hex(2, upper=True, wild=True), Field(ge=0, le=0xFF)]
USBNumber = Annotated[int, Hex(4, upper=True, wild=True), Field(ge=0, le=0xFFFF)]


class RedirRule(Element, tag="usbdev"):
    """Which devices may be redirected: what is left out, or -1 in XML, fits every device. `version` is `2.00`."""

    device_class: USBClass | None = attr(name="class", default=None)
    vendor: USBNumber | None = attr(default=None)
    product: USBNumber | None = attr(default=None)
    version: Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]{1,2}$")] | None = attr(default=None)
    allow: YesNo = attr()

    @model_validator(mode="before")
    @classmethod
    def _any(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        said = {name: value for name, value in data.items() if value not in (-1, "-1")}
        if "version" in said and isinstance(said["version"], str):
            said["version"] = _padded(said["version"])
        return said


def _padded(version: str) -> str:
    """`1.1` is `1.10`, as libvirt writes it."""
    major, point, minor = version.partition(".")
    return f"{major}.{minor.ljust(2, '0')}" if point and minor else version


class RedirFilter(Element, tag="redirfilter"):
    """The rules in order; the first that fits decides, and a device that fits none stays out."""

    rules: list[RedirRule] = element(tag="usbdev", default_factory=list)
