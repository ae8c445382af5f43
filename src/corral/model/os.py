"""What the machine starts: firmware, kernel, boot order. https://libvirt.org/formatdomain.html#operating-system-booting"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.element import Element, YesNo

ImageFormat = Literal["raw", "qcow2"]


class OSType(Element, tag="type"):
    """`hvm`, the architecture and the machine type."""

    arch: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = attr(default=None)
    machine: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.\-]+$")] | None = attr(default=None)
    kind: Literal["hvm"] = "hvm"


class FirmwareFeature(Element, tag="feature"):
    enabled: YesNo = attr()
    name: Literal["enrolled-keys", "secure-boot"] = attr()


class Firmware(Element, tag="firmware"):
    """What an automatically chosen firmware must have."""

    features: list[FirmwareFeature] = element(tag="feature", default_factory=list)


class Loader(Element, tag="loader"):
    """The firmware's code."""

    readonly: YesNo | None = attr(default=None)
    secure: YesNo | None = attr(default=None)
    type: Literal["rom", "pflash"] | None = attr(default=None)
    stateless: YesNo | None = attr(default=None)
    format: ImageFormat | None = attr(default=None)
    path: str | None = None


class NVRAM(Element, tag="nvram"):
    """The firmware's variables: a file of the domain's own, made from `template`."""

    template: str | None = attr(default=None)
    template_format: ImageFormat | None = attr(name="templateFormat", default=None)
    format: ImageFormat | None = attr(default=None)
    path: str | None = None


class BootDevice(Element, tag="boot"):
    dev: Literal["hd", "cdrom", "network", "fd"] = attr()


class BootMenu(Element, tag="bootmenu"):
    """Whether the firmware offers a menu, and for how many milliseconds."""

    enable: YesNo = attr()
    timeout: Annotated[int, Field(ge=0, le=65535)] | None = attr(default=None)


class BIOS(Element, tag="bios"):
    """Firmware messages on the serial port; milliseconds until a reboot when nothing boots (-1: never)."""

    useserial: YesNo | None = attr(default=None)
    reboot_timeout: Annotated[int, Field(ge=-1, le=65535)] | None = attr(name="rebootTimeout", default=None)


class OS(Element, tag="os"):
    """How the guest starts; `firmware='efi'` chooses a loader by itself."""

    firmware: Literal["bios", "efi"] | None = attr(default=None)
    type: OSType = element()
    firmware_info: Firmware | None = element(tag="firmware", default=None)
    loader: Loader | None = element(default=None)
    nvram: NVRAM | None = element(default=None)
    kernel: str | None = element(default=None)
    initrd: str | None = element(default=None)
    cmdline: str | None = element(default=None)
    boots: list[BootDevice] = element(tag="boot", default_factory=list)
    bootmenu: BootMenu | None = element(default=None)
    bios: BIOS | None = element(default=None)
