"""What a host's audio backend may say, by its type; texts are libvirt's where it has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from corral.errors import ConfigUnsupported, CorralError, XMLError
from corral.model.shape import Child, shape_of

if TYPE_CHECKING:
    from corral.model.devices.sound import Audio, AudioSide
    from corral.model.element import Element

Loc = tuple[str | int, ...]
Objection = tuple[Loc, str, type[CorralError]]
"""Where below the backend, what is wrong with it, and as which error it is told."""

#: To which types an attribute belongs: of the backend, and of its two directions. Those not named belong to all.
BACKEND = {
    "path": ("file",),
    "server_name": ("pulseaudio",),
    **dict.fromkeys(("try_mmap", "exclusive", "dsp_policy"), ("oss",)),
}
SIDE = {
    "dev": ("alsa", "oss"),
    "try_poll": ("oss",),
    "buffer_count": ("oss", "sdl"),
    **dict.fromkeys(("name", "stream_name", "latency"), ("pulseaudio", "pipewire")),
    **dict.fromkeys(("server_name", "client_name", "connect_ports", "exact_name"), ("jack",)),
}


def objections(audio: Audio) -> Iterator[Objection]:
    """What is wrong with one backend."""
    yield from _misplaced(audio, audio.type, BACKEND)
    for name, side in (("input", audio.input), ("output", audio.output)):
        if side is not None:
            for loc, message, error in (*_misplaced(side, audio.type, SIDE), *_unsettled(side)):
                yield (name, *loc), message, error


def _misplaced(element: Element, kind: str, belongs: Mapping[str, tuple[str, ...]]) -> Iterator[Objection]:
    for field, kinds in belongs.items():
        if getattr(element, field) is not None and kind not in kinds:
            written = shape_of(type(element)).fields[field]
            name = written.tag if isinstance(written, Child) else written.name
            yield (field,), f"'{name}' does not belong to audio of type '{kind}'", ConfigUnsupported


def _unsettled(side: AudioSide) -> Iterator[Objection]:
    if side.settings is not None and side.fixed_settings != "yes":
        yield ("settings",), "audio settings specified without fixed settings flag", ConfigUnsupported
    if side.fixed_settings == "yes" and side.mixing_engine == "no":
        yield ("fixed_settings",), "fixed audio settings requires mixing engine", ConfigUnsupported


def twice(audios: list[Audio]) -> Iterator[tuple[int, str, type[CorralError]]]:
    """Backends of one number: the position of the later one."""
    for position, audio in enumerate(audios):
        if audio.id in [each.id for each in audios[:position]]:
            yield position, f"audio ID {audio.id} is used multiple times", XMLError
