"""What displays, video cards and the channels beside them may say together; texts are libvirt's where it has one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from corral.errors import ConfigUnsupported, CorralError, InternalError, XMLError
from corral.model.devices.graphics import Graphics
from corral.model.devices.video import Video
from corral.model.domain import Devices
from corral.model.memory import MemoryBacking
from corral.model.shape import Child, shape_of

Loc = tuple[str | int, ...]
Objection = tuple[Loc, str, type[CorralError]]
"""Where below the devices, what is wrong with it, and as which error it is told."""

SERVERS = ("vnc", "spice")
"""The types that listen for clients."""
SPICE_ENDS = ("spicevmc", "spiceport")
"""The types of character devices whose other end is a SPICE client."""
VNC_PASSWORD_LIMIT = 8
"""Characters that the protocol looks at (RFC 6143, 7.2.2)."""
SMALLEST_FRAMEBUFFER = 1024
"""KiB."""

#: To which types an attribute or element belongs; those not named belong to all.
BELONGS = {
    **dict.fromkeys(("port", "autoport", "listen", "listens", "keymap"), SERVERS),
    **dict.fromkeys(("passwd", "passwd_valid_to", "connected"), SERVERS),
    **dict.fromkeys(("websocket", "socket", "share_policy", "power_control"), ("vnc",)),
    **dict.fromkeys(("tls_port", "default_mode", "channels", "image", "jpeg", "zlib"), ("spice",)),
    **dict.fromkeys(("playback", "streaming", "mouse", "clipboard", "filetransfer"), ("spice",)),
    **dict.fromkeys(("address", "p2p"), ("dbus",)),
    "gl": ("spice", "egl-headless", "dbus"),
    "audio": ("vnc", "dbus"),
}


def objections(devices: Devices, memory: MemoryBacking | None) -> Iterator[Objection]:
    """What is wrong with the displays and cards of a document."""
    kinds = [display.type for display in devices.graphics]
    audios = [audio.id for audio in devices.audios]
    for position, display in enumerate(devices.graphics):
        for loc, message, cls in of_display(display):
            yield ("graphics", position, *loc), message, cls
        if display.type in kinds[:position]:
            message = f"only 1 graphics device of each type ({', '.join(SERVERS)}, …) is supported"
            yield ("graphics", position), message, ConfigUnsupported
        if display.audio is not None and audios and display.audio.id not in audios:
            yield ("graphics", position, "audio"), f"no audio device with ID {display.audio.id}", XMLError
    if "spice" not in kinds:
        yield from _without_spice(devices)
    for loc, message, cls in _videos(devices.videos, memory):
        yield ("videos", *loc), message, cls


def _without_spice(devices: Devices) -> Iterator[Objection]:
    """What only a SPICE client is the other end of."""
    for family in ("channels", "serials", "parallels", "consoles", "redirdevs", "smartcards"):
        for position, device in enumerate(getattr(devices, family)):
            if device.type in SPICE_ENDS:
                yield (family, position), without_spice(device.type), ConfigUnsupported
    for position, audio in enumerate(devices.audios):
        if audio.type == "spice":
            yield ("audios", position), "Spice audio is not supported without spice graphics", ConfigUnsupported


def without_spice(kind: str) -> str:
    """Why a character device of a type in SPICE_ENDS is refused."""
    return f"chardev '{kind}' not supported without spice graphics"


def of_display(display: Graphics) -> Iterator[Objection]:
    """What is wrong with one display; places are below it."""
    for field, types in BELONGS.items():
        if getattr(display, field) not in (None, []) and display.type not in types:
            written = shape_of(Graphics).fields[field]
            name = written.tag if isinstance(written, Child) else written.name
            yield (field,), f"'{name}' does not belong to graphics of type '{display.type}'", ConfigUnsupported
    if display.type == "vnc":
        if display.passwd is not None and len(display.passwd) > VNC_PASSWORD_LIMIT:
            length = f"{len(display.passwd)} characters long, only {VNC_PASSWORD_LIMIT} permitted"
            yield ("passwd",), f"VNC password is {length}", ConfigUnsupported
        if display.connected not in (None, "keep"):
            yield ("connected",), "VNC supports connected='keep' only", ConfigUnsupported
    if display.passwd_valid_to is not None:
        try:
            valid_to(display)
        except InternalError as error:
            yield ("passwd_valid_to",), error.detail, InternalError
    if display.p2p == "yes" and display.address is not None:
        yield ("address",), "D-Bus p2p with an address is not supported", XMLError
    if display.type == "spice" and display.gl is not None and display.gl.enable is None:
        yield ("gl",), "Missing required attribute 'enable' in element 'gl'", XMLError
    if display.type == "egl-headless" and display.gl is not None and display.gl.enable is not None:
        yield ("gl", "enable"), "OpenGL is what egl-headless is for: leave enable='…' out", ConfigUnsupported


def valid_to(display: Graphics) -> int | None:
    """Until when the password is good, in seconds since 1970; None: for ever. InternalError for what is no time."""
    if display.passwd_valid_to is None:
        return None
    try:
        moment = datetime.strptime(display.passwd_valid_to, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        told = f"'{display.passwd_valid_to}', expect YYYY-MM-DDTHH:MM:SS"
        raise InternalError(f"cannot parse password validity time {told}") from None
    return int(moment.replace(tzinfo=UTC).timestamp())


def _videos(videos: list[Video], memory: MemoryBacking | None) -> Iterator[Objection]:
    models = [video.model.type for video in videos if video.model is not None]
    if "none" in models and len(videos) > 1:
        message = "a 'none' video type must be the only video device defined for the domain"
        yield (models.index("none"),), message, ConfigUnsupported
    primary = [number for number, video in enumerate(videos) if video.model and video.model.primary == "yes"]
    if len(primary) > 1:
        yield (primary[1],), "Only one primary video device is supported", ConfigUnsupported
    shared = memory is not None and memory.source is not None and memory.source.type == "memfd"
    for number, video in enumerate(videos):
        yield from ((((number, "model", *loc)), message, cls) for loc, message, cls in _card(video, shared))


def _card(video: Video, shared: bool) -> Iterator[Objection]:
    model = video.model
    if model is None:
        return
    kind = model.type
    if (model.heads or 1) > 1 and kind not in ("qxl", "virtio"):
        yield ("heads",), f"video type '{kind}' doesn't support multiple 'heads'", ConfigUnsupported
    if model.blob is not None and kind != "virtio":
        yield ("blob",), f"video type '{kind}' does not support blob resources", ConfigUnsupported
    if model.blob == "on" and not shared:
        message = "'blob' support for virtio-gpu devices requires a memfd memory backend"
        yield ("blob",), message, ConfigUnsupported
    for field in ("ram", "vram64", "vgamem"):
        if getattr(model, field) is not None and kind != "qxl":
            yield (field,), f"{field} attribute only supported for video type qxl", XMLError
    if model.vgamem is not None:
        if model.vgamem < SMALLEST_FRAMEBUFFER:
            yield ("vgamem",), "value for 'vgamem' must be at least 1 MiB (1024 KiB)", ConfigUnsupported
        if model.vgamem & (model.vgamem - 1):
            yield ("vgamem",), "value for 'vgamem' must be power of two", ConfigUnsupported
    if kind in ("vga", "vmvga") and model.vram is not None and 0 < model.vram < SMALLEST_FRAMEBUFFER:
        yield ("vram",), "value for 'vgamem' must be at least 1 MiB (1024 KiB)", ConfigUnsupported
    accelerated = model.acceleration
    if accelerated is not None and accelerated.accel3d == "yes" and kind != "virtio":
        yield ("acceleration",), f"{kind} 3d acceleration is not supported", ConfigUnsupported
    if accelerated is not None and accelerated.accel2d == "yes":
        yield ("acceleration", "accel2d"), f"{kind} 2d acceleration is not supported", ConfigUnsupported
