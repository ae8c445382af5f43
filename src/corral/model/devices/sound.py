"""Sound cards and the host's audio backends. https://libvirt.org/formatdomain.html#sound-devices"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, VirtioOptions
from corral.model.element import Element, Unsigned, YesNo

Positive = Annotated[int, Field(ge=1, le=2**32 - 1)]


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


class AudioSettings(Element, tag="settings"):
    """What the backend is opened with, whatever the guest plays."""

    frequency: Positive | None = attr(default=None)
    channels: Positive | None = attr(default=None)
    format: Literal["s8", "u8", "s16", "u16", "s32", "u32", "f32"] | None = attr(default=None)


class AudioSide(Element):
    """What is recorded from the host, or played there; lengths and latencies in microseconds."""

    mixing_engine: YesNo | None = attr(name="mixingEngine", default=None)
    fixed_settings: YesNo | None = attr(name="fixedSettings", default=None)
    voices: Positive | None = attr(default=None)
    buffer_length: Positive | None = attr(name="bufferLength", default=None)
    dev: str | None = attr(default=None)
    buffer_count: Positive | None = attr(name="bufferCount", default=None)
    try_poll: YesNo | None = attr(name="tryPoll", default=None)
    name: str | None = attr(default=None)
    stream_name: str | None = attr(name="streamName", default=None)
    latency: Positive | None = attr(default=None)
    server_name: str | None = attr(name="serverName", default=None)
    client_name: str | None = attr(name="clientName", default=None)
    connect_ports: str | None = attr(name="connectPorts", default=None)
    exact_name: YesNo | None = attr(name="exactName", default=None)
    settings: AudioSettings | None = element(default=None)


class AudioInput(AudioSide, tag="input"):
    """What the guest hears."""


class AudioOutput(AudioSide, tag="output"):
    """What the guest plays."""


class Audio(Element, tag="audio"):
    """Where sound goes on the host; `model.audio_rules` says what belongs to which type."""

    id: Annotated[int, Field(ge=1)] = attr()
    type: Literal["none", "alsa", "dbus", "file", "jack", "oss", "pipewire", "pulseaudio", "sdl", "spice"] = attr()
    timer_period: Unsigned | None = attr(name="timerPeriod", default=None)
    path: str | None = attr(default=None)
    server_name: str | None = attr(name="serverName", default=None)
    try_mmap: YesNo | None = attr(name="tryMMap", default=None)
    exclusive: YesNo | None = attr(default=None)
    dsp_policy: int | None = attr(name="dspPolicy", default=None)
    input: AudioInput | None = element(default=None)
    output: AudioOutput | None = element(default=None)
