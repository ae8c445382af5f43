"""Sound cards and the host's audio backends."""

from __future__ import annotations

import json

from corral.errors import ConfigUnsupported
from corral.model.devices.sound import Audio, AudioSide, Sound
from corral.qemu.context import Context, Properties, alias, given, switch, virtio_options
from corral.qemu.runtime import Part

HDA = {"ich6": "intel-hda", "ich9": "ich9-intel-hda"}
CODECS = {"duplex": "hda-duplex", "micro": "hda-micro", "output": "hda-output"}
CARDS = {"ac97": "AC97", "es1370": "ES1370", "sb16": "sb16", "usb": "usb-audio"}

#: QEMU's names of backends that libvirt calls otherwise.
DRIVERS = {"file": "wav", "pulseaudio": "pa"}
KINDS = {driver: kind for kind, driver in DRIVERS.items()}
SWITCHES = {"mixing_engine", "fixed_settings", "try_poll", "exact_name"}


def parts(sound: Sound, context: Context) -> list[Part]:
    """The card, then its codecs; nothing for the PC speaker, which is the machine's own."""
    card, backend = alias(sound), audiodev(sound, context)
    if sound.model == "pcspk":
        return []
    if sound.model in HDA:
        codecs = [codec.type for codec in sound.codecs] or ["duplex"]
        return [
            Part("device", card, {"driver": context.driver(HDA[sound.model])} | context.place(sound)),
            *(
                Part(
                    "device",
                    f"{card}-codec{number}",
                    {"driver": context.driver(CODECS[codec]), "bus": f"{card}.0", "cad": number, "audiodev": backend},
                )
                for number, codec in enumerate(codecs)
            ),
        ]
    if sound.model == "virtio":
        props: Properties = {"driver": context.virtio("virtio-sound", None)} | given(streams=sound.streams)
        props |= virtio_options(sound.driver)
    else:
        props = {"driver": context.driver(CARDS[sound.model])}
        if sound.multichannel is not None and sound.model == "usb":
            props["multi"] = sound.multichannel == "yes"
    return [Part("device", card, props | {"audiodev": backend} | context.place(sound))]


def audiodev(sound: Sound, context: Context) -> str:
    """The id of the backend that the card plays to."""
    known = [audio.id for audio in context.domain.devices.audios]
    chosen = sound.audio.id if sound.audio is not None else known[0] if known else 1
    if chosen not in known:
        raise ConfigUnsupported(f"unable to find audio backend for sound device: no <audio id='{chosen}'>")
    return f"audio{chosen}"


def options(audio: Audio, context: Context) -> list[tuple[str, ...]]:
    """One backend (QEMU's QAPI reference, Audiodev)."""
    driver = DRIVERS.get(audio.type, audio.type)
    if driver not in context.binary.audiodevs:
        raise ConfigUnsupported(
            f"{audio.type} audio is not supported with QEMU binary '{context.binary.path}'",
            hint=f"it has {', '.join(sorted(KINDS.get(name, name) for name in context.binary.audiodevs)) or 'none'}",
        )
    if audio.type == "file" and audio.path is None:
        raise ConfigUnsupported("audio of type 'file' needs a path, for the WAV file that is played to")
    props = given({"id": f"audio{audio.id}", "driver": driver, "timer-period": audio.timer_period, "path": audio.path})
    props |= given({"server": audio.server_name, "try-mmap": switch(audio.try_mmap)})
    props |= given({"exclusive": switch(audio.exclusive), "dsp-policy": audio.dsp_policy})
    props |= given({"in": _side(audio.input), "out": _side(audio.output)})
    return [("-audiodev", json.dumps(props, separators=(",", ":")))]


def _side(side: AudioSide | None) -> Properties | None:
    """One direction: QEMU's names are ours with dashes, and the settings are beside the rest."""
    if side is None:
        return None
    said = side.to_data()
    said |= said.pop("settings", None) or {}
    found = {
        name.replace("_", "-"): switch(value) if value in ("yes", "no") and name in SWITCHES else value
        for name, value in said.items()
    }
    return found or None
