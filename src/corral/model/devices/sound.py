"""Sound cards and the host's audio backends. https://libvirt.org/formatdomain.html#sound-devices"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element, Unsigned, YesNo


class Codec(Element, tag="codec"):
    type: Literal["duplex", "micro", "output"] = attr()


class SoundAudio(Element, tag="audio"):
    """The id of the `<audio>` backend that the card plays to."""

    id: Unsigned = attr()


class Sound(Device, tag="sound"):
    """A sound card."""

    model: Literal["es1370", "sb16", "pcspk", "ac97", "ich6", "ich9", "usb", "virtio"] = attr()
    multichannel: YesNo | None = attr(default=None)
    streams: Annotated[int, Field(ge=1)] | None = attr(default=None)
    codecs: list[Codec] = element(tag="codec", default_factory=list)
    audio: SoundAudio | None = element(default=None)
    driver: VirtioOptions | None = element(default=None)

    last: ClassVar[tuple[str, ...]] = ("driver",)


class Audio(Element, tag="audio"):
    """Where sound goes on the host."""

    id: Annotated[int, Field(ge=1)] = attr()
    type: Literal["none", "spice", "dbus"] = attr()
    timer_period: Unsigned | None = attr(name="timerPeriod", default=None)
